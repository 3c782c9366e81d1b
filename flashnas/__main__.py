"""`flashnas`, and `python -m flashnas`."""

import sys


def main() -> int:
    """Run one command; returns the exit code. Ctrl-C while the modules are loaded is one line, as
    it is later.
    """
    try:
        from flashnas.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("\nflashnas: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
