"""Sums of attributions per marker: of the published program's tiles, and of models whose weights are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mxbridge.errors import BrokenFile, InputError, UnknownName, UsageError
from mxbridge.image import Box
from mxbridge.models.attribution import AttributionSettings
from mxbridge.models.maxim import Maxim, load_checkpoint
from mxbridge.report import importance_plot
from mxbridge.stream.engine import Engine
from mxbridge.tasks.importance import ImportanceOptions, ImportanceTask, importance
from mxbridge.tasks.importance_of_image import Places, load
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.linked_stains import MARKERS, UM, save_model, shared_mixing, stains

FEW = AttributionSettings(steps=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Maxim:
    return save_model(tmp_path_factory.mktemp("model") / "m.safetensors", shared_mixing())


def run(models: list[Maxim], images: dict[str, np.ndarray], home: Path, options: ImportanceOptions, **more: object):
    names = more.pop("names", MARKERS)
    workspace = MemoryWorkspace({n: (p, names, more.get("um", UM)) for n, p in images.items()}, runs_home=home)
    finished, table = importance(workspace, models, Engine(device="cpu"), options)
    finished.raise_for_errors()
    return finished, table


@pytest.mark.shared
def test_the_published_programs_files(shared: Path, tmp_path: Path) -> None:
    oracle = shared / "oracles" / "maxim"
    panel = ("DAPI", "FOXP3", "CD4", "CD8", "PDL1", "KI67", "CK")
    inputs = [m for m in panel if m != "KI67"]
    peer = load_checkpoint(oracle / "checkpoint.pt", inputs, ["KI67"], 1.0)
    images = {f"tile_{k}.npy": np.load(oracle / f"tile_{k}.npy", allow_pickle=False) for k in (1, 2)}
    options = ImportanceOptions(compat="maxim", compat_pad=32, split="tiles")
    finished, table = run([peer], images, tmp_path, options, names=panel, um=None)
    for short in ("abs", "pos", "neg"):
        name = f"attributions_tiles_32_32_attributions_{short}.csv"
        ours, theirs = pd.read_csv(finished.run.path / name), pd.read_csv(oracle / name)
        assert list(ours.columns) == list(theirs.columns)
        assert list(ours["image_path"]) == list(theirs["image_path"])
        np.testing.assert_allclose(ours[inputs], theirs[inputs], rtol=1e-3)
    for k, folder in enumerate(sorted((finished.run.path / "images").iterdir()), start=1):
        ours = np.load(folder / f"tile_{k}_attr.npy", allow_pickle=False)
        np.testing.assert_allclose(ours, np.load(oracle / f"tile_{k}_attr.npy", allow_pickle=False), rtol=0, atol=1e-5)
    assert table.groupby("image")["absolute_percent"].sum().to_list() == [pytest.approx(100)] * 2


def test_shares_follow_the_weights(model: Maxim, tmp_path: Path) -> None:
    """A is imputed from B and C by 0.6 each, from D and E by 0.1 each; all are equally bright."""
    finished, table = run([model], {"x": stains(1, (96, 80))}, tmp_path, ImportanceOptions(("A",), FEW))
    own = table.set_index("input")
    assert list(own.index) == ["B", "C", "D", "E"]  # the target is no input of itself
    assert own["absolute_percent"].to_list() == [pytest.approx(100 * w / 1.4, abs=1.5) for w in (0.6, 0.6, 0.1, 0.1)]
    assert own["absolute"].to_list() == pytest.approx((own["positive"] + own["negative"]).to_list())
    assert (own["negative"] == 0).all()
    assert own["positive"].sum() == pytest.approx(own["change"].iloc[0] + own["delta"].iloc[0], rel=1e-4)
    assert abs(own["delta"].iloc[0]) < 0.01 * own["change"].iloc[0]
    pairs = pd.read_csv(finished.run.path / "attribution_pairs.csv").set_index(["first", "second"])["correlation"]
    assert len(pairs) == 6
    assert pairs["B", "C"] > 0.5 > abs(pairs["B", "D"]) + 0.1
    assert (finished.run.path / "importance.png").read_bytes().startswith(b"\x89PNG")


def test_all_targets_and_only_what_is_there(model: Maxim, tmp_path: Path) -> None:
    pixels = np.delete(stains(2, (48, 48)), 4, axis=0)
    _, table = run([model], {"x": pixels}, tmp_path, ImportanceOptions(settings=FEW), names=MARKERS[:4])
    assert list(dict.fromkeys(table["target"])) == list(MARKERS)
    assert "E" not in set(table["input"])  # it is absent, and told from the others all the same
    assert set(table.loc[table["target"] == "E", "input"]) == set("ABCD")


def test_squares_of_a_large_image(model: Maxim, tmp_path: Path) -> None:
    pixels = stains(3, (160, 224))
    pixels[:, :, 128:] = 0
    places = Places(whole=100, crop=32, patches=6, seed=4)
    first, table = run([model], {"x": pixels}, tmp_path / "a", ImportanceOptions(("A",), FEW, places))
    again, same = run([model], {"x": pixels}, tmp_path / "b", ImportanceOptions(("A",), FEW, places))
    assert (table["places"] == 6).all()
    assert (table["possible"] == 35).all()
    pd.testing.assert_frame_equal(table, same)
    other = Places(whole=100, crop=32, patches=6, seed=5)
    _, moved = run([model], {"x": pixels}, tmp_path / "c", ImportanceOptions(("A",), FEW, other))
    assert not np.allclose(table["absolute"], moved["absolute"], rtol=1e-6)
    for batch in (1, 99):
        settings = AttributionSettings(steps=8, batch=batch)
        _, batched = run([model], {"x": pixels}, tmp_path / f"b{batch}", ImportanceOptions(("A",), settings, places))
        np.testing.assert_allclose(batched["absolute"], table["absolute"], rtol=1e-4)
    assert first.run.path != again.run.path


def test_places_cover_the_image_without_overlap() -> None:
    boxes = Places(whole=10, crop=20, patches=100, seed=1).boxes((65, 90))
    assert len(set(boxes)) == len(boxes) == 12
    assert all(box.shape == (20, 20) and box.clip((65, 90)) == box for box in boxes)
    assert len(Places(whole=0, crop=1, patches=3).boxes((10**6, 10**6))) == 30  # a list of all would be terabytes
    assert Places().boxes((512, 300)) == [Box(0, 0, 512, 300)]
    assert {box.shape for box in Places(whole=0, crop=256).boxes((100, 700))} == {(100, 100)}


def test_blank_images_and_missing_inputs_are_errors(model: Maxim, tmp_path: Path) -> None:
    options = ImportanceOptions(("A",), FEW, Places(whole=10, crop=16))
    blank = MemoryWorkspace({"x": (np.zeros((5, 64, 64), np.uint8), MARKERS, UM)}, runs_home=tmp_path)
    finished, _ = importance(blank, [model], Engine(device="cpu"), options)
    assert "blank" in str(finished.errors[0])
    single = save_model(tmp_path / "s.safetensors", np.ones((1, 2)), ["A", "B"], ["C"], any_marker=False)
    lacking = MemoryWorkspace({"x": (stains(1, (32, 32))[2:], MARKERS[2:], UM)}, runs_home=tmp_path)
    with pytest.raises(InputError, match="no channel A, B"):
        importance(lacking, [single], Engine(device="cpu"), ImportanceOptions(settings=FEW))
    with pytest.raises(UnknownName, match="no marker 'X'"):
        ImportanceTask([model], Engine(device="cpu"), ImportanceOptions(("X",)))
    with pytest.raises(UsageError, match="file names"):
        ImportanceOptions(split="../x")
    with pytest.raises(UsageError, match="positive"):
        ImportanceOptions(places=Places(crop=0))
    with pytest.raises(UsageError, match="--seed -1"):
        ImportanceOptions(places=Places(seed=-1))
    with pytest.raises(UsageError, match="the same weights"):
        ImportanceTask([model, replace(model, name="other")], Engine(device="cpu"), ImportanceOptions())


def test_a_second_run_computes_nothing_and_damage_is_said(model: Maxim, tmp_path: Path) -> None:
    workspace = MemoryWorkspace({"x": (stains(1, (48, 48)), MARKERS, UM)}, runs_home=tmp_path)
    options = ImportanceOptions(("A",), FEW)
    first, table = importance(workspace, [model], Engine(device="cpu"), options)
    (first.run.path / "importance.png").unlink()
    again, same = importance(workspace, [model], Engine(device="cpu"), options)
    assert (first.computed, again.computed) == (1, 0)
    assert (first.run.path / "importance.png").is_file()
    pd.testing.assert_frame_equal(table, same)
    more, _ = importance(
        workspace, [model], Engine(device="cpu"), ImportanceOptions(("A",), AttributionSettings(steps=9))
    )
    assert more.computed == 1
    folder = next((first.run.path / "images").iterdir())
    (folder / "importance.json").write_text(json.dumps([{"inputs": 3}]))
    with pytest.raises(BrokenFile, match="no result of importance"):
        load(folder)


def test_the_picture_takes_any_names_and_is_never_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance_plot, "TALLEST", 8.0)
    names = ["IL-1\u03b2 $x$", "$\\frac$", "\u6838", "D", "E"]
    rows = [(t, "MAXIM", m, 1.0) for t in names for m in names if m != t]
    table = pd.DataFrame(rows, columns=["target", "model", "input", "absolute_percent"])
    columns = ["target", "model", "first", "second", "correlation"]
    pairs = pd.DataFrame([(names[0], "MAXIM", names[1], names[2], 0.5)], columns=columns)
    importance_plot.draw_importance(table, pairs, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.height <= 8 * 110  # two of the five; the table has all
