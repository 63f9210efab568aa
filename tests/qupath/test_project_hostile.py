"""Any value in project.qpproj may be anything: what comes out is an image or one of our errors, never a traceback."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxbridge.errors import MxbridgeError
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

ODD = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        10**30,
        float("nan"),
        float("inf"),
        "",
        "x",
        "../..",
        "file:/x",
        "file:/%00",
        "\ud800",
        [],
        [[]],
        {},
    ]
)


def places(node, path=()):
    """Paths to every value in a JSON document."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*path, key)
            yield from places(value, (*path, key))


@pytest.fixture(scope="module")
def moved(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    shutil.copytree(data / "qupath" / "v0.6.0", root / "p", ignore=shutil.ignore_patterns("data"))
    shutil.copytree(data / "qupath" / "images", root / "p" / "images", dirs_exist_ok=True)
    document = json.loads((root / "p" / "project.qpproj").read_text(encoding="utf-8"))
    builder = document["images"][0]["serverBuilder"]
    region = {"x": 1, "y": 2, "width": 30, "height": 40, "z": 0, "t": 0}
    document["images"][0]["serverBuilder"] = {"builderType": "cropped", "region": region, "builder": builder}
    builder = document["images"][1]["serverBuilder"]
    document["images"][1]["serverBuilder"] = {"builderType": "channels", "builder": builder, "channels": [builder]}
    return root / "p", document, list(places(document))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(choices=st.data())
def test_values_of_the_wrong_kind(moved, choices):
    folder, document, where = moved
    changed = copy.deepcopy(document)
    for _ in range(choices.draw(st.integers(1, 2))):
        *above, last = choices.draw(st.sampled_from(where))
        node = changed
        for key in above:
            if not isinstance(node, dict | list) or (isinstance(node, list) and key not in range(len(node))):
                break
            node = node.get(key) if isinstance(node, dict) else node[key]
        if isinstance(node, dict) or (isinstance(node, list) and last in range(len(node))):
            node[last] = copy.deepcopy(choices.draw(ODD))  # put twice, one list would hold itself
    (folder / "project.qpproj").write_text(json.dumps(changed), encoding="utf-8")
    try:
        workspace = QuPathWorkspace(folder)
        check_project(folder, ask_qupath=False)
    except MxbridgeError as error:
        assert "\n" not in str(error)
        return
    for ref in workspace.list():
        try:
            workspace.pull(ref)
        except MxbridgeError as error:
            assert "\n" not in str(error)
