"""DeepLIIF as published on one image: its own ``infer_modalities``, and its PNGs and JSON as its command writes them.

``python deepliif.py CHECKOUT MODEL IMAGE OUT TILE [--seg-only]``. CHECKOUT is a checkout of its repository (``peers.source``),
MODEL a folder with its eager files (``latest_net_G1.pth`` ... and ``train_opt.txt``).

Nothing of it is changed. Its modules import much that inference does not use; what cannot be installed beside today's torch, or
needs Java, is replaced by empty modules (bioformats, javabridge, dominate, zarr, torchvision's models), and the three steps of
torchvision that it does use (``Compose``, ``ToTensor``, ``Normalize``, with ``Lambda``) by the same arithmetic. That saves it imports.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stand_ins import one_after_the_other, put


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("checkout", "model", "image", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("tile", type=int)
    parser.add_argument("--seg-only", action="store_true")
    given = parser.parse_args()
    stand_in()
    sys.path.insert(0, str(given.checkout))
    from deepliif.models import infer_modalities
    from deepliif.options import Options
    from PIL import Image

    options = Options(path_file=str(given.model / "train_opt.txt"), mode="test")
    options.use_dp, options.BtoA, options.epoch, options.gpu_ids = False, False, "latest", []
    picture = Image.open(given.image).convert("RGB")
    images, scoring = infer_modalities(
        picture,
        given.tile,
        str(given.model),
        eager_mode=True,
        opt=options,
        seg_only=given.seg_only,
        seg_weights=options.seg_weights,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(given.out / f"{given.image.stem}_{name}.png")
    with (given.out / f"{given.image.stem}.json").open("w", encoding="utf-8") as stream:
        json.dump(scoring, stream, indent=2)


def stand_in() -> None:
    """Modules of this name with what the program names at its imports."""
    names: dict[str, dict[str, Any]] = {
        "bioformats": {},
        "bioformats.omexml": {},
        "dominate": {},
        "dominate.tags": dict.fromkeys(("meta", "h3", "table", "tr", "td", "p", "a", "img", "br")),
        "javabridge": {},
        "torchvision": {},
        "torchvision.models": {},
        "torchvision.transforms": {
            "Compose": one_after_the_other,
            "Lambda": lambda step: step,
            "Normalize": normalize,
            "ToTensor": lambda: to_tensor,
        },
        "zarr": {},
    }
    put(names)


def to_tensor(image: Any) -> Any:
    """uint8 ``(y, x, c)`` picture -> float32 ``(c, y, x)`` 0..1."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def normalize(mean: tuple[float, ...], deviation: tuple[float, ...]) -> Any:
    import torch

    centre, width = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (mean, deviation))
    return lambda tensor: (tensor - centre) / width


if __name__ == "__main__":
    main()
