"""All that decides what a MAXIM training does, beside its images; and the presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mxbridge.errors import UnknownName, UsageError
from mxbridge.models.scaling import PEER, Scaling
from mxbridge.networks.maxim_unet import MaximUNet
from mxbridge.training.loop import Schedule

Adversary = Literal["", "paper", "coded"]

PUBLISHED_FIELD = 349 * 310 / 256**2
"""An epoch of the published study cuts images in fields of 349 x 310 pixels and draws one patch of 256 x 256 from each."""

MOST_STEPS = 100_000_000


@dataclass(frozen=True)
class MaximSettings:
    """Settings of one training.

    Task
      markers: to predict, together, from the others; empty with ``any_marker``, where each is predicted from the others and
      1 to ``most_hidden`` are hidden at a time (0: a third of them, up to four). inputs: names (else all markers and counterstains of the images).
      um_per_px: the model's scale (else the images').
    Numbers
      scaling: linear, arcsinh:COFACTOR, or peer (divided by 255, 8-bit images only). cap: quantile of the training pixels
      that becomes 1.
    Network and patches
      width: filters of the first level. side, batch: of patches. jitter: standard deviation of the log of a gain drawn per
      input and patch. published_start: weights begin as published, N(0, 0.02), else as torch draws them. start: linear, the
      network corrects a regression; none, it predicts all by itself, as published.
    Loss
      alpha: ``alpha * L1 + (1 - alpha) * L2``. adversarial: paper or coded discriminator; the loss is then
      ``beta * L1 + cross-entropy``, and validation stays as it is.
    Course
      steps, validate_every, patience (validations), least_steps; or by ``epochs``, which sets all of them: one validation
      an epoch, at least ``least_epochs``. average: decay of the running mean of the weights, 0 for none.
    Data
      fraction: share of the training images (below two images, of their area), chosen by the seed. guard: rows between a
      training and a held-back region, in model pixels.
    """

    markers: tuple[str, ...] = ()
    any_marker: bool = False
    inputs: tuple[str, ...] = ()
    most_hidden: int = 0
    um_per_px: float | None = None
    scaling: str = "linear"
    cap: float = 0.995
    width: int = 12
    side: int = 96
    batch: int = 16
    jitter: float = 0.0
    published_start: bool = False
    start: Literal["linear", "none"] = "linear"
    alpha: float = 0.1
    adversarial: Adversary = ""
    beta: float = 100.0
    steps: int = 1600
    validate_every: int = 100
    patience: int = 10
    least_steps: int = 0
    epochs: int = 0
    least_epochs: int = 0
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    optimizer: Literal["adamw", "adam"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    constant_rate: bool = False
    warmup: int = 50
    clip_norm: float = 1.0
    average: float = 0.99
    fraction: float = 1.0
    guard: int = MaximUNet.halo
    seed: int = 1
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot be trained."""
        if self.any_marker == bool(self.markers):
            raise UsageError("name what to predict: either --marker NAME or --any-marker")
        repeated = sorted({m for names in (self.markers, self.inputs) for m in names if names.count(m) > 1})
        both = sorted(set(self.markers) & set(self.inputs))
        if repeated or both:
            raise UsageError(
                f"{', '.join(repeated or both)} is named twice", hint="A marker is an input or is predicted"
            )
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name.replace('_', ' ')} {value:g} is not in {low:g} to {high:g}")
        if self.adversarial not in ("", "paper", "coded"):
            raise UnknownName("discriminator", self.adversarial, ("paper", "coded"))
        if self.start not in ("linear", "none"):
            raise UnknownName("start", self.start, ("linear", "none"))
        stride = 64 if self.adversarial == "paper" else MaximUNet.stride
        if self.side % stride:
            raise UsageError(
                f"patches of {self.side} pixels do not fit the networks", hint=f"Use multiples of {stride}"
            )
        if self.adversarial and self.side < 48:
            raise UsageError("patches for a discriminator need 48 pixels or more")
        if self.um_per_px is not None and not 1e-4 <= self.um_per_px <= 1000:
            raise UsageError(f"{self.um_per_px:g} µm per pixel makes no sense")
        parse_scaling(self.scaling, 1.0)

    def schedule(self, training_pixels: int) -> Schedule:
        """training_pixels: area to learn from, at the model's scale; it says how long an epoch is."""
        epoch = max(1, round(training_pixels / (self.side**2 * PUBLISHED_FIELD) / self.batch))
        by_epoch = self.epochs > 0
        return Schedule(
            steps=min(MOST_STEPS, self.epochs * epoch) if by_epoch else self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
            validate_every=epoch if by_epoch else self.validate_every,
            patience=self.patience,
            seed=self.seed,
            optimizer=self.optimizer,
            betas=self.betas,
            constant_rate=self.constant_rate,
            least_steps=self.least_epochs * epoch if by_epoch else self.least_steps,
            average=self.average,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_LIMITS: Mapping[str, tuple[float, float]] = {
    "most_hidden": (0, 1000),
    "cap": (0.5, 1),
    "width": (1, 1024),
    "side": (MaximUNet.stride, 4096),
    "batch": (1, 65536),
    "jitter": (0, 2),
    "alpha": (0, 1),
    "beta": (0, 1e6),
    "steps": (1, MOST_STEPS),
    "validate_every": (1, MOST_STEPS),
    "patience": (1, 1_000_000),
    "epochs": (0, 1_000_000),
    "learning_rate": (1e-9, 10),
    "average": (0, 0.99999),
    "fraction": (1e-6, 1),
    "guard": (0, 100_000),
    "seed": (0, 2**31),
}

PAPER: Mapping[str, Any] = {
    "scaling": "peer",
    "width": 32,
    "side": 256,
    "batch": 64,
    "published_start": True,
    "start": "none",
    "alpha": 0.5,
    "beta": 100.0,
    "learning_rate": 0.002,
    "weight_decay": 0.0,
    "optimizer": "adam",
    "betas": (0.5, 0.999),
    "constant_rate": True,
    "warmup": 0,
    "clip_norm": 0.0,
    "average": 0.0,
    "epochs": 200,
    "least_epochs": 50,
    "patience": 25,
    "jitter": 0.0,
}
"""The published study's: 8-bit images divided by 255, patches of 256, its network, loss, optimiser and early stop. Images of other
depths need another ``scaling``."""

PRESETS: Mapping[str, Mapping[str, Any]] = {"house": {}, "paper": PAPER}


def settings_of(preset: str, **given: Any) -> MaximSettings:
    """Settings of a preset with those that were given (not None) in place. Raises UsageError."""
    if preset not in PRESETS:
        raise UnknownName("preset", preset, PRESETS)
    own = {name: value for name, value in given.items() if value is not None}
    chosen = {**PRESETS[preset], **own}
    if "steps" in own and "epochs" not in own:
        chosen["epochs"] = 0
    _check_effect(own, chosen)
    return MaximSettings(**chosen)


def _check_effect(own: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Raise UsageError for what was given and would change nothing beside the rest."""
    by_epoch = bool(chosen.get("epochs"))
    idle = {
        "steps": by_epoch and "--epochs says how long: give one of the two",
        "validate_every": by_epoch and "by epochs there is one validation an epoch: give --steps with it",
        "beta": not chosen.get("adversarial") and "it goes with --adversarial",
        "most_hidden": not chosen.get("any_marker") and "it goes with --any-marker",
        "cap": str(chosen.get("scaling", "")).partition(":")[0] == "peer" and "--scaling peer divides by 255",
    }
    for name, why in idle.items():
        if name in own and why:
            raise UsageError(f"--{name.replace('_', '-')} would have no effect: {why}")


def parse_scaling(text: str, high: float) -> Scaling:
    """``linear``, ``arcsinh:5`` or ``peer``; high: stored number that becomes 1. Raises UsageError."""
    kind, _, number = text.partition(":")
    if kind == "peer" and not number:
        return PEER
    if kind == "linear" and not number:
        return Scaling("linear", 0.0, high)
    if kind == "arcsinh":
        try:
            cofactor = float(number or 5)
        except ValueError:
            cofactor = 0.0
        if 0 < cofactor < 1e9:
            return Scaling("arcsinh", 0.0, math.asinh(high / cofactor), cofactor)
    raise UsageError(f"--scaling {text!r} is none of linear, arcsinh:5 (any cofactor), peer")
