"""Runs a script, by default get_user.py, in the sandbox."""

import argparse
import signal
import subprocess
import sys

from . import Sandbox

NOTICE = (
    "This is a sandbox: nobody is really signed in. "
    "Do not enter the code anywhere, it is approved by itself in a few seconds."
)


def main() -> int:
    """Runs the script and returns its exit status: 128 + N if signal N ended it, as in a shell."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Run a script that signs in with Microsoft against a sandbox on this machine.",
    )
    parser.add_argument("script", nargs="?", default="get_user.py", help="by default get_user.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script is given")
    options = parser.parse_args()

    print(NOTICE, file=sys.stderr, flush=True)
    for name in {"SIGHUP", "SIGTERM"} & set(dir(signal)):
        signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
    try:
        with Sandbox() as sandbox:
            return run([sys.executable, options.script, *options.arguments], sandbox.environment)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def run(command: list[str], environment: dict[str, str]) -> int:
    """Runs a command, no longer than this process lives, and returns its exit status."""
    child = subprocess.Popen(command, env=environment)
    try:
        status = child.wait()
    finally:
        # Ctrl-C in a terminal reaches the child too, a signal to this process alone does not.
        child.kill()
        child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
