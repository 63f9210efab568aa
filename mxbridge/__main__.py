"""``python -m mxbridge`` and the console script: runs the command line, turns errors into one line and an exit code."""

from __future__ import annotations

from mxbridge.cli.app import main

if __name__ == "__main__":
    main()
