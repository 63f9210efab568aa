"""Small model folders as the published program writes them, with random weights."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "networks"))
from plain_generators import plain_resnet, plain_unet

OPTIONS = {"model": "DeepLIIF", "modalities_no": 4, "padding": "zero", "scale_size": 256, "gpu_ids": "(0,)"}


def make_net(name: str) -> nn.Module:
    """A network that its name calls for: segmentations are U-Nets; seeds differ."""
    seed = sum(map(ord, name))
    if name.startswith("GS_"):
        return plain_unet(downs=6, inputs=9, seed=seed)
    if name.startswith("GS") or (len(name) == 3 and name[1:].isdigit()):
        return plain_unet(downs=6, seed=seed)
    return plain_resnet(blocks=1, seed=seed)


def write_folder(
    folder: Path,
    nets: str = "G1 G2 G3 G4 G51 G52 G53 G54 G55",
    prefix: str | None = "latest",
    make: Callable[[str], nn.Module] = make_net,
    **options: object,
) -> dict[str, nn.Module]:
    """The plain networks by name; None as prefix: TorchScript. Options that are None are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: make(name) for name in nets.split()}
    for name, net in made.items():
        if prefix is None:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # tracing is out of fashion
                torch.jit.trace(net, torch.rand(1, net_planes(net), 256, 256), check_trace=False).save(
                    folder / f"{name}.pt"
                )
        else:
            torch.save(net.state_dict(), folder / f"{prefix}_net_{name}.pth")
    lines = [f"{key:>25}: {value!s:<30}" for key, value in (OPTIONS | options).items() if value is not None]
    (folder / "train_opt.txt").write_text("--- Options ---\n" + "\n".join(lines) + "\n--- End ---\n")
    return made


def net_planes(net: nn.Module) -> int:
    return next(p for p in net.parameters() if p.ndim == 4).shape[1]
