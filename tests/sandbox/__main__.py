"""Runs a script, by default get_user.py, in the sandbox."""

import argparse
import signal
import subprocess
import sys

from . import Sandbox


def main() -> int:
    """Run the script and return its exit status: 128 + N if signal N ended it, as in a shell."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("--no-device-codes", action="store_true", help="a tenant that blocks them")
    parser.add_argument("script", nargs="?", default="get_user.py")
    options = parser.parse_args()

    says = "This is a sandbox: nobody is really signed in. Do not enter a code anywhere, just wait."
    print(says, file=sys.stderr)
    try:
        with Sandbox(device_codes=not options.no_device_codes) as sandbox:
            status = subprocess.call([sys.executable, options.script], env=sandbox.environment)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
