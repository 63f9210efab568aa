"""What the benchmark of translation works on: a real IHC picture made larger by mirroring, and random networks of the published size.

``python -m benchmarks.ihc FOLDER`` writes the networks (1.5 GB), in a process of its own, so that a benchmark that only starts
commands imports no torch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SEED = 20240501
SIDE = 512
"""Of the picture (scikit-image's ``ihc.png``), and of a window of the networks."""
OPTIONS = {
    "model": "DeepLIIF", "modalities_no": 4, "seg_no": 1, "seg_gen": True, "input_no": 1, "input_nc": 3, "output_nc": 3,
    "net_g": "resnet_9blocks", "netG": "resnet_9blocks", "net_gs": "unet_512", "norm": "batch", "padding": "zero",
    "upsample": "convtranspose", "no_dropout": False, "ngf": 64, "ndf": 64, "netD": "n_layers", "n_layers_D": 4,
    "init_type": "normal", "init_gain": 0.02, "scale_size": SIDE, "load_size": SIDE, "crop_size": SIDE, "gpu_ids": "(0,)",
    "preprocess": "resize_and_crop", "dataset_mode": "aligned", "direction": "AtoB", "checkpoints_dir": "./checkpoints",
    "dataroot": "./data", "name": "random", "phase": "train", "load_iter": 0, "continue_train": False, "verbose": False,
    "gan_mode": "vanilla", "gan_mode_s": "lsgan", "is_train": True, "batch_size": 1, "beta1": 0.5, "epoch_count": 0,
    "remote_transfer_cmd": None,
}  # fmt: skip
"""What the published program asks of ``train_opt.txt``."""


def picture(folder: Path, side: int) -> Path:
    """The picture, mirrored until it fills ``side`` x ``side`` px; RGB PNG without a pixel size."""
    path = folder / f"ihc-{side}.png"
    if not path.exists():
        import numpy as np
        from PIL import Image
        from skimage.data import immunohistochemistry

        tissue = immunohistochemistry()
        more = side - SIDE
        Image.fromarray(np.pad(tissue, ((0, more), (0, more), (0, 0)), "symmetric")).save(path)
    return path


def slide(folder: Path, side: int) -> Path:
    """The picture side by side until it fills ``side`` x ``side`` px at 0.5 µm: an OME-TIFF with JPEG tiles and no pyramid."""
    path = folder / f"slide-{side}.ome.tif"
    if not path.exists():
        import tifffile
        from skimage.data import immunohistochemistry

        tissue = immunohistochemistry()
        size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
        tifffile.imwrite(
            path,
            (tissue for _ in range((side // SIDE) ** 2)),
            shape=(side, side, 3),
            dtype="uint8",
            bigtiff=True,
            ome=True,
            metadata={"axes": "YXS", **size},
            tile=(SIDE, SIDE),
            compression="jpeg",
            photometric="rgb",
        )
    return path


def random_model(folder: Path) -> Path:
    """A folder as the published program wants it: nine networks of the published width, and its options."""
    model = folder / "model"
    if not (model / "train_opt.txt").exists():
        model.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "benchmarks.ihc", str(model)], check=True)
    return model


def _write(model: Path) -> None:
    import torch

    from mxbridge.networks.resnet_generator import ResnetGenerator, ResnetOptions
    from mxbridge.networks.unet_generator import UnetGenerator, UnetOptions

    torch.manual_seed(SEED)
    for name in ("G1", "G2", "G3", "G4", "G51", "G52", "G53", "G54", "G55"):
        network = ResnetGenerator(ResnetOptions()) if len(name) == 2 else UnetGenerator(UnetOptions())
        weights = network.state_dict()
        for key, values in list(weights.items()):
            if values.dim() == 4:
                values.normal_(0, 0.02)
            elif key.endswith("weight"):
                values.normal_(1, 0.02)
                norm = key.removesuffix("weight")  # the published program wants these, and never uses them
                weights[f"{norm}running_mean"], weights[f"{norm}running_var"] = (
                    torch.zeros_like(values),
                    torch.ones_like(values),
                )
                weights[f"{norm}num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
        torch.save(weights, model / f"latest_net_{name}.pth")
    lines = [f"{key:>25}: {value}" for key, value in sorted(OPTIONS.items())]
    text = "\n".join(["----------------- Options ---------------", *lines, "----------------- End -------------------"])
    (model / "train_opt.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
