"""``python -m benchmarks [--runs N] [--size PX]``: run every benchmark and print its table."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import score
from benchmarks.harness import compare, table

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--runs", type=int, default=5, help="counted runs of each case")
parser.add_argument("--size", type=int, default=1024, help="side of the scored field in pixels")
options = parser.parse_args()
with tempfile.TemporaryDirectory(prefix="mxbridge-bench-") as scratch:
    figures = compare(score.cases(Path(scratch), options.size), options.runs)
    print(table("mxbridge score, full-width network", figures, options.runs))
    sizes = tuple(options.size * factor for factor in (2, 4, 8))
    figures = compare(score.growing(Path(scratch), sizes), options.runs)
    print(table("mxbridge score, growing fields", figures, options.runs))
