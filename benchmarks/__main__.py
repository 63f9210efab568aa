"""``python -m benchmarks [NAME ...] [--runs N] [--only TEXT]``: measure and print tables. A name is a file of this folder."""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path

from benchmarks.harness import compare, table

ALL = (
    "start",
    "score",
    "memory",
    "impute",
    "translate",
    "nuclei",
    "qpdata",
    "exchange",
    "omero_pixels",
    "omero_objects",
)
"""The benchmarks that a plain call runs, in this order (the quick ones first)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones (else {', '.join(ALL)})")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each case")
    parser.add_argument(
        "--only", default="", help="only the cases with this text in their name; nothing is checked then"
    )
    options = parser.parse_args()
    strange = sorted(set(options.names) - set(ALL))
    if strange:
        parser.error(f"no benchmark {', '.join(strange)}; there is: {', '.join(ALL)}")
    for name in options.names or ALL:
        run(name, options.runs, options.only)


def run(name: str, runs: int, only: str) -> None:
    benchmark = importlib.import_module(f"benchmarks.{name}")
    with tempfile.TemporaryDirectory(prefix="mxbridge-bench-") as scratch:
        cases = [case for case in benchmark.cases(Path(scratch)) if only in case.name]
        if not cases:
            return
        print(table(benchmark.TITLE, compare(cases, runs), runs, cases), flush=True)
        if not only and hasattr(benchmark, "check"):
            print("\n".join(benchmark.check(Path(scratch))) + "\n", flush=True)


if __name__ == "__main__":
    main()
