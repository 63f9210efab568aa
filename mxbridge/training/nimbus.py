"""Recipe of the embedded demonstration network: a narrow residual U-Net on simulated tissue alone.

``python -m mxbridge.training.nimbus --out FILE.safetensors --seed 1`` writes the weights and a card beside them. It measures
as NimbusDemo: it has seen no real image and never poses as the official weights.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mxbridge.formats.atomic import write_atomically
from mxbridge.models.card import ModelCard
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.training.data import QUANTILE, SimulatedPatches
from mxbridge.training.judge import Judgement, judge
from mxbridge.training.loop import Batch, Moment, Schedule, save_weights, train
from mxbridge.training.losses import cell_loss, pixel_loss
from mxbridge.training.panels import demo_slide, random_settings, scenarios
from mxbridge.training.simulator import Tissue, simulate

UM_PER_PX = 1.0
DESCRIPTION = (
    "Small demonstration network, trained on simulated tissue only; not the official Nimbus weights. On a real image of few "
    "counts per pixel (a MIBI field whose factors were 3 to 13) it called next to nothing positive"
)
VALIDATION_SEEDS = tuple(range(9_000_001, 9_000_007))
"""Random fields that training never draws (its numbers start at ``seed`` x 1,000,000, seeds stay below 9)."""
JUDGE_SEEDS = (9_100_001, 9_100_002)
DEMO_SEED = 9_200_001


def train_demo(
    out: Path,
    *,
    seed: int = 1,
    steps: int = 3200,
    width: int = 8,
    depth: int = 4,
    batch: int = 16,
    device: str = "auto",
    checkpoint: Path | None = None,
    progress: Callable[[Moment], None] = lambda _: None,
) -> ModelCard:
    """Train, judge on settings never trained on, write ``out`` (safetensors) and its card; the card comes back.

    seed: 0 to 8. The same seed, steps and sizes on the same kind of machine give the same weights.
    """
    if not 0 <= seed <= 8:
        raise ValueError("seed is 0 to 8: higher numbers are kept for validation")
    torch.manual_seed(seed)
    network = ResidualUNet(width, depth)
    patches = SimulatedPatches(lambda n: grow(seed, n), UM_PER_PX, seed, batch=batch)
    held_out = [simulate(random_settings(s), s) for s in VALIDATION_SEEDS]

    def loss(model: nn.Module, drawn: Batch) -> Tensor:
        inputs, target, cells = drawn
        logits = model.logits(inputs)
        return pixel_loss(logits, target, inputs[:, 1:]) + cell_loss(logits, target, cells)

    def validate(model: nn.Module) -> float:
        verdicts = [judge(model, tissue, UM_PER_PX, network.stride) for tissue in held_out]
        return sum(v.macro[0] for v in verdicts) / len(verdicts)

    schedule = Schedule(steps=steps, seed=seed)
    trained = train(network, patches, loss, validate, schedule, device=device, checkpoint=checkpoint, progress=progress)
    metrics = figures(network)
    card = ModelCard(
        name="NimbusDemo",
        system="nimbus",
        um_per_px=UM_PER_PX,
        normalization_quantile=QUANTILE,
        description=DESCRIPTION,
        training_data="simulated multiplexed tissue (mxbridge.training.panels.random_settings), no real image",
        settings_hash=recipe_hash(seed, patches),
        seed=seed,
        steps=trained.best_step,
        metrics=metrics | {"validation_macro_f1": round(trained.best, 4)},
        licence="BSD-3-Clause",
    )
    digest = save_weights(network, out, card.to_json())
    card = replace(card, sha256=digest)
    with write_atomically(out.with_suffix(".json")) as part:
        part.write_text(card.to_json(), encoding="utf-8")
    return card


def grow(seed: int, number: int) -> Tissue:
    """Training field ``number``: settings and tissue from one seed."""
    own = seed * 1_000_000 + number
    return simulate(random_settings(own), own)


def recipe_hash(seed: int, patches: SimulatedPatches, fields: int = 200) -> str:
    """sha256 over the settings of the first ``fields`` training fields, all judging scenarios and the patch options."""
    digest = hashlib.sha256()
    for number in range(fields):
        digest.update(random_settings(seed * 1_000_000 + number).hash().encode())
    for name, settings in scenarios().items():
        digest.update(f"{name}={settings.hash()}".encode())
    options = (patches.batch, patches.side, patches.window, patches.renew, patches.positive_share)
    digest.update(repr(options).encode())
    return digest.hexdigest()


def figures(network: ResidualUNet) -> dict[str, Any]:
    """Per scenario and for the demonstration slide: macro-F1 at 0.5, macro-F1 of the best thresholds on mean intensity,
    AUROC; and F1 per marker of the slide."""
    out: dict[str, Any] = {}
    for name, settings in scenarios().items():
        out[name] = _summary([judge_one(network, simulate(settings, s)) for s in JUDGE_SEEDS])
    slide = judge_one(network, demo_slide(DEMO_SEED))
    out["demo slide"] = _summary([slide])
    named = zip(slide.markers, slide.f1, strict=True)
    out["demo slide, F1 per marker"] = {m: round(float(f), 4) for m, f in named if np.isfinite(f)}
    return out


def judge_one(network: ResidualUNet, tissue: Tissue) -> Judgement:
    return judge(network, tissue, UM_PER_PX, network.stride)


def _summary(verdicts: list[Judgement]) -> dict[str, float]:
    keys = ("macro_f1", "macro_f1_best_intensity_threshold", "auroc")
    columns = zip(*(v.macro for v in verdicts), strict=True)
    return {key: round(sum(values) / len(verdicts), 4) for key, values in zip(keys, columns, strict=True)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mxbridge.training.nimbus", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write; the card goes beside it")
    parser.add_argument("--seed", type=int, default=1, choices=range(9), metavar="0..8")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--checkpoint", type=Path, help="go on from here, and save here at each validation")
    given = parser.parse_args(arguments)
    begun = time.process_time()

    def tell(moment: Moment) -> None:
        if moment.step % 50 == 0 or moment.score is not None:
            score = "" if moment.score is None else f"  macro-F1 {moment.score:.4f}"
            spent = time.process_time() - begun
            print(f"{moment.step}/{moment.steps}  loss {moment.loss:.4f}{score}  {spent:.0f} CPU s", file=sys.stderr)

    card = train_demo(
        given.out,
        seed=given.seed,
        steps=given.steps,
        width=given.width,
        depth=given.depth,
        device=given.device,
        checkpoint=given.checkpoint,
        progress=tell,
    )
    print(card.to_json(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
