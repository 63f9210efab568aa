"""The training loop all systems share: seeded, resumable to the bit, with validation and early stopping.

The loop chooses the device and the precision. A recipe gives it the network, a function from step to batch, a loss and a
validation; an adversarial one also an opponent.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mxbridge.errors import BrokenFile, ModelError, UsageError
from mxbridge.formats.atomic import write_atomically
from mxbridge.stream.engine import choose_precision

Batch = Sequence[Tensor]
Validation = TypeVar("Validation", float, Mapping[str, float])

SCORE = "score"
"""Of a validation that answers with several figures, the one that decides (higher is better)."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The rate warms up over ``warmup`` steps, then falls along a cosine to 2 % of its peak, or stays.

    clip_norm: gradients are scaled down to this norm, 0 leaves them. patience: validations without a better score after
    which training stops, but not before ``least_steps``. average: weights are validated and kept as a running mean of those
    of the steps with this decay; 0 takes them as they are.
    """

    steps: int
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    warmup: int = 50
    clip_norm: float = 1.0
    validate_every: int = 200
    patience: int = 10
    seed: int = 0
    optimizer: Literal["adamw", "adam"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    constant_rate: bool = False
    least_steps: int = 0
    average: float = 0.0

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.constant_rate:
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass
class Trained:
    """What came out: the steps done, the best validation and the step it was at, and the course of both curves.

    history: one row per validation: step, loss (mean since the last one), rival (the opponent's mean loss, where there is
    one), and what the validation answered. sums: of the losses since then.
    """

    steps: int = 0
    best: float = -math.inf
    best_step: int = 0
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


@dataclass(frozen=True)
class Moment:
    """Told to ``progress`` after every step; ``score`` and ``history`` (all validations so far) only after a validation."""

    step: int
    steps: int
    loss: float
    score: float | None = None
    history: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Opponent:
    """A network that learns to tell what the trained one made from what is real, one step of its own before each of its.

    make: what the trained network makes of a batch. own_loss: of the opponent, on a batch and what was made of it.
    loss: of the trained network, given the opponent, the batch and what was made; it replaces the loss of the loop.
    """

    network: nn.Module
    make: Callable[[nn.Module, Batch], Tensor]
    own_loss: Callable[[nn.Module, Batch, Tensor], Tensor]
    loss: Callable[[nn.Module, Batch, Tensor], Tensor]


def choose_device(device: str = "auto") -> torch.device:
    """``auto``: CUDA where there is one, else CPU. Raises UsageError for a device that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"no device {device!r} here", hint="Use --device auto or cpu") from error
    return chosen


