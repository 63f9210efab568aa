"""Images and cells out of a project: names, addresses, pixels, which objects are cells, and what is refused."""

from __future__ import annotations

import json
import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile

from mxbridge.errors import (
    BrokenFile,
    InputError,
    Locked,
    OutputError,
    SourceError,
    UnknownName,
    Unsupported,
    UsageError,
)
from mxbridge.formats.ome_tiff import write_ome_tiff
from mxbridge.image import Box, Channel
from mxbridge.results import ImageRef
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, NewPathObject, NewROI
from mxbridge.workspaces.qupath.uris import uri_of
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace
from tests.outlines import areas

from .conftest import FL, data_file, fl, truth_of


def rewrite(project, change):
    """Edit project.qpproj as a user's program would."""
    path = project / "project.qpproj"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return QuPathWorkspace(project)


def entry_of(document):
    return document["images"][1]


def test_images_are_listed_by_name_and_id(workspace):
    both = [ImageRef("1", "bf_rgb.tif"), ImageRef("2", "fl_5ch.ome.tif")]
    assert workspace.list() == both
    assert workspace.list(["2", "fl_5ch.ome.tif"]) == both[1:]
    assert workspace.list(["FL_5CH.OME.TIF", "1"]) == both
    with pytest.raises(UnknownName, match=r"fl_5ch\.ome\.tif \(2\)") as caught:
        workspace.list(["fl_5ch"])
    assert caught.value.exit_code == 2


def test_images_of_one_name_are_all_meant_and_told_apart_by_id(project):
    workspace = rewrite(project, lambda d: entry_of(d).update(imageName="bf_rgb.tif"))
    assert [r.id for r in workspace.list(["bf_rgb.tif"])] == ["1", "2"]


def test_images_made_by_mxbridge_are_no_inputs_unless_named(project):
    workspace = rewrite(project, lambda d: entry_of(d)["metadata"].update({"_mxbridge.key": "k"}))
    assert [r.id for r in workspace.list()] == ["1"]
    assert [r.id for r in workspace.list(["fl_5ch.ome.tif"])] == ["2"]


def test_the_project_may_be_given_as_folder_or_file(project):
    by_file = QuPathWorkspace(project / "project.qpproj")
    assert by_file.address == QuPathWorkspace(str(project)).address == str(project / "project.qpproj")
    assert by_file.runs_home == project / "mxbridge-runs"
    assert by_file.derived_folder(fl(by_file)) == project / "mxbridge" / "derived" / "2"


def test_pull_in_every_version(golden, version):
    folder = golden(version)
    workspace = QuPathWorkspace(folder)
    pulled = workspace.pull(fl(workspace))
    truth = truth_of(folder)
    image = pulled.image
    assert image.name == "fl_5ch.ome.tif"
    assert image.channel_names == ("DAPI", "CD3", "CD8 µ test", "PanCK", "Ki67")
    assert image.channels[3].color == 0xFFE000
    assert image.pixel_size_um == (0.5, 0.5)
    assert image.levels[0][:, 0, 0].compute().tolist() == [1000, 1500, 2000, 2500, 3000]
    cells = [o for o in truth["objects"] if o["type"] == "PathCellObject"]
    assert {o["id"].lower() for o in cells} == set(pulled.cells.ids)
    assert len(pulled.cells) == 200
    named = {o["id"].lower(): o["class"] for o in cells}
    assert dict(zip(pulled.cells.ids, pulled.cells.classes, strict=True)) == named
    found = dict(zip(pulled.cells.ids, areas(pulled.cells.outlines), strict=True))
    for o in cells:
        assert found[o["id"].lower()] == pytest.approx(o["roi"]["area"], rel=1e-3)
    with_nucleus = [i for i in range(200) if pulled.cells.nuclei.rings_of(i)]
    assert len(with_nucleus) == 180
    assert pulled.cells.raster(Box(0, 0, 512, 512)).max() <= 200
    assert pulled.warnings == ()


def test_brightfield_is_rgb(workspace):
    image = workspace.pull(workspace.list(["1"])[0]).image
    assert image.rgb
    assert image.channel_names == ("Red", "Green", "Blue")
    assert image.pixel_size_um == (0.25, 0.25)


