"""MAXIM's published program on one image: its own ``Trainer.eval``, which is its only way to impute.

``python maxim.py CHECKOUT CSV CHECKPOINT OUT PANEL TARGET SIZE``. CHECKOUT is a checkout of its repository (``peers.source``), CSV
names the image (``.npy``, (c, y, x), uint8), PANEL its markers, in upper case and separated by commas; all but TARGET are inputs.
Writes OUT/test_SIZE_SIZE/<image>.npy: the real and the imputed image, float32, 0..1, not padded.

It was written for numpy 1.21 and torch 1.13, of which there is none for today's Python. Nothing of it is changed but this:
``np.Inf`` is named again; what evaluation does beyond imputing (its metrics) is left out; captum, torchvision, scikit-image and
scipy are not imported, because nothing of them is needed then. All of it makes the program faster.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from stand_ins import one_after_the_other, put

BASELINE = ("MAE", "MSE", "SSIM", "PSNR", "RMSE")
METRICS = (*BASELINE, "Corr", "p-value")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("checkout", "csv", "checkpoint", "out", "panel", "target"):
        parser.add_argument(name)
    parser.add_argument("size", type=int)
    given = parser.parse_args()
    stand_in()
    sys.path.insert(0, given.checkout)
    import numpy as np

    vars(np)["Inf"] = np.inf
    from maxim import Trainer

    Trainer.pixel_metrics = staticmethod(no_metrics)
    panel = given.panel.split(",")
    trainer = Trainer(panel, [name for name in panel if name != given.target], [given.target], given.out)
    shutil.copyfile(given.checkpoint, Path(given.out) / "checkpoint.pt")
    trainer.eval(given.csv, split_name="test", img_size=given.size, batch_size=1, num_workers=0)


def no_metrics(*_: Any, baseline: bool = False, **__: Any) -> dict[str, float]:
    return dict.fromkeys(BASELINE if baseline else METRICS, 0.0)


def stand_in() -> None:
    """Modules of this name with what the program names at its imports."""
    names: dict[str, dict[str, Any]] = {
        "captum": {},
        "captum.attr": {"IntegratedGradients": None},
        "torchvision": {},
        "torchvision.transforms": {"Compose": one_after_the_other, "CenterCrop": whole},
        "scipy": {"stats": None},
        "skimage": {},
        "skimage.metrics": {"structural_similarity": None},
    }
    put(names)


def whole(size: int) -> Any:
    """A centre crop that has nothing to crop: the image was padded to ``size`` before."""

    def crop(image: Any) -> Any:
        if tuple(image.shape[-2:]) != (size, size):
            raise SystemExit(f"the image of {tuple(image.shape)} does not fit into {size} x {size}")
        return image

    return crop


if __name__ == "__main__":
    main()
