"""Recipe of the embedded demonstration network: a narrow residual U-Net on simulated tissue alone.

``mxbridge train nimbus --demo`` writes the weights and a card beside them. It measures as NimbusDemo: it has seen no real image
and never poses as the official weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mxbridge.errors import UsageError
from mxbridge.formats.atomic import write_atomically
from mxbridge.models.card import ModelCard
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.training.data import QUANTILE, SimulatedPatches
from mxbridge.training.frozen import recipe_hash, simulator_hash
from mxbridge.training.judge import Judgement, judge
from mxbridge.training.loop import (
    Batch,
    Moment,
    Schedule,
    Trained,
    choose_device,
    discard_checkpoint,
    save_weights,
    train,
)
from mxbridge.training.losses import cell_loss, pixel_loss
from mxbridge.training.panels import demo_slide, scenarios
from mxbridge.training.simulator import Tissue, simulate
from mxbridge.training.target import check_target
from mxbridge.training.training_fields import grow, random_settings

UM_PER_PX = 1.0
NAME = "NimbusDemo"
DESCRIPTION = (
    "Small demonstration network, trained on simulated tissue only; not the official Nimbus weights. Its training held few "
    "images of few counts per pixel (MIBI, imaging mass cytometry)"
)
TRAINING_DATA = (
    "simulated multiplexed tissue (mxbridge.training.training_fields), no real image; the checkpoint was chosen on simulated "
    "fields that were not trained on"
)
LAST_SEED = 8
"""Training with seed s draws its fields from the numbers s x 1,000,000 up; from 9,000,000 on they are for validation."""
VALIDATION_SEEDS = tuple(range(9_000_001, 9_000_007))
MOST_STEPS = 1_000_000
"""So that the numbers of the fields stay below those of the next seed."""
DEEPEST = 6
"""Patches of 96 pixels are 3 at the sixth level; a seventh would not divide them."""
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
    restart: bool = False,
    progress: Callable[[Moment], None] = lambda _: None,
) -> ModelCard:
    """Train, judge on settings never trained on, write ``out`` (safetensors) and its card; the card comes back.

    seed: 0 to 8. The same seed, steps and sizes on the same kind of machine give the same weights. checkpoint: written at
    each validation, gone on from where it exists (restart: removed instead, once nothing is in the way of training), removed
    when the weights are there. Raises UsageError, OutputError, and BrokenFile for a checkpoint that is none.
    """
    _check_options(seed, steps, width, depth, batch)
    choose_device(device)
    check_target(out, NAME, checkpoint)
    if restart and checkpoint is not None:
        discard_checkpoint(checkpoint)
    with torch.random.fork_rng(devices=[]):
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

    trained = train(
        network,
        patches,
        loss,
        validate,
        Schedule(steps=steps, seed=seed),
        device=device,
        checkpoint=checkpoint,
        identity={
            "width": width,
            "depth": depth,
            "batch": batch,
            "simulator": simulator_hash(),
            "recipe": recipe_hash(),
        },
        layout=torch.channels_last,
        progress=progress,
    )
    card = _write(out, network, trained, seed)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return card


def _write(out: Path, network: ResidualUNet, trained: Trained, seed: int) -> ModelCard:
    """Judge and write the weights, then the card beside them, which alone holds their sha256."""
    card = ModelCard(
        name=NAME,
        system="nimbus",
        um_per_px=UM_PER_PX,
        normalization_quantile=QUANTILE,
        description=DESCRIPTION,
        training_data=TRAINING_DATA,
        settings_hash=simulator_hash(),
        seed=seed,
        steps=trained.best_step,
        metrics=figures(network) | {"validation_macro_f1": round(trained.best, 4)},
        licence="BSD-3-Clause",
    )
    card = replace(card, sha256=save_weights(network, out, card.to_json()))
    with write_atomically(out.with_suffix(".json")) as part:
        part.write_text(card.to_json(), encoding="utf-8")
    return card


def _check_options(seed: int, steps: int, width: int, depth: int, batch: int) -> None:
    """Raises UsageError for what cannot be trained."""
    if not 0 <= seed <= LAST_SEED:
        raise UsageError(f"seed {seed} is kept for validation", hint=f"Give a seed from 0 to {LAST_SEED}")
    if not 1 <= steps <= MOST_STEPS or min(width, batch) < 1:
        raise UsageError(f"steps are 1 to {MOST_STEPS}, width and batch at least 1")
    if not 1 <= depth <= DEEPEST:
        raise UsageError(f"depth {depth} does not fit the patches", hint=f"Give a depth from 1 to {DEEPEST}")


def figures(network: ResidualUNet) -> dict[str, Any]:
    """Per scenario and for the demonstration slide: macro-F1 at 0.5, macro-F1 of the best thresholds on mean intensity,
    AUROC; and F1 per marker of the slide."""
    out: dict[str, Any] = {}
    for name, settings in scenarios().items():
        out[name] = summary([judge_one(network, simulate(settings, s)) for s in JUDGE_SEEDS])
    slide = judge_one(network, demo_slide(DEMO_SEED))
    out["demo slide"] = summary([slide])
    named = zip(slide.markers, slide.f1, strict=True)
    out["demo slide, F1 per marker"] = {m: round(float(f), 4) for m, f in named if np.isfinite(f)}
    return out


def judge_one(network: ResidualUNet, tissue: Tissue) -> Judgement:
    return judge(network, tissue, UM_PER_PX, network.stride)


def summary(verdicts: list[Judgement]) -> dict[str, float]:
    """Means over fields, as cards hold them."""
    keys = ("macro_f1", "macro_f1_best_intensity_threshold", "auroc")
    columns = zip(*(v.macro for v in verdicts), strict=True)
    return {key: round(sum(values) / len(verdicts), 4) for key, values in zip(keys, columns, strict=True)}