def test_other_kinds_of_cells(workspace):
    ref = fl(workspace)
    assert len(workspace.pull(ref, "detections").cells) == 50
    annotations = workspace.pull(ref, "annotations")
    found = areas(annotations.cells.outlines)
    assert len(found) == 5
    assert any("without an area" in w for w in annotations.warnings)
    truth = truth_of(workspace.project.folder)
    expected = {
        o["id"].lower(): o["roi"]["area"]
        for o in truth["objects"]
        if o["type"] == "PathAnnotationObject" and (o["roi"]["area"] or 0) > 0
    }
    assert dict(zip(annotations.cells.ids, found, strict=True)) == pytest.approx(expected, rel=5e-3)
    holed = [k for k in range(5) if len(annotations.cells.outlines.rings_of(k)) == 3]
    assert len(holed) == 1  # two parts, one of them with a hole


@pytest.mark.parametrize("plane", [{"z": 1}, {"t": 2}])
def test_cells_on_other_planes_are_left_out_and_said(workspace, plane):
    path, cells = data_file(workspace), workspace.pull(fl(workspace)).cells
    tree = ImageDataFile.read(path)
    tree.add_object(
        NewPathObject("cell", "11111111-2222-4333-8444-555555555555", NewROI.rectangle(0, 0, 9, 9, **plane))
    )
    path.write_bytes(tree.to_bytes())
    pulled = workspace.pull(fl(workspace))
    assert pulled.cells.ids == cells.ids
    assert any("1 cells on other planes" in w for w in pulled.warnings)


def test_an_image_without_data_has_no_cells(workspace):
    shutil.rmtree(data_file(workspace).parent)
    pulled = workspace.pull(fl(workspace))
    assert pulled.cells is None
    assert pulled.image.shape == (512, 512)


@pytest.mark.parametrize("name", ["03-truncated-half", "04-truncated-no-eof", "16-version-99", "19-classdesc-cycle"])
def test_damaged_data_is_an_error_and_never_an_empty_image(workspace, data, name):
    shutil.copy(data / "qupath" / "broken" / f"{name}.qpdata", data_file(workspace))
    with pytest.raises(InputError, match=r"data\.qpdata") as caught:
        workspace.pull(fl(workspace))
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)


def test_a_given_pixel_size_wins_and_says_so(project):
    pulled = QuPathWorkspace(project, um_per_px=0.25).pull(ImageRef(FL, "x"))
    assert pulled.image.pixel_size_um == (0.25, 0.25)
    assert any("0.25" in w and "0.5" in w for w in pulled.warnings)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="um-per-px"):
            QuPathWorkspace(project, um_per_px=wrong)


def test_names_colours_and_pixel_size_of_the_entry_win_over_the_file(project):
    def change(document):
        metadata = entry_of(document)["serverBuilder"]["metadata"]
        metadata["channels"][1] = {"name": "CD3 (renamed)", "color": -1}
        metadata["pixelCalibration"]["pixelWidth"]["value"] = 0.4
        metadata["pixelCalibration"]["pixelHeight"]["value"] = 0.45

    image = rewrite(project, change).pull(ImageRef(FL, "x")).image
    assert image.channel_names[1] == "CD3 (renamed)"
    assert image.channels[1].color == 0xFFFFFF
    assert image.pixel_size_um == (0.45, 0.4)


def test_an_uncalibrated_entry_takes_the_pixel_size_of_the_file(project):
    def change(document):
        for side in ("pixelWidth", "pixelHeight"):
            entry_of(document)["serverBuilder"]["metadata"]["pixelCalibration"][side] = {"value": 1.0, "unit": "px"}

    assert rewrite(project, change).pull(ImageRef(FL, "x")).image.pixel_size_um == (0.5, 0.5)


@pytest.mark.parametrize("side", ["width", "height"])
def test_another_file_of_the_same_name_is_refused(project, side):
    workspace = rewrite(project, lambda d: entry_of(d)["serverBuilder"]["metadata"].update({side: 513}))
    with pytest.raises(InputError, match="513"):
        workspace.pull(fl(workspace))


def test_another_number_of_channels_is_refused(project):
    workspace = rewrite(project, lambda d: entry_of(d)["serverBuilder"]["metadata"]["channels"].pop())
    with pytest.raises(InputError, match="5 channels"):
        workspace.pull(fl(workspace))


