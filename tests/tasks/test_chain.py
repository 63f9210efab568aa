"""The order in which markers are imputed: everything a step needs is there, or imputed before it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import InputError, MxbridgeError, UnknownName, UsageError
from mxbridge.models.maxim import Maxim
from mxbridge.tasks.imputing.chain import resolve, same_marker, targets_wanted

MARKERS = "ABCDEFGH"


def model(inputs: str, outputs: str = "", um: float = 0.5) -> Maxim:
    """Only what names and scales say. Without ``outputs`` an any-marker model."""
    known: Any = SimpleNamespace(
        name="MAXIM",
        inputs=tuple(inputs),
        outputs=tuple(outputs or inputs),
        any_marker=not outputs,
        um_per_px=um,
        weights_sha256=f"{inputs}>{outputs}",
    )
    return cast(Maxim, known)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_resolved_can_be_done_in_its_order(data: st.DataObject) -> None:
    singles = data.draw(
        st.lists(
            st.tuples(st.sets(st.sampled_from(MARKERS), min_size=1, max_size=3), st.sampled_from(MARKERS)), max_size=7
        )
    )
    models = [model("".join(sorted(i - {o})), o) for i, o in singles if i - {o}]
    present = data.draw(st.sets(st.sampled_from(MARKERS), min_size=1))
    if not models:
        return
    outputs = sorted({o for m in models for o in m.outputs})
    targets = data.draw(st.lists(st.sampled_from(outputs), min_size=1, unique=True))
    try:
        steps = resolve(targets, models, present, chain=True, where="image a")
    except (InputError, UsageError):
        return
    there = set(present)
    for step in steps:
        for member in step.models:
            assert set(member.inputs) <= there | {*step.uses}
            assert set(step.uses) <= there
            assert set(step.targets) <= set(member.outputs)
        assert not set(step.uses) & present
        there |= set(step.targets)
    made = [target for step in steps for target in step.targets]
    assert set(targets) <= set(made)
    assert len(set(made)) == len(made)


def test_a_long_chain_ends_where_it_should() -> None:
    models = [model(MARKERS[k], MARKERS[k + 1]) for k in range(len(MARKERS) - 1)]
    steps = resolve(("H",), models[::-1], {"A"}, chain=True, where="image a")
    assert [step.targets for step in steps] == [(m,) for m in "BCDEFGH"]
    assert [step.uses for step in steps] == [(), *((m,) for m in "BCDEFG")]


def test_markers_of_one_model_go_together() -> None:
    steps = resolve(("C", "D"), [model("ABCDEF")], set("ABE"), chain=False, where="image a")
    assert [(step.targets, step.requests[0].hidden) for step in steps] == [(("C", "D"), {"F"})]
    steps = resolve(("C", "D"), [model("AB", "C"), model("AC", "D")], set("ABC"), chain=False, where="image a")
    assert [step.targets for step in steps] == [("C",), ("D",)]
    assert not any(step.uses for step in steps)


@pytest.mark.parametrize(
    ("models", "present", "chain", "kind", "words"),
    [
        ([model("AB", "C")], "A", False, InputError, "no channel B, which MAXIM needs to impute C"),
        ([model("AB", "C"), model("A", "B")], "A", False, InputError, "no channel B"),
        ([model("AB", "C")], "A", True, InputError, "no channel B, which is needed to impute C, and no model for it"),
        ([model("AB", "C"), model("D", "B")], "A", True, InputError, "no channel D, which is needed to impute B <- C"),
        ([model("AB", "C"), model("C", "B")], "A", True, UsageError, "where it began: C <- B <- C"),
        ([model("AB", "C"), model("A", "C", um=1.0)], "AB", False, UsageError, "0.5, 1 µm per pixel"),
        ([model("ABCDE")], "AB", False, InputError, "3 of the 5 inputs of MAXIM are missing or asked for (C, D, E)"),
    ],
)
def test_what_cannot_be(models: list[Maxim], present: str, chain: bool, kind: type[MxbridgeError], words: str) -> None:
    with pytest.raises(kind) as caught:
        resolve(("C",), models, set(present), chain=chain, where="image a")
    assert words in caught.value.message


def test_what_is_missing_is_told_beside_what_is_there() -> None:
    for models in ([model("ABCDE")], [model("AB", "C")]):
        with pytest.raises(InputError) as caught:
            resolve(("C",), models, {"A"}, chain=False, where="image a", channels=("A", "bee"))
        assert "There is: A, bee. " in caught.value.hint


def test_names_in_any_case() -> None:
    assert same_marker("KI67 ", ["Ki67", "CD8"]) == "Ki67"
    assert same_marker("ki67", ["Ki67", "KI67"]) is None
    assert targets_wanted(["c", "C", "B"], [model("A", "C"), model("A", "B")]) == ("C", "B")
    with pytest.raises(UnknownName, match="no marker 'D' in what the models impute"):
        targets_wanted(["D"], [model("A", "C")])
