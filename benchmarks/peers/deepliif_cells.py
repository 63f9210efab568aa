"""DeepLIIF's post-processing as published on one segmentation picture: ``compute_final_results``, without a marker image.

``python deepliif_cells.py CHECKOUT SEG ORIGINAL REPORT``. REPORT (JSON) says the score, and the CPU seconds of a first call, in
which numba compiles, and of a second one; imports and reading are left out.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path


def main() -> None:
    checkout, seg, original, report = map(Path, sys.argv[1:])
    sys.path.insert(0, str(checkout / "deepliif"))  # its package imports what only its networks need
    from PIL import Image
    from postprocessing import compute_final_results

    Image.MAX_IMAGE_PIXELS = None
    pictures = [Image.open(path).convert("RGB") for path in (original, seg)]
    for picture in pictures:
        picture.load()
    marks = [cpu_seconds()]
    for _ in range(2):
        _, _, score = compute_final_results(*pictures, None, "40x")
        marks.append(cpu_seconds())
    report.write_text(json.dumps({"first": marks[1] - marks[0], "second": marks[2] - marks[1], "score": score}))


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