def test_a_missing_image_says_where_it_was_looked_for_and_a_path_map_helps(project):
    elsewhere = project.parent / "elsewhere"
    (project / "images").rename(elsewhere)
    with pytest.raises(SourceError, match="--path-map") as caught:
        QuPathWorkspace(project).pull(ImageRef(FL, "x"))
    assert str(project / "images" / "fl_5ch.ome.tif") in str(caught.value)
    assert caught.value.exit_code == 4
    mapped = QuPathWorkspace(project, path_maps=[f"/srv/golden/v0.6.0/images={elsewhere}"])
    assert mapped.pull(ImageRef(FL, "x")).image.files == (elsewhere / "fl_5ch.ome.tif",)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_accents_may_be_stored_in_another_way_than_on_this_disk(project, stored):
    name = unicodedata.normalize(stored, "Gewebe é ü.ome.tif")
    on_disk = unicodedata.normalize({"NFC": "NFD", "NFD": "NFC"}[stored], name)
    (project / "images" / "fl_5ch.ome.tif").rename(project / "images" / on_disk)

    def renamed(document):
        builder = entry_of(document)["serverBuilder"]
        builder["uri"] = builder["uri"].replace("fl_5ch.ome.tif", uri_of(Path("/") / name)[len("file:/") :])
        entry_of(document)["imageName"] = name

    workspace = rewrite(project, renamed)
    assert [ref.id for ref in workspace.list([on_disk])] == [FL]
    assert workspace.pull(ImageRef(FL, "x")).image.files[0].name == on_disk


def test_an_image_on_a_server_is_never_fetched(project):
    workspace = rewrite(project, lambda d: entry_of(d)["serverBuilder"].update(uri="https://example.org/a.tif"))
    with pytest.raises(InputError, match="not a file URI"):
        workspace.pull(fl(workspace))


def test_a_truncated_image_is_an_error_of_one_line(project):
    path = project / "images" / "fl_5ch.ome.tif"
    path.write_bytes(path.read_bytes()[:50_000])
    workspace = QuPathWorkspace(project)
    with pytest.raises(BrokenFile):
        workspace.pull(fl(workspace)).image.levels[0].compute(scheduler="synchronous")


@pytest.mark.parametrize(
    "kind", ["rotated", "affine", "sparse", "color_deconvolved", "swapRedBlue", "from the future", None]
)
def test_other_servers_are_refused_by_name(project, kind):
    def change(document):
        entry_of(document)["serverBuilder"] = {"builderType": kind, "builder": entry_of(document)["serverBuilder"]}

    workspace = rewrite(project, change)
    with pytest.raises(Unsupported, match=str(kind)):
        workspace.pull(fl(workspace))


def test_a_cropped_image(project):
    def change(document):
        inner = entry_of(document)["serverBuilder"]
        outer = {**inner["metadata"], "width": 200, "height": 100, "levels": []}
        region = {"x": 30, "y": 50, "width": 200, "height": 100, "z": 0, "t": 0}
        entry_of(document)["serverBuilder"] = {
            "builderType": "cropped",
            "region": region,
            "builder": inner,
            "metadata": outer,
        }

    whole = QuPathWorkspace(project).pull(ImageRef(FL, "x")).image
    image = rewrite(project, change).pull(ImageRef(FL, "x")).image
    assert image.shape == (100, 200)
    assert np.array_equal(image.levels[0].compute(), whole.levels[0][:, 50:150, 30:230].compute())
    assert image.identity != whole.identity
    outside = rewrite(project, lambda d: entry_of(d)["serverBuilder"]["region"].update(x=400))
    with pytest.raises(InputError, match="not inside"):
        outside.pull(fl(outside))


def joined(project, extra, **outer):
    def change(document):
        base = entry_of(document)["serverBuilder"]
        second = {
            "builderType": "uri",
            "providerClassName": base["providerClassName"],
            "uri": extra.as_uri(),
            "args": [],
        }
        both = {"builderType": "channels", "builder": base, "channels": [base, second]}
        names = [*base["metadata"]["channels"], {"name": "Nimbus µ", "color": -65536}]
        entry_of(document)["serverBuilder"] = {**both, "metadata": {**base["metadata"], "channels": names, **outer}}

    return rewrite(project, change)


