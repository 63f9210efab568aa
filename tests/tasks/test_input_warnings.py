"""What is told of the inputs of an imputation, and of images unlike those of the training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from mxbridge.models.familiarity import Familiarity
from mxbridge.tasks.imputing.input_warnings import judge_inputs
from mxbridge.tasks.imputing.one_image import InputFacts


def model(usual: float, weights: str) -> Any:
    """A model of images whose means are ``usual``."""
    known = Familiarity.fit(("DAPI", "CD8"), np.random.default_rng(0).normal(usual, 0.03, (40, 2)))
    assert known is not None
    card = SimpleNamespace(validation={"channel_means": known.record()})
    return SimpleNamespace(name="MAXIM", weights_sha256=weights, card=card)


def facts(mean: float) -> tuple[InputFacts, ...]:
    return tuple(InputFacts(name, mean=mean, low=0.0, high=0.9, top=0.0, bad=0) for name in ("DAPI", "CD8"))


def test_models_of_one_name_are_judged_each() -> None:
    """The image is unlike what the first has seen, and like what the second has: the table must not say that all is well."""
    step: Any = SimpleNamespace(models=(model(0.9, "one"), model(0.5, "two")), targets=("KI67",))
    found: Any = SimpleNamespace(inputs=(facts(0.5), facts(0.5)))
    judged = judge_inputs([step], [found])
    assert [known["flagged"] for known in judged.familiarity] == [True, False]
    assert judged.unfamiliar == 1
    assert len(judged.warnings) == 1
