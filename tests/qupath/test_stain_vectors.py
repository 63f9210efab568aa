"""Stain vectors that people set in QuPath."""

from __future__ import annotations

import json

import pytest

from mxbridge.errors import InputError
from mxbridge.results import ImageRef
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, new_image_data
from mxbridge.workspaces.qupath.stain_vectors import stains_of
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

HE, FLUORESCENCE = ImageRef("1", "bf"), ImageRef("2", "fl")
DAB = {
    "Name": "H-DAB modified", "Stain 1": "Hematoxylin", "Values 1": "0.65 0.70 0.29", "Stain 2": "DAB",
    "Values 2": "0.27 0.57 0.78", "Background": " 240 241.5 242 ",
}  # fmt: skip


def test_of_projects_that_qupath_wrote(golden, version):
    workspace = QuPathWorkspace(golden(version))
    found = workspace.stain_vectors(HE)
    assert (found.name, found.second_name, found.background) == ("H&E default", "Eosin", (255, 255, 255))
    assert found.hematoxylin == pytest.approx((0.65111, 0.70119, 0.29049), abs=1e-5)
    assert found.second == pytest.approx((0.21590, 0.80120, 0.55810), abs=1e-5)
    assert found.residual is None
    assert workspace.stain_vectors(FLUORESCENCE) is None


@pytest.mark.parametrize("kind", ["BRIGHTFIELD_H_DAB", "BRIGHTFIELD_OTHER", "UNSET"])
def test_of_files_that_we_write(workspace, kind):
    project = Project.open(workspace.address)
    tree = new_image_data(project.entry(1).builder, "0.6.0", kind)
    project.data_path(1).write_bytes(tree.to_bytes())
    found = workspace.stain_vectors(HE)
    assert (found and found.second_name) == ("DAB" if kind == "BRIGHTFIELD_H_DAB" else None)
    project.data_path(1).unlink()
    assert workspace.stain_vectors(HE) is None


def test_in_any_order_with_a_third_stain_and_a_title():
    assert stains_of(json.dumps(DAB)).background == (240, 241.5, 242)
    turned = {
        **DAB,
        "Stain 1": "DAB",
        "Values 1": DAB["Values 2"],
        "Stain 2": "Hematoxylin",
        "Values 2": DAB["Values 1"],
    }
    assert stains_of("Color deconvolution stains: " + json.dumps(turned)) == stains_of(json.dumps(DAB))
    third = stains_of(json.dumps({**DAB, "Stain 3": "Eosin", "Values 3": "0.07 0.99 0.11"}))
    assert (third.second_name, third.residual) == ("DAB", (0.07, 0.99, 0.11))
    drawn = stains_of(json.dumps({**DAB, "Stain 3": "Residual", "Values 3": "0.5 0.5 0.5"}))
    assert (drawn.second_name, drawn.residual) == ("DAB", (0.5, 0.5, 0.5))
    for text in (
        None,
        json.dumps({**DAB, "Stain 1": "Fast red"}),
        json.dumps({"Stain 1": "Hematoxylin", "Values 1": "1 1 1"}),
    ):
        assert stains_of(text) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"Stain 1": "Hematoxylin"}', json.dumps({**DAB, "Values 1": "a b c"}), json.dumps({**DAB, "Values 2": "1 2"}),
     json.dumps({**DAB, "Values 2": "nan 0 0"}), json.dumps({**DAB, "Values 2": DAB["Values 1"]}), json.dumps({**DAB, "Background": "0 0 0"}),
     "[" * 100_000],
)  # fmt: skip
def test_what_is_no_stain_is_an_input_error(text, workspace):
    with pytest.raises(InputError):
        stains_of(text)


def test_the_image_is_named_where_its_stains_are_wrong(workspace):
    path = Project.open(workspace.address).data_path(1)
    path.write_bytes(path.read_bytes().replace(b'"Values 2" : "0.2', b'"Values 2" : "x.2'))
    assert ImageDataFile.read(path).image_type == "BRIGHTFIELD_H_E"
    with pytest.raises(InputError, match=r"data\.qpdata"):
        workspace.stain_vectors(HE)