def test_channels_joined_from_two_files(project):
    extra = project / "derived.ome.tif"
    plane = np.arange(512 * 512, dtype=np.uint16).reshape(1, 512, 512)
    write_ome_tiff(extra, da.from_array(plane), [Channel("x")], (0.5, 0.5))
    workspace = joined(project, extra)
    image = workspace.pull(fl(workspace)).image
    assert image.channel_names[-1] == "Nimbus µ"
    assert image.channels[-1].color == 0xFF0000
    assert image.pixel_size_um == (0.5, 0.5)
    assert image.levels[0][:, 0, 1].compute().tolist()[-1] == 1
    assert image.levels[0][0, 0, 0].compute() == 1000
    assert extra in image.files


def test_joined_files_of_another_size_are_refused(project):
    extra = project / "small.tif"
    tifffile.imwrite(extra, np.zeros((256, 256), np.uint16))
    workspace = joined(project, extra)
    with pytest.raises(InputError, match="256 x 256"):
        workspace.pull(fl(workspace))


def test_builders_nested_without_end(project):
    def change(document):
        builder = entry_of(document)["serverBuilder"]
        for _ in range(200):
            builder = {
                "builderType": "cropped",
                "builder": builder,
                "region": {"x": 0, "y": 0, "width": 9, "height": 9},
            }
        entry_of(document)["serverBuilder"] = builder

    workspace = rewrite(project, change)
    with pytest.raises(InputError):
        workspace.pull(fl(workspace))


def test_unknown_references(workspace):
    with pytest.raises(SourceError, match="no image with id 99"):
        workspace.pull(ImageRef("99", "x"))
    for odd in ("../1", "", "²"):
        with pytest.raises(UnknownName):
            workspace.pull(ImageRef(odd, "x"))


def test_one_run_at_a_time(project):
    first, second = QuPathWorkspace(project), QuPathWorkspace(project)
    told = []
    with first.locked(), first.locked():  # a run may publish while it holds the project
        with pytest.raises(Locked, match=r"process \d+ on .* since") as caught, second.locked(0.3, told=told.append):
            pass
        assert caught.value.exit_code == 7
        assert "waiting up to 0.3 s" in told[0]
        with ThreadPoolExecutor(1) as pool, pytest.raises(Locked, match="another thread"):
            pool.submit(first.locked().__enter__).result(30)
    with second.locked():
        pass
    assert not (project / "mxbridge" / ".lock-owner.json").exists()


def test_the_second_run_waits_for_the_first(project):
    import subprocess
    import sys
    import time

    code = (
        "import sys, time\n"
        "from mxbridge.workspaces.qupath.lock import ProjectLock\n"
        "from pathlib import Path\n"
        "with ProjectLock(Path(sys.argv[1])).held():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(1.5)\n"
    )
    workspace = QuPathWorkspace(project)
    with subprocess.Popen([sys.executable, "-c", code, workspace.own_folder], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Locked, match=f"process {other.pid} "), workspace.locked():
            pass
        started = time.monotonic()
        with workspace.locked(60):
            assert time.monotonic() - started > 0.2
        assert other.wait() == 0


def test_writability_is_known_before_the_work(project, monkeypatch):
    workspace = QuPathWorkspace(project)
    workspace.check_writable()
    monkeypatch.setattr("os.access", lambda path, mode: "data" not in str(path))
    with pytest.raises(OutputError, match="read-only"):
        workspace.check_writable()
    monkeypatch.undo()
    shutil.move(project / "data" / "1", project / "real")
    (project / "data" / "1").symlink_to(project / "real")
    with pytest.raises(OutputError, match="symbolic link"):
        workspace.check_writable()


@pytest.mark.shared
def test_objects_of_before_0_4_are_read_and_not_written(shared, tmp_path):
    import zipfile

    from mxbridge.results import Measurement, Results

    with zipfile.ZipFile(shared / "data" / "qupath" / "stardist_qupath_example_project.zip") as archive:
        archive.extractall(tmp_path)
    workspace = QuPathWorkspace(tmp_path / "qupath_example_project")
    ref = workspace.list()[0]
    pulled = workspace.pull(ref, "annotations")
    assert pulled.cells.ids[0] == "#1"
    assert len(pulled.cells) == 19
    assert any("nothing can be published on this image: it has data version 2" in w for w in pulled.warnings)
    results = Results(ref, "r", pulled.cells.ids, (Measurement("a", np.zeros(19, np.float32), "k"),))
    with pytest.raises(OutputError, match="data version 2"):
        workspace.publish(results)
