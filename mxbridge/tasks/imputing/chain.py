"""Which model imputes which marker of an image, and in what order: pure names, no pixels.

A marker that is asked for is not believed as an input of a model that can do without it (any-marker models): several that are
asked for together are all hidden. A single-marker model needs each of its inputs; one that is missing is an error, or, in a
chain, is imputed first by the model that has it as output.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from mxbridge.errors import InputError, UnknownName, UsageError
from mxbridge.models.maxim import Maxim, Request


@dataclass(frozen=True)
class Step:
    """One pass over an image. targets: markers as the models call them. models: several are an ensemble.

    requests: what is asked of each model, in their order. uses: inputs that earlier steps have imputed.
    """

    targets: tuple[str, ...]
    models: tuple[Maxim, ...]
    requests: tuple[Request, ...]
    uses: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How the results are called: after the first model."""
        return self.models[0].name

    def describe(self) -> dict[str, Any]:
        """For fingerprints and run.json."""
        return {
            "targets": list(self.targets),
            "models": [model.weights_sha256 for model in self.models],
            "hidden": [sorted(request.hidden) for request in self.requests],
            "uses": list(self.uses),
        }


def same_marker(name: str, names: Collection[str]) -> str | None:
    """The one of ``names`` that means ``name``: exactly, else without regard to case where only one does."""
    if name in names:
        return name
    folded = [n for n in names if n.strip().casefold() == name.strip().casefold()]
    return folded[0] if len(folded) == 1 else None


def targets_wanted(markers: Sequence[str], models: Sequence[Maxim]) -> tuple[str, ...]:
    """Markers as the models call them, each once. Raises UnknownName for one that no model imputes."""
    outputs = list(dict.fromkeys(output for model in models for output in model.outputs))
    found: dict[str, None] = {}
    for marker in markers:
        there = same_marker(marker, outputs)
        if there is None:
            raise UnknownName("marker", marker, outputs, where="what the models impute")
        found[there] = None
    return tuple(found)


def resolve(
    targets: Sequence[str],
    models: Sequence[Maxim],
    present: Collection[str],
    *,
    chain: bool,
    where: str,
    channels: Sequence[str] = (),
) -> tuple[Step, ...]:
    """The steps for an image that has the markers ``present``, in an order in which they can be done.

    where, channels: the image and what it has, for errors. Raises InputError (a missing input, more than half of the inputs of
    an any-marker model missing) and UsageError (a chain that leads back to where it began, models of one marker that work at
    different scales).
    """
    return _Resolver(models, frozenset(present), chain, where, tuple(channels)).steps_for(targets)


class _Resolver:
    def __init__(
        self, models: Sequence[Maxim], present: frozenset[str], chain: bool, where: str, channels: tuple[str, ...]
    ) -> None:
        self.models, self.present, self.chain, self.where, self.channels = models, present, chain, where, channels
        self.done: list[Step] = []

    def steps_for(self, targets: Sequence[str]) -> tuple[Step, ...]:
        together: dict[tuple[int, ...], list[str]] = {}
        for target in targets:
            members = tuple(k for k, model in enumerate(self.models) if target in model.outputs)
            together.setdefault(members, []).append(target)
        for members, group in together.items():
            left = tuple(target for target in group if not self._is_done(target))
            if left:
                self._step(left, tuple(self.models[k] for k in members), ())
        return tuple(self.done)

    def _is_done(self, marker: str) -> bool:
        return any(marker in step.targets for step in self.done)

    def _step(self, targets: tuple[str, ...], models: tuple[Maxim, ...], path: tuple[str, ...]) -> None:
        """Add what ``targets`` need, then their own step. path: the markers for which they are needed."""
        scales = {model.um_per_px for model in models}
        if len(scales) > 1:
            raise UsageError(
                f"{', '.join(targets)}: models at {', '.join(f'{s:g}' for s in sorted(scales))} µm per pixel cannot be averaged",
                hint="Give models of one marker that were trained at one scale",
            )
        uses: dict[str, None] = {}
        requests = []
        for model in models:
            absent = [m for m in model.inputs if m not in targets and m not in self.present]
            if model.any_marker:
                requests.append(self._hiding(model, targets, absent))
                continue
            self._check_inputs(model, targets, absent)
            for marker in absent:
                self._before(marker, targets, path)
                uses[marker] = None
            requests.append(Request(targets))
        self.done.append(Step(targets, models, tuple(requests), tuple(uses)))

    def _hiding(self, model: Maxim, targets: tuple[str, ...], absent: list[str]) -> Request:
        hidden = {*absent, *targets}
        if 2 * len(hidden) > len(model.inputs):
            raise InputError(
                f"{self.where}: too little to impute {', '.join(targets)} from: {len(hidden)} of the {len(model.inputs)} "
                f"inputs of {model.name} are missing or asked for ({', '.join(m for m in model.inputs if m in hidden)})",
                hint=f"There is: {self._have()}. Impute fewer markers at once, or map channel names with --panel",
            )
        return Request(targets, frozenset(absent))

    def _check_inputs(self, model: Maxim, targets: tuple[str, ...], absent: list[str]) -> None:
        if not absent or self.chain:
            return
        raise InputError(
            f"{self.where}: no channel {', '.join(absent)}, which {model.name} needs to impute {', '.join(targets)}",
            hint=f"There is: {self._have()}. Map names with --panel, or impute what is missing first: --chain with a --model for it",
        )

    def _have(self) -> str:
        return ", ".join(self.channels[:40]) or "nothing"

    def _before(self, marker: str, targets: tuple[str, ...], path: tuple[str, ...]) -> None:
        """See that a missing input is imputed by an earlier step."""
        trail = (*path, targets[0])
        if marker in trail:
            circle = " <- ".join((*trail[trail.index(marker) :], marker))
            raise UsageError(
                f"{self.where}: the chain leads back to where it began: {circle}",
                hint=f"Give a model of {marker} that does not need {trail[-1]}",
            )
        if self._is_done(marker):
            return
        models = tuple(model for model in self.models if marker in model.outputs)
        if not models:
            raise InputError(
                f"{self.where}: no channel {marker}, which is needed to impute {' <- '.join(reversed(trail))}, and no model for it",
                hint=f"Add a --model that imputes {marker}, or map names with --panel",
            )
        self._step((marker,), models, trail)
