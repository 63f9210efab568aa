"""What the inputs of an imputation say of how far to trust it: channels that cannot be right, images unlike the training's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mxbridge.metrics.input_range import SATURATED
from mxbridge.models.familiarity import Familiarity
from mxbridge.tasks.imputing.chain import Step
from mxbridge.tasks.imputing.one_image import InputFacts, StepFound


@dataclass(frozen=True)
class Judged:
    """warnings: lines for people. familiarity: by model, what is known, for run.json. unfamiliar: models that flag the image."""

    warnings: tuple[str, ...]
    familiarity: list[dict[str, Any]]

    @property
    def unfamiliar(self) -> int:
        return sum(bool(known["flagged"]) for known in self.familiarity)


def judge_inputs(steps: Sequence[Step], found: Sequence[StepFound]) -> Judged:
    """Of one image: every input once, every model once."""
    warnings: dict[str, None] = {}
    familiarity: dict[tuple[str, str], dict[str, Any]] = {}  # models of one marker may share a name
    for step, values in zip(steps, found, strict=True):
        for model, facts in zip(step.models, values.inputs, strict=True):
            warnings.update(dict.fromkeys(line for fact in facts if (line := _wrong_with(fact))))
            known = Familiarity.from_record(model.card.validation.get("channel_means"))
            verdict = known.judge({fact.marker: fact.mean for fact in facts}) if known is not None else None
            if verdict is None:
                continue
            what = f"{model.name} for {', '.join(step.targets)}"
            if verdict.flagged:
                warnings[f"{what}: {verdict.words}; trust the imputed stain less"] = None
            familiarity[what, model.weights_sha256] = {
                "model": what,
                "distance": verdict.distance,
                "limit": verdict.limit,
                "flagged": verdict.flagged,
                "unusual": [list(pair) for pair in verdict.unusual],
            }
    return Judged(tuple(warnings), list(familiarity.values()))


def _wrong_with(fact: InputFacts) -> str:
    """A line for people, empty where nothing is wrong. Inputs that were not seen are NaN and never wrong."""
    lines = []
    if fact.low > fact.high:  # nothing was found between the two
        lines.append("holds no finite number; taken as 0 everywhere, and the imputed values mean little")
    elif fact.bad:
        lines.append(f"{fact.bad} pixels are not finite; taken as 0")
    if fact.low == fact.high:
        lines.append("is the same everywhere; the stain or the file has failed, and the imputed values mean little")
    elif fact.top >= SATURATED:
        lines.append(f"{100 * fact.top:.0f} % of its pixels are as bright as the model can see or brighter")
    return f"{fact.marker}: {', and '.join(lines)}" if lines else ""
