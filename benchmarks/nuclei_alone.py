"""Nuclei of one segmentation picture, score and both pictures, in a process of its own.

``python -m benchmarks.nuclei_alone SEG ORIGINAL REPORT``. REPORT (JSON) says the score and how many CPU seconds that took, without
imports and reading.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.imputing import cpu_seconds


def main() -> None:
    seg, original, report = map(Path, sys.argv[1:])
    import numpy as np
    from PIL import Image

    from mxbridge.nuclei.find import find_nuclei
    from mxbridge.nuclei.judge import judge, score
    from mxbridge.nuclei.pictures import pictures
    from mxbridge.nuclei.source import ArraySource
    from mxbridge.nuclei.thresholds import Thresholds, size_limits

    Image.MAX_IMAGE_PIXELS = None
    planes = [
        np.ascontiguousarray(np.moveaxis(np.asarray(Image.open(p).convert("RGB")), 2, 0)) for p in (seg, original)
    ]
    before = cpu_seconds()
    source, thresholds = ArraySource(planes[0]), Thresholds()
    nuclei = find_nuclei(source, thresholds)
    judged = judge(nuclei, thresholds, size_limits(resolution="40x"))
    pictures(source, nuclei, judged, planes[1])
    took = cpu_seconds() - before
    report.write_text(json.dumps({"cpu": took, "score": score(nuclei, judged).peer()}), encoding="utf-8")


if __name__ == "__main__":
    main()