def train(
    network: nn.Module,
    batches: Callable[[int], Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    validate: Callable[[nn.Module], Validation],
    schedule: Schedule,
    *,
    device: str = "auto",
    precision: str = "fp32",
    opponent: Opponent | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 300,
    identity: Mapping[str, Any] | None = None,
    layout: torch.memory_format = torch.contiguous_format,
    progress: Callable[[Moment], None] = lambda _: None,
) -> Trained:
    """Train in place; on return the network holds the weights of the best validation (higher is better), in eval mode.

    batches: what to learn from at a step, a function of the step alone. validate: a score, or several figures of which
    ``score`` decides. precision: auto (bf16 on CUDA devices that have it, else fp32), fp32, bf16, fp16 (scaled losses).
    checkpoint: written at each validation and when ``checkpoint_seconds`` have passed; where it exists, training goes on from
    it and ends as if it had never stopped. identity: all that decides the numbers beside the schedule (sizes, data, code),
    ready for JSON; a checkpoint of another identity is refused with UsageError. layout: of the network in memory, a matter
    of speed (channels_last takes a quarter off U-Nets, and adds to others). Raises ModelError when a loss is not finite.
    """
    where = choose_device(device)
    identity = {"schedule": asdict(schedule), "network": type(network).__name__, **(identity or {})}
    work = _Work(network, opponent, schedule, where, training_precision(precision, where), layout)
    state, saved = work.state, time.monotonic()
    if checkpoint is not None and checkpoint.exists():
        _resume(checkpoint, work, identity)
        state = work.state
    for step in range(state.steps, schedule.steps):
        if state.stale >= schedule.patience and step >= schedule.least_steps:
            break
        value = work.step(step, batches, loss)
        score = None
        if state.steps % schedule.validate_every == 0 or state.steps == schedule.steps:
            score = work.judge(validate)
        if checkpoint is not None and (score is not None or time.monotonic() - saved > checkpoint_seconds):
            _save(checkpoint, work, identity)
            saved = time.monotonic()
        course = tuple(state.history) if score is not None else ()
        progress(Moment(state.steps, schedule.steps, value, score, course))
    network.load_state_dict(work.best)
    network.to("cpu").eval()
    return state


def drawing_threads(device: str) -> int:
    """How many threads draw batches ahead of the device that learns from them; one beside a CPU, which is busy itself."""
    return 1 if choose_device(device).type == "cpu" else max(1, min(4, (os.cpu_count() or 2) - 1))


def training_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The type convolutions are computed in. ``auto``: bf16 on CUDA devices that have it, else fp32. Raises UsageError."""
    if wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return choose_precision(wanted, device)


def discard_checkpoint(path: Path) -> None:
    """Remove a checkpoint, to start anew. Raises BrokenFile for a file that is none, and leaves it."""
    if path.exists():
        _read_checkpoint(path)
        path.unlink()


def save_weights(network: nn.Module, path: Path, card: str) -> str:
    """Write float32 safetensors with ``card`` (JSON text) in the metadata; the sha256 of the file comes back."""
    tensors = {k: v.detach().to("cpu").contiguous() for k, v in network.state_dict().items()}
    with write_atomically(path) as part:
        part.write_bytes(save(tensors, metadata={"card": card}))
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Learner:
    """A network with its optimiser."""

    def __init__(self, network: nn.Module, schedule: Schedule, where: torch.device, dtype: torch.dtype) -> None:
        self.network, self.schedule = network, schedule
        kind = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
        self.optimizer: torch.optim.Optimizer = kind(
            network.parameters(), lr=schedule.learning_rate, betas=schedule.betas, weight_decay=schedule.weight_decay
        )
        self.scaler = torch.amp.GradScaler(where.type, enabled=dtype == torch.float16)

    def descend(self, value: Tensor, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        if self.schedule.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def saved(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])


class _Work:
    """The networks and the state: what goes on from step to step, and into a checkpoint."""

    def __init__(
        self,
        network: nn.Module,
        opponent: Opponent | None,
        schedule: Schedule,
        where: torch.device,
        dtype: torch.dtype,
        layout: torch.memory_format,
    ) -> None:
        self.schedule, self.where, self.dtype = schedule, where, dtype
        network.to(where, memory_format=layout)  # type: ignore[call-overload]  # the stubs lack it
        self.learner = _Learner(network, schedule, where, dtype)
        self.rules = opponent
        self.rival = _Learner(opponent.network.to(where), schedule, where, dtype) if opponent is not None else None
        self.average = copy.deepcopy(network).eval() if schedule.average else None
        self.state = Trained()
        self.best = _copy_weights(self.kept)

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and whose weights are kept."""
        return self.learner.network if self.average is None else self.average

    def step(self, step: int, batches: Callable[[int], Batch], loss: Callable[[nn.Module, Batch], Tensor]) -> float:
        """One step of the opponent, where there is one, and one of the network; the network's loss."""
        self.learner.network.train()
        rival = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.schedule.seed * 1_000_003 + step)
            batch = [t.to(self.where) for t in batches(step)]
            if self.rules is not None and self.rival is not None:
                value, rival = self._against(self.rules, self.rival, step, batch)
            else:
                with self._autocast():
                    value = loss(self.learner.network, batch)
            self.learner.descend(value, step)
        self._take_average(step)
        told = value.item()
        if not math.isfinite(told):
            raise ModelError(f"the loss at step {step + 1} is no number", hint="Train with a lower --learning-rate")
        state = self.state
        state.steps = step + 1
        state.sums = [state.sums[0] + told, state.sums[1] + rival, state.sums[2] + 1]
        return told

    def _against(self, rules: Opponent, rival: _Learner, step: int, batch: Batch) -> tuple[Tensor, float]:
        """The opponent's step on what the network makes, then the network's loss against the opponent as it is now."""
        rival.network.train().requires_grad_(True)
        with self._autocast():
            made = rules.make(self.learner.network, batch)
            own = rules.own_loss(rival.network, batch, made.detach())
        rival.descend(own, step)
        rival.network.requires_grad_(False)
        with self._autocast():
            return rules.loss(rival.network, batch, made), own.item()

    def _take_average(self, step: int) -> None:
        if self.average is None:
            return
        share = 1 - min(self.schedule.average, (1 + step) / (10 + step))  # the first steps are soon forgotten
        current = self.learner.network.state_dict()
        with torch.no_grad():
            for key, mean in self.average.state_dict().items():
                if mean.is_floating_point():
                    mean.lerp_(current[key], share)
                else:
                    mean.copy_(current[key])

    def judge(self, validate: Callable[[nn.Module], Validation]) -> float:
        """Validate, write the row of the history, and keep the weights if they are the best so far."""
        self.kept.eval()
        with torch.inference_mode():
            answer = validate(self.kept)
        figures = dict(answer) if isinstance(answer, Mapping) else {SCORE: float(answer)}
        state, score = self.state, float(figures[SCORE])
        total, rival, count = state.sums
        losses = {"loss": total / count} | ({"rival": rival / count} if self.rival is not None else {})
        state.history.append({"step": state.steps, **losses, **figures})
        state.sums = [0.0, 0.0, 0.0]
        state.stale += 1
        if score > state.best:
            state.best, state.best_step, state.stale = score, state.steps, 0
            self.best = _copy_weights(self.kept)
        return score

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.where.type, dtype=self.dtype)

    def saved(self) -> dict[str, Any]:
        """Everything that goes on from step to step."""
        out: dict[str, Any] = {"learner": self.learner.saved(), "best": dict(self.best)}
        if self.average is not None:
            out["average"] = self.average.state_dict()
        if self.rival is not None:
            out["rival"] = self.rival.saved()
        return out

    def restore(self, saved: Mapping[str, Any], state: Trained) -> None:
        self.learner.restore(saved["learner"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        if self.rival is not None:
            self.rival.restore(saved["rival"])
        self.best = {key: saved["best"][key] for key in self.best}
        self.state = state


def _copy_weights(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def _save(path: Path, work: _Work, identity: Mapping[str, Any]) -> None:
    content = {
        "identity": json.dumps(identity, sort_keys=True),
        "state": json.dumps(asdict(work.state)),
        **work.saved(),
    }
    with write_atomically(path) as part:
        buffer = io.BytesIO()  # torch's own writer answers a full disk with what is no OSError
        torch.save(content, buffer)
        part.write_bytes(buffer.getbuffer())


def _resume(path: Path, work: _Work, identity: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(identity))
    content, found = _read_checkpoint(path)
    if found != wanted:
        other = ", ".join(sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k)))
        raise UsageError(
            f"{path} is the checkpoint of a training with another {other}",
            hint="Repeat that training's options, give another --checkpoint, or start anew with --restart",
        )
    try:
        work.restore(content, Trained(**json.loads(content["state"])))
    except Exception as error:  # whatever a foreign file makes the loaders raise
        raise _no_checkpoint(path) from error


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a checkpoint and its identity. Nothing in it is executed. Raises BrokenFile."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content, dict(json.loads(content["identity"]))
    except Exception as error:  # whatever a torn or foreign file makes the unpickler raise
        raise _no_checkpoint(path) from error


def _no_checkpoint(path: Path) -> BrokenFile:
    return BrokenFile(path, "is no checkpoint of a training", hint="Give another --checkpoint; this file is left alone")
