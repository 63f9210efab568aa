"""Files as a workspace: what counts as an image, which mask is whose, and what a run may and may not do."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from mxbridge.cells import LabelCells, OutlineCells
from mxbridge.errors import InputError, SourceError, UnknownName, UsageError
from mxbridge.formats.labels import open_labels
from mxbridge.formats.ome_zarr_writer import OmeZarrWriter
from mxbridge.image import Box, Channel
from mxbridge.results import ImageRef, Results
from mxbridge.workspaces import files, open_workspace, workspace_kinds
from mxbridge.workspaces.files import FilesWorkspace
from mxbridge.workspaces.found_images import Found, find_images, match_masks

SHAPE = (30, 40)


def image(path: Path, channels: int = 3, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 200, (channels, *SHAPE)).astype("u2")
    tifffile.imwrite(path, pixels if channels > 1 else pixels[0], photometric="minisblack")
    return path


def mask(path: Path, cells: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(SHAPE, "u2")
    for k in range(cells):
        labels[2:8, 2 + 8 * k : 8 + 8 * k] = k + 1
    tifffile.imwrite(path, labels)
    return path


def channel_folder(folder: Path, count: int = 2) -> Path:
    for k in range(count):
        image(folder / f"m{k}.tif", 1, k)
    return folder


def names(workspace: FilesWorkspace) -> list[str]:
    return [ref.name for ref in workspace.list()]


def test_files_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b10.ome.tif", "b2.tif", "a.tif"):
        image(tmp_path / "images" / name)
    (tmp_path / "images/notes.txt").write_text("x")
    (tmp_path / "images/c.tif.12.mxbridge-part").write_bytes(b"half")
    assert names(FilesWorkspace(tmp_path / "images")) == ["a", "b2", "b10"]
    assert names(FilesWorkspace(str(tmp_path / "images/b*"))) == ["b2", "b10"]
    assert names(FilesWorkspace(str(tmp_path / "images/*"))) == ["a", "b2", "b10"]  # notes.txt is no image
    assert names(FilesWorkspace(str(tmp_path / "images/*"), tmp_path / "images/b2.tif")) == ["a", "b10"]
    assert names(FilesWorkspace([tmp_path / "images/b2.tif", tmp_path / "images"])) == ["b2", "a", "b10"]
    both = os.pathsep.join(str(tmp_path / "images" / n) for n in ("a.tif", "b2.tif"))
    assert names(open_workspace(f"files:{both}")) == ["a", "b2"]


def test_how_a_folder_is_taken(tmp_path: Path) -> None:
    channel_folder(tmp_path / "one")
    channel_folder(tmp_path / "many/ROI2")
    channel_folder(tmp_path / "many/ROI10")
    (tmp_path / "many/empty").mkdir()
    one = FilesWorkspace(tmp_path / "one")
    assert names(one) == ["one"]
    pulled = one.pull(one.list()[0])
    assert pulled.image.channel_names == ("m0", "m1") and "channels of one image" in pulled.warnings[0]
    assert names(FilesWorkspace(tmp_path / "many")) == ["ROI2", "ROI10"]
    assert names(FilesWorkspace(str(tmp_path / "many/ROI*"))) == ["ROI2", "ROI10"]
    image(tmp_path / "mixed/a.tif", 1)
    image(tmp_path / "mixed/b.tif", 3)
    mixed = FilesWorkspace(tmp_path / "mixed")
    assert names(mixed) == ["a", "b"] and "folder of images" in mixed.pull(mixed.list()[0]).warnings[0]


def test_own_outputs_are_no_inputs(tmp_path: Path) -> None:
    image(tmp_path / "a.tif")
    channel_folder(tmp_path / "mxbridge-runs/run1")
    path = tmp_path / "derived.zarr"
    OmeZarrWriter(path, (1, *SHAPE), np.uint8, [Channel("A")], (0.5, 0.5)).finish()
    assert names(FilesWorkspace(tmp_path)) == ["a"]
    assert names(FilesWorkspace(str(tmp_path / "**/*.tif"))) == ["a"]
    assert names(FilesWorkspace(path)) == ["derived"]  # named one by one


def test_masks_are_no_images(tmp_path: Path) -> None:
    image(tmp_path / "fov1.tif")
    mask(tmp_path / "fov1_mask.tif")
    workspace = FilesWorkspace(tmp_path, tmp_path / "fov1_mask.tif")
    assert names(workspace) == ["fov1"]
    pulled = workspace.pull(workspace.list()[0])
    assert isinstance(pulled.cells, LabelCells) and pulled.cells.ids == ("1", "2", "3")
    assert workspace.pull(workspace.list()[0], "annotations").cells is None


def test_pixel_size_and_plane(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "z.ome.tif",
        np.arange(5, dtype="u1")[:, None, None] * np.ones((5, 30, 40), "u1"),
        metadata={"axes": "ZYX"},
    )
    workspace = FilesWorkspace(tmp_path / "z.ome.tif", um_per_px=0.5, plane=(3, 0))
    pulled = workspace.pull(workspace.list()[0])
    assert pulled.image.pixel_size_um == (0.5, 0.5) and pulled.image.levels[0].compute().max() == 3
    assert FilesWorkspace(tmp_path / "z.ome.tif").pull(workspace.list()[0]).image.pixel_size_um is None


def test_images_by_name_or_path(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        image(tmp_path / folder / "stack.tif")
    image(tmp_path / "x/other.tif")
    workspace = FilesWorkspace(str(tmp_path / "*/*.tif"))
    assert len(workspace.list(["stack"])) == 2
    path = str(tmp_path / "y/stack.tif")
    assert workspace.list([path, path]) == [ImageRef(path, "stack")]
    with pytest.raises(UnknownName, match=r"stack.*other|other.*stack"):
        workspace.list(["stak"])
    with pytest.raises(UnknownName):
        workspace.pull(ImageRef("/elsewhere", "elsewhere"))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        FilesWorkspace(tmp_path / "gone.tif").list()
    with pytest.raises(InputError, match="nothing matches"):
        FilesWorkspace(str(tmp_path / "*.tif")).list()
    with pytest.raises(InputError, match="no image"):
        FilesWorkspace(tmp_path).list()
    with pytest.raises(UsageError):
        FilesWorkspace(())
    image(tmp_path / "a.tif")
    with pytest.raises(SourceError):
        FilesWorkspace(tmp_path / "a.tif", tmp_path / "gone.tif").list()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the privileges of root, whom no permission stops."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs Unix permissions")
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder anybody may enter, with one inside that nobody may, and one whose files nobody may open."""
    folder = Path(tempfile.mkdtemp()).resolve()  # pytest's own folders are closed to others
    try:
        for name in ("shut", "listed", "open"):
            image(folder / name / "a.tif")
            mask(folder / name / "a_mask.tif")
        FilesWorkspace(folder / "shut").list()  # what is imported late must be there before privileges go
        folder.chmod(0o755)
        (folder / "shut").chmod(0o000)
        (folder / "listed").chmod(0o444)
        (folder / "open/a.tif").chmod(0o000)
        yield folder
    finally:
        for name in ("shut", "listed"):
            (folder / name).chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "named",
    ["shut", "shut/a.tif", "shut/*.tif", "*/a.tif", "listed", "listed/a.tif", "listed/*.tif", "open/a.tif", "."],
)
def test_what_may_not_be_read_is_named(locked: Path, named: str) -> None:
    if named == "*/a.tif":
        (locked / "open/a.tif").unlink()
    with as_nobody(), pytest.raises(SourceError, match=r"no permission to (read|look into) it") as raised:
        workspace = FilesWorkspace(str(locked / named))
        for ref in workspace.list():
            workspace.pull(ref)
    assert str(locked) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("named", ["shut", "shut/a_mask.tif", "listed", "listed/a_mask.tif", "open/a.tif"])
