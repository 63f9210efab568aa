"""The training loop all systems share: seeded, resumable to the bit, with validation and early stopping.

The loop chooses the device. A recipe gives it the network, a function from step to batch, a loss and a validation.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mxbridge.errors import BrokenFile, UsageError
from mxbridge.formats.atomic import write_atomically

Batch = Sequence[Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The rate warms up over ``warmup`` steps, then falls along a cosine to 2 % of its peak."""

    steps: int
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    warmup: int = 50
    clip_norm: float = 1.0
    validate_every: int = 200
    patience: int = 10
    seed: int = 0

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass
class Trained:
    """What came out: the steps done, the best validation and the step it was at, and the course of both curves."""

    steps: int = 0
    best: float = -math.inf
    best_step: int = 0
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Moment:
    """Told to ``progress`` after every step; ``score`` only after a validation."""

    step: int
    steps: int
    loss: float
    score: float | None = None


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
    validate: Callable[[nn.Module], float],
    schedule: Schedule,
    *,
    device: str = "auto",
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    layout: torch.memory_format = torch.contiguous_format,
    progress: Callable[[Moment], None] = lambda _: None,
) -> Trained:
    """Train in place; on return the network holds the weights of the best validation (higher is better), in eval mode.

    batches: what to learn from at a step, a function of the step alone. checkpoint: written at each validation; where it
    exists, training goes on from it and ends as if it had never stopped. identity: all that decides the numbers beside
    the schedule (sizes, data, code), ready for JSON; a checkpoint of another identity is refused with UsageError.
    layout: of the network in memory, a matter of speed (channels_last takes a quarter off U-Nets, and adds to others).
    """
    where = choose_device(device)
    network.to(where, memory_format=layout)  # type: ignore[call-overload]  # the stubs lack it
    identity = {"schedule": asdict(schedule), "network": type(network).__name__, **(identity or {})}
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    state = Trained()
    best = _copy_weights(network)
    if checkpoint is not None and checkpoint.exists():
        state, best = _resume(checkpoint, network, optimizer, identity)
    for step in range(state.steps, schedule.steps):
        if state.stale >= schedule.patience:
            break
        network.train()
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(schedule.seed * 1_000_003 + step)
            value = loss(network, [t.to(where) for t in batches(step)])
            optimizer.zero_grad(set_to_none=True)
            value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), schedule.clip_norm)
        optimizer.step()
        state.steps = step + 1
        score = None
        if state.steps % schedule.validate_every == 0 or state.steps == schedule.steps:
            score = _validated(network, validate)
            state.history.append({"step": state.steps, "loss": value.item(), "score": score})
            state.stale += 1
            if score > state.best:
                state.best, state.best_step, state.stale = score, state.steps, 0
                best = _copy_weights(network)
            if checkpoint is not None:
                _save(checkpoint, network, optimizer, identity, state, best)
        progress(Moment(state.steps, schedule.steps, value.item(), score))
    network.load_state_dict(best)
    network.to("cpu").eval()
    return state


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


def _validated(network: nn.Module, validate: Callable[[nn.Module], float]) -> float:
    network.eval()
    with torch.inference_mode():
        return float(validate(network))


def _copy_weights(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def _save(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    state: Trained,
    best: Mapping[str, Tensor],
) -> None:
    content = {
        "identity": json.dumps(identity, sort_keys=True),
        "state": json.dumps(asdict(state)),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": dict(best),
    }
    with write_atomically(path) as part:
        buffer = io.BytesIO()  # torch's own writer answers a full disk with what is no OSError
        torch.save(content, buffer)
        part.write_bytes(buffer.getbuffer())


def _resume(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> tuple[Trained, dict[str, Tensor]]:
    wanted = json.loads(json.dumps(identity))
    content, found = _read_checkpoint(path)
    if found != wanted:
        other = ", ".join(sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k)))
        raise UsageError(
            f"{path} is the checkpoint of a training with another {other}",
            hint="Repeat that training's options, give another --checkpoint, or start anew with --restart",
        )
    try:
        state = Trained(**json.loads(content["state"]))
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        best = {key: content["best"][key] for key in network.state_dict()}
    except Exception as error:  # whatever a foreign file makes the loaders raise
        raise _no_checkpoint(path) from error
    return state, best


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a checkpoint and its identity. Nothing in it is executed. Raises BrokenFile."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content, dict(json.loads(content["identity"]))
    except Exception as error:  # whatever a torn or foreign file makes the unpickler raise
        raise _no_checkpoint(path) from error


def _no_checkpoint(path: Path) -> BrokenFile:
    return BrokenFile(path, "is no checkpoint of a training", hint="Give another --checkpoint; this file is left alone")
