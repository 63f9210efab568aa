"""How long the program takes to say anything."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.harness import Bar, Case

TITLE = "Start"


def cases(folder: Path) -> list[Case]:
    mxbridge = [sys.executable, "-m", "mxbridge"]
    return [
        Case("mxbridge --help", [*mxbridge, "--help"], bars=(Bar("cpu", 0.5),)),
        Case("mxbridge score --help", [*mxbridge, "score", "--help"]),
        Case("mxbridge models list", [*mxbridge, "models", "list"]),
    ]
