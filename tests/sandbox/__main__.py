"""Runs a script, by default get_user.py, in the sandbox."""

import argparse
import signal
import subprocess
import sys
import traceback

from . import Sandbox

APPROVED = "Do not enter the code anywhere, it is approved by itself in a few seconds."
REFUSED = "Device codes are refused; in a browser, the sign-in is approved by itself."


def main() -> int:
    """Run the script and return its exit status: 128 + N if signal N ended it, as in a shell."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Run a script that signs in with Microsoft against a sandbox on this machine.",
    )
    parser.add_argument("--no-device-codes", action="store_true", help="a tenant that blocks them")
    parser.add_argument("script", nargs="?", default="get_user.py", help="by default get_user.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script is given")
    options = parser.parse_args()

    notice = REFUSED if options.no_device_codes else APPROVED
    print("This is a sandbox: nobody is really signed in.", notice, file=sys.stderr, flush=True)
    # An exception makes subprocess.call kill the script.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with Sandbox(device_codes=not options.no_device_codes) as sandbox:
            command = [sys.executable, options.script, *options.arguments]
            status = subprocess.call(command, env=sandbox.environment)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:  # noqa: BLE001, whatever it is
        traceback.print_exc()
        print("This is an error in the sandbox, not in", options.script, file=sys.stderr)
        return 70  # EX_SOFTWARE of sysexits.h
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
