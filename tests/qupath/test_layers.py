"""Several results on the same cells, published, repeated and taken out in any order, with a user's edits in between."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mxbridge.results import ClassChanges, ImageRef, Results
from mxbridge.workspaces.qupath import edit
from mxbridge.workspaces.qupath.ledger import State
from mxbridge.workspaces.qupath.qpdata import ImageDataFile

from .conftest import data_file, everything, fl, reclassed

BASES = ("Tumor", "Stroma", None, "Tumor")
"""Classes a user gave four cells."""

MODELS = ("m1", "m2", "m3")
CALLS = st.tuples(*[st.sampled_from(["", "CD3", "CD8"]) for _ in BASES])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(MODELS), CALLS),
        st.tuples(st.just("take"), st.sampled_from(MODELS)),
        st.tuples(st.just("user"), st.integers(0, len(BASES) - 1), st.sampled_from(["Mine", "Other"])),
    ),
    max_size=10,
)


def derived(base: str | None, call: str) -> str | None:
    return ": ".join(part for part in (base, call) if part) or None


@given(steps=STEPS)
@example(
    steps=[
        ("put", "m1", ("",) * 4),
        ("user", 0, "Mine"),
        ("put", "m2", ("CD3", "", "", "")),
        ("put", "m1", ("",) * 4),
        ("user", 0, "Mine"),
        ("take", "m1"),
    ]
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_users_classes_survive_any_order_of_results(workspace, steps):
    tree = ImageDataFile.read(data_file(workspace))
    cells = [o for o in tree.objects() if o.kind == "cell"][: len(BASES)]
    ids = tuple(o.id for o in cells)
    for cell, base in zip(cells, BASES, strict=True):
        tree.set_class([cell], base, {})
    state = State()
    theirs = list(BASES)
    layers: dict[str, dict[int, str]] = {}  # per model, the last put is the last entry: calls of each cell

    for step in steps:
        if step[0] == "put":
            _, key, calls = step
            seen = tuple(state.original_class(i, o.class_name) for i, o in zip(ids, cells, strict=True))
            assert seen == tuple(theirs)  # a run starts from the user's classes, whatever was published
            names = tuple(derived(base, call) for base, call in zip(seen, calls, strict=True))
            results = Results(ImageRef("2", "fl"), "run", ids, class_changes=ClassChanges(names, seen, key))
            state = edit.put(tree, state, results, entry_id="2", known_colors={}).state
            layers.pop(key, None)
            layers[key] = dict(enumerate(calls))
        elif step[0] == "take":
            state = edit.take(tree, state, [step[1]], entry_id="2", known_colors={}).state
            layers.pop(step[1], None)
        else:
            _, k, name = step
            if cells[k].class_name == name:
                continue  # choosing the class that is there already leaves no trace in the file
            tree.set_class([cells[k]], name, {})
            theirs[k] = name
            for calls_of in layers.values():
                calls_of.pop(k, None)
        for k, cell in enumerate(cells):
            calls_now = [calls_of[k] for calls_of in layers.values() if k in calls_of]
            assert cell.class_name == derived(theirs[k], calls_now[-1] if calls_now else "")
        assert not [gone for gone in edit.lost(tree, state) if not any(s[0] == "user" for s in steps)]

    state = edit.take(tree, state, MODELS, entry_id="2", known_colors={}).state
    assert [o.class_name for o in cells] == theirs
    assert not state.keys


def test_the_order_of_results_survives_on_disk(workspace):
    path = data_file(workspace)
    before = everything(path)
    cells = workspace.pull(fl(workspace)).cells
    for name, key in (("One", "k1"), ("Two", "k2"), ("Three", "k1")):
        assert workspace.publish(reclassed(workspace, cells.ids, name, key=key)).changed
        assert workspace.pull(fl(workspace)).cells.classes == cells.classes
    workspace.retract(fl(workspace), ["k2"])
    assert everything(path)[cells.ids[0]]["class"] == "Three"
    workspace.publish(reclassed(workspace, cells.ids, "Two", key="k2"))
    workspace.retract(fl(workspace), ["k2"])
    assert everything(path)[cells.ids[0]]["class"] == "Three"
    workspace.retract(fl(workspace), ["k1"])
    assert everything(path) == before