def test_masks_that_may_not_be_read_are_named(locked: Path, tmp_path: Path, named: str) -> None:
    image(locked / "field.tif")
    with as_nobody(), pytest.raises(SourceError, match="no permission"):
        workspace = FilesWorkspace(locked / "field.tif", locked / named)
        workspace.pull(workspace.list()[0])


def test_a_drive_that_answers_with_errors_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "images/a.tif")
    monkeypatch.setattr(
        Path, "iterdir", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error", str(path)))
    )
    with pytest.raises(SourceError, match=r"images: cannot be read \(Input/output error\)"):
        FilesWorkspace(tmp_path / "images").list()


def test_the_system_s_own_folders_are_passed_over(tmp_path: Path) -> None:
    image(tmp_path / "a.tif")
    channel_folder(tmp_path / "lost+found")
    assert names(FilesWorkspace(tmp_path)) == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Everything handed on can be written to a file in UTF-8, and still finds the image."""
    for name in (b"\xff.tif", b"a\xe4.tif"):
        image(tmp_path / "images" / os.fsdecode(name))
    mask(tmp_path / "masks" / os.fsdecode(b"\xff_mask.tif"))
    mask(tmp_path / "masks" / os.fsdecode(b"a\xe4_mask.tif"), 2)
    workspace = FilesWorkspace(tmp_path / "images", tmp_path / "masks")
    refs = {ref.name: ref for ref in workspace.list()}
    assert list(refs) == ["a\\xe4", "\\xff"]
    for name, count in (("a\\xe4", 2), ("\\xff", 3)):
        pulled = workspace.pull(refs[name])
        assert pulled.cells is not None and len(pulled.cells) == count
        assert pulled.image.levels[0].compute().shape == (3, *SHAPE)
        for text in (refs[name].id, pulled.image.name, workspace.address, *pulled.all_warnings):
            text.encode()
        named = FilesWorkspace(refs[name].id)  # the id names the file, too
        assert named.list() == [refs[name]]
        open_workspace(named.address).pull(refs[name])
    assert workspace.list([os.fsdecode(b"\xff")]) == workspace.list(["\\xff"]) == [refs["\\xff"]]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_channels_whose_files_are_no_text(tmp_path: Path) -> None:
    image(tmp_path / "one" / os.fsdecode(b"CD3\xb5.tif"), 1)
    image(tmp_path / "one" / "DAPI.tif", 1)
    workspace = FilesWorkspace(tmp_path / "one")
    assert workspace.pull(workspace.list()[0]).image.channel_names == ("CD3\\xb5", "DAPI")


def found(*paths: str) -> list[Found]:
    return [Found(Path("/d") / p, Path(p).stem) for p in paths]


def matched(images: list[Found], *masks: str) -> dict[str, str]:
    pairs, _ = match_masks(images, [Path("/d") / m for m in masks])
    return {str(i.relative_to("/d")): str(m.relative_to("/d")) for i, m in pairs.items()}


def test_masks_find_their_images_by_whole_names() -> None:
    assert matched(found("fov1.tif", "fov10.tif"), "m/fov10_mask.tif", "m/fov1_mask.tif") == {
        "fov1.tif": "m/fov1_mask.tif", "fov10.tif": "m/fov10_mask.tif",
    }  # fmt: skip
    assert matched(found("ROI1.tif", "ROI1_tail.tif"), "ROI1_tail_mask.tif", "ROI1_mask.tif") == {
        "ROI1.tif": "ROI1_mask.tif", "ROI1_tail.tif": "ROI1_tail_mask.tif",
    }  # fmt: skip
    assert matched(found("a.tif", "b.tif"), "mask-A.tif") == {"a.tif": "mask-A.tif"}
    assert matched(found("x.tif"), "unrelated.tif") == {"x.tif": "unrelated.tif"}
    assert matched(found("ROI1.tif", "ROI2.tif"), "ROI1_Cell_mask.tiff", "ROI1_Nuclei_mask.tiff", "ROI2_Cell_mask.tiff") == {
        "ROI1.tif": "ROI1_Cell_mask.tiff", "ROI2.tif": "ROI2_Cell_mask.tiff",
    }  # fmt: skip
    assert matched(found("p/stack.tif", "q/stack.tif"), "q/q_mask.tif", "p/p_mask.tif") == {
        "p/stack.tif": "p/p_mask.tif", "q/stack.tif": "q/q_mask.tif",
    }  # fmt: skip


def test_masks_that_stay_ambiguous() -> None:
    with pytest.raises(InputError, match=r"several masks fit the image a: a_1\.tif, a_2\.tif"):
        match_masks(found("a.tif", "b.tif"), [Path("/m/a_1.tif"), Path("/m/a_2.tif")])
    with pytest.raises(InputError, match="none of the 3 masks"):
        match_masks(found("a.tif", "b.tif"), [Path(f"/m/x{k}.tif") for k in range(3)])
    pairs, remarks = match_masks(found("a.tif", "b.tif"), [Path("/m/x1.tif"), Path("/m/x2.tif")])
    assert pairs[Path("/d/b.tif")] == Path("/m/x2.tif") and "by order" in remarks[0]


@given(st.integers(0, 999), st.integers(0, 999))
def test_no_number_is_taken_for_another(one: int, other: int) -> None:
    images = found(*dict.fromkeys([f"fov{one}.tif", f"fov{other}.tif", "third.tif"]))
    pairs, _ = match_masks(images, [Path(f"/m/fov{one}_cells.tif")])
    assert list(pairs) == [Path(f"/d/fov{one}.tif")]


def test_a_mask_of_another_size_and_geojson(tmp_path: Path) -> None:
    image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "m.tif", np.ones((30, 41), "u2"))
    workspace = FilesWorkspace(tmp_path / "a.tif", tmp_path / "m.tif")
    with pytest.raises(InputError, match=r"41 x 30.*40 x 30"):
        workspace.pull(workspace.list()[0])
    (tmp_path / "c.geojson").write_text(
        '[{"type":"Feature","id":"u","geometry":{"type":"Polygon","coordinates":[[[1,1],[9,1],[9,9],[1,1]]]},'
        '"properties":{"objectType":"annotation"}}]'
    )
    workspace = FilesWorkspace(tmp_path / "a.tif", tmp_path / "c.geojson")
    assert isinstance(workspace.pull(workspace.list()[0], "annotations").cells, OutlineCells)
    assert workspace.pull(workspace.list()[0], "cells").cells is None


def test_a_mask_is_scanned_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []

    def counted(path: Path, *args: object, **kwargs: object) -> object:
        scans.append(path)
        return open_labels(path, *args, **kwargs)

    monkeypatch.setattr(files, "open_labels", counted)
    image(tmp_path / "a.tif"), mask(tmp_path / "a_mask.tif", cells=3)
    workspace = FilesWorkspace(tmp_path / "a.tif", tmp_path / "a_mask.tif")
    (ref,) = workspace.list()
    before = workspace.pull(ref).cells
    assert workspace.pull(ref, None).cells is None
    assert (len(before), len(workspace.pull(ref).cells), len(scans)) == (3, 3, 1)
    mask(tmp_path / "a_mask.tif", cells=4)
    after = workspace.pull(ref).cells
    assert (len(after), len(scans)) == (4, 2)
    assert after.geometry_hash() != before.geometry_hash()


def test_results_stay_in_the_run_folder(tmp_path: Path) -> None:
    image(tmp_path / "a.tif")
    workspace = FilesWorkspace(tmp_path / "a.tif", runs_home=tmp_path / "out/runs")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    results = Results(workspace.list()[0], "run")
    assert not workspace.publish(results).changed and workspace.holds(results)
    with pytest.raises(UsageError, match="run folder"):
        workspace.retract(workspace.list()[0], ["key"])
    workspace.check_writable()
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_runs_go_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "a.tif")
    assert FilesWorkspace("a.tif").runs_home == tmp_path / "mxbridge-runs"


def test_the_address_opens_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a.tif")
    image(tmp_path / "b.tif")
    monkeypatch.chdir(tmp_path)
    workspace = FilesWorkspace(["a.tif", "b.tif"])
    monkeypatch.chdir("/")
    assert open_workspace(workspace.address).list() == [
        ImageRef(str(tmp_path / "a.tif"), "a"), ImageRef(str(tmp_path / "b.tif"), "b"),
    ]  # fmt: skip


def test_the_one_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a.tif")
    assert {"files", "project"} <= set(workspace_kinds())
    assert isinstance(open_workspace(tmp_path / "a.tif"), FilesWorkspace)
    assert isinstance(open_workspace("files:", paths=[tmp_path / "a.tif"], um_per_px=1.0), FilesWorkspace)
    with pytest.raises(UsageError, match="'minerva' is installed"):
        open_workspace("minerva:image:1")
    with pytest.raises(UsageError, match="labls"):
        open_workspace(tmp_path / "a.tif", labls="x")
    monkeypatch.setenv("MXBRIDGE_PLUGINS", "files")
    assert set(workspace_kinds()) == {"files"}
    with pytest.raises(UsageError, match="'project'"):
        open_workspace(tmp_path / "x.qpproj")
    monkeypatch.setenv("MXBRIDGE_PLUGINS", "")
    assert workspace_kinds() == {}


def test_labels_inside_an_ome_zarr_are_used(tmp_path: Path, shared: Path) -> None:
    import zarr

    path = tmp_path / "i.zarr"
    shutil.copytree(shared / "data/omezarr/ngio_v04/images/test_image_cyx.zarr", path, copy_function=shutil.copyfile)
    zarr.open_array(str(path / "labels/label/0"), mode="r+")[..., 3:9, 5:20] = 7
    workspace = FilesWorkspace(path)
    cells = workspace.pull(workspace.list()[0]).cells
    assert cells is not None and cells.ids == ("7",) and cells.raster(Box(0, 0, 64, 64)).sum() == 6 * 15


@pytest.mark.shared
def test_real_folders(shared: Path) -> None:
    data = shared / "data"
    spectre = FilesWorkspace(
        data / "imc_spectre", data / "imc_spectre/masks_simple", stretched_labels=True, um_per_px=1.0
    )
    counts = [len(spectre.pull(ref).cells or ()) for ref in spectre.list()]
    assert names(spectre) == ["ROI002", "ROI004", "ROI006", "ROI008"] and counts == [2749, 4204, 4199, 1684]
    raw = FilesWorkspace(data / "imc_spectre/ROI002", data / "imc_spectre/masks_simple/ROI002_Cell_mask.tiff")
    assert "--stretched-labels" in raw.pull(raw.list()[0]).warnings[-1]
    fov8 = FilesWorkspace(data / "mibi_ark_fov8", data / "mibi_ark_fov8/fov8_whole_cell.tif")
    pulled = fov8.pull(fov8.list()[0])
    assert names(fov8) == ["fov8"] and len(pulled.image.channels) == 21 and len(pulled.cells or ()) == 272
    crops = FilesWorkspace(str(data / "imc_hpap_crops/**/stacked.tiff"), str(data / "imc_hpap_crops/**/*_mask.tiff"))
    assert sum(len(crops.pull(ref).cells or ()) for ref in crops.list()) == 506
    assert len({i.path for i in find_images([data / "imc_mock_steinbock/img"])}) == 3
