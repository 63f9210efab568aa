"""Imputed channels and cell means: what the network gives over the whole image, in the image's own numbers and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mxbridge.errors import InputError, ModelError, MxbridgeError, NoPixelSize, NotApplicable, UnknownName, UsageError
from mxbridge.formats.open_image import open_image
from mxbridge.image import LocalImage
from mxbridge.metrics.spread import SpreadTable
from mxbridge.models.card import read_card
from mxbridge.models.familiarity import Familiarity
from mxbridge.models.maxim import Maxim, from_card, load_checkpoint
from mxbridge.results import Results
from mxbridge.runs import Run
from mxbridge.stream.engine import Engine
from mxbridge.stream.views import SIX_VIEWS
from mxbridge.tasks.impute import ImputeOptions, ImputeTask, impute
from mxbridge.tasks.over_images import Finished
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.toy_maxim import toy_network, write_model

HEIGHT, WIDTH = 150, 230
NAMES = ("DAPI", "CK", "CD8")
Load = Callable[..., Maxim]


def field(seed: int = 0, dtype: str = "uint16", top: float = 1000) -> np.ndarray:
    """Smooth random channels ``(3, y, x)``."""
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.random((1, 3, HEIGHT // 10, WIDTH // 10), np.float32))
    smooth = torch.nn.functional.interpolate(noise, (HEIGHT, WIDTH), mode="bilinear")[0].numpy()
    values = (smooth + 0.1 * rng.random(smooth.shape)) / 1.1 * top
    return values.astype(dtype)


def squares() -> np.ndarray:
    """Labels: squares of 12 pixels, every 24, one cut by the border."""
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    for k, (y, x) in enumerate((y, x) for y in range(0, HEIGHT, 24) for x in range(0, WIDTH, 24)):
        labels[y : y + 12, x : x + 12] = k + 1
    return labels


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def make(inputs: Any, outputs: Any = (), **more: Any) -> Maxim:
        path = write_model(tmp_path / f"model-{len(list(tmp_path.iterdir()))}.safetensors", inputs, outputs, **more)
        card = read_card(path)
        assert card is not None
        return from_card(path, card)

    return make


@pytest.fixture
def engine() -> Engine:
    return Engine(device="cpu", tile=288, workers=1)


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., MemoryWorkspace]:
    def make(
        pixels: np.ndarray | None = None, names: Any = NAMES, um: float | None = 0.5, cells: bool = True
    ) -> MemoryWorkspace:
        pixels = field() if pixels is None else pixels
        labels = {"a": squares()} if cells else {}
        return MemoryWorkspace({"a": (pixels, names, um)}, labels, runs_home=tmp_path / "runs")

    return make


def results_of(run: Run) -> Results:
    return Results.load(run.folder_of(run.images[0]))


def derived_of(finished: Finished) -> dict[str, LocalImage]:
    """Derived images of the only image of a run by their first channel."""
    found = results_of(finished.run).derived
    folder = finished.run.folder_of(finished.run.images[0]) / "derived"
    return {d.channels[0]: open_image(folder / d.file) for d in found}


def pixels_of(finished: Finished, channel: str) -> np.ndarray:
    return np.asarray(derived_of(finished)[channel].levels[0])


def whole(model: Maxim, planes: np.ndarray) -> np.ndarray:
    """``(outputs, y, x)`` of one pass over planes 0..1, mirrored at the right and at the bottom."""
    tall, wide = -planes.shape[1] % 16, -planes.shape[2] % 16
    padded = np.pad(planes, ((0, 0), (0, tall), (0, wide)), mode="reflect").astype(np.float32)
    with torch.inference_mode():
        out = model.plain(torch.from_numpy(padded)[None])[0].numpy()
    return out[:, : planes.shape[1], : planes.shape[2]]


def cell_means(values: np.ndarray) -> np.ndarray:
    labels = squares()
    return np.bincount(labels.ravel(), weights=values.ravel())[1:] / np.bincount(labels.ravel())[1:]


def options(*markers: str, **more: Any) -> ImputeOptions:
    return ImputeOptions(markers, **more)


def test_the_channel_and_the_cells_are_those_of_one_pass(load, engine, workspace) -> None:
    model, pixels = load(("DAPI", "CD8"), ("KI67",)), field()
    finished = impute(workspace(), [model], engine, options("ki67"))
    finished.raise_for_errors()
    stored = whole(model, pixels[[0, 2]] / 1000)[0] * 1000
    assert stored.std() > 5
    image = derived_of(finished)["KI67 (MAXIM)"]
    assert (image.dtype, image.shape, image.pixel_size_um) == (np.uint16, (HEIGHT, WIDTH), (0.5, 0.5))
    shown = np.asarray(image.levels[0])[0].astype(float)
    assert np.abs(shown - stored).max() <= 0.51
    results = results_of(finished.run)
    assert [m.name for m in results.measurements] == ["MAXIM: KI67 mean"]
    assert results.measurements[0].values == pytest.approx(cell_means(stored), abs=0.01)
    assert (
        np.abs(results.measurements[0].values - cell_means(shown)).max() > 1e-3
    )  # from floats, not from what is stored


def test_tiles_do_not_matter(load, workspace) -> None:
    model = load(("DAPI", "CD8"), ("KI67",))
    found = []
    for tile in (224, 1024):
        finished = impute(workspace(), [model], Engine(device="cpu", tile=tile), options("KI67"), resume=False)
        found.append((pixels_of(finished, "KI67 (MAXIM)"), results_of(finished.run).measurements[0].values))
    assert np.abs(found[0][0].astype(int) - found[1][0]).max() <= 1
    assert found[0][1] == pytest.approx(found[1][1], abs=0.01)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_image_keeps_its_type(load, engine, workspace, dtype) -> None:
    top = 250 if dtype == "uint8" else 3.0
    model = load(("DAPI", "CD8"), ("KI67",), scaling={"high": top}, dtype=dtype)
    finished = impute(workspace(field(0, dtype, top)), [model], engine, options("KI67"))
    values = pixels_of(finished, "KI67 (MAXIM)")
    stored = whole(model, field(0, dtype, top)[[0, 2]] / np.float32(top))[0] * top
    assert values.dtype == np.dtype(dtype)
    assert np.abs(values[0] - stored).max() <= (0.51 if dtype == "uint8" else 1e-4)


def test_arcsinh_is_undone_before_cells_are_averaged(load, engine, workspace) -> None:
    scaling = {"transform": "arcsinh", "cofactor": 5.0, "high": 6.0}
    model = load(("DAPI", "CD8"), ("KI67",), scaling=scaling)
    finished = impute(workspace(), [model], engine, options("KI67"))
    unit = whole(model, np.clip(np.arcsinh(field()[[0, 2]] / 5) / 6, 0, 1))[0]
    stored = np.sinh(unit * 6.0) * 5
    assert results_of(finished.run).measurements[0].values == pytest.approx(cell_means(stored), rel=1e-4)


@pytest.mark.parametrize("um", [0.25, 0.8])
def test_another_scale_is_brought_to_the_pixels_of_the_image(load, engine, workspace, um) -> None:
    """Bilinear where the model's pixels are larger, areas where they are smaller; the same whatever the tiles."""
    model = load(("DAPI", "CD8"), ("KI67",), um_per_px=um)
    finished = impute(workspace(), [model], engine, options("KI67"))
    other = impute(workspace(), [model], Engine(device="cpu", tile=224), options("KI67"), resume=False)
    image = derived_of(finished)["KI67 (MAXIM)"]
    assert image.shape == (HEIGHT, WIDTH)
    assert any("resampled 0.5" in w for w in finished.run.images[0].warnings)
    values = np.asarray(image.levels[0])[0].astype(float)
    assert np.abs(values - pixels_of(other, "KI67 (MAXIM)")[0]).max() <= 1
    means = results_of(finished.run).measurements[0].values
    inner = cell_means(values)
    assert np.corrcoef(means, inner)[0, 1] > 0.98
    assert np.abs(means - inner).mean() < 0.1 * values.std()
    assert not list(finished.run.path.rglob("*.scale"))


def test_without_cells_there_is_a_channel(load, engine, workspace) -> None:
    model = load(("DAPI", "CD8"), ("KI67",))
    place = workspace(cells=False)
    finished = impute(place, [model], engine, options("KI67"))
    finished.raise_for_errors()
    assert results_of(finished.run).measurements == ()
    assert pixels_of(finished, "KI67 (MAXIM)").any()
    assert not (finished.run.path / "cells.csv").exists()
    assert impute(place, [model], engine, options("KI67")).computed == 0


def test_views_are_averaged_and_their_spread_is_shown(load, engine, workspace) -> None:
    model = load(("DAPI", "CD8"), ("KI67",))
    finished = impute(workspace(), [model], engine, options("KI67", uncertainty=True))
    planes = torch.from_numpy(np.pad(field()[[0, 2]] / 1000, ((0, 0), (0, 10), (0, 10)), mode="reflect")).float()
    with torch.inference_mode():
        views = [
            view.invert(model.plain(view.apply(planes)[None])[0]).numpy()[0, :HEIGHT, :WIDTH] for view in SIX_VIEWS
        ]
    stored = np.stack(views) * 1000
    found = pixels_of(finished, "KI67 (MAXIM)").astype(float)
    assert derived_of(finished)["KI67 (MAXIM)"].channel_names == ("KI67 (MAXIM)", "KI67 spread (MAXIM)")
    assert np.abs(found[0] - stored.mean(axis=0)).max() <= 0.51
    assert np.abs(found[1] - stored.std(axis=0)).max() <= 0.51
    mean, spread = results_of(finished.run).measurements
    assert spread.name == "MAXIM: KI67 spread"
    assert mean.result_key == spread.result_key
    means = np.stack([cell_means(view) for view in stored])
    assert mean.values == pytest.approx(means.mean(axis=0), abs=0.01)
    assert spread.values == pytest.approx(means.std(axis=0), abs=0.01)
    assert not (finished.run.path / "spread.csv").exists()


def test_a_spread_shown_against_the_error_is_called_uncertainty(load, engine, workspace) -> None:
    table = SpreadTable("six views")
    rng = np.random.default_rng(0)
    spread = rng.random(2000) / 10
    table.add(spread, spread * rng.random(2000))
    model = load(("DAPI", "CD8"), ("KI67",), validation={"spread": {"KI67": table.record()}})
    finished = impute(workspace(), [model], engine, options("KI67", uncertainty=True))
    assert [m.name for m in results_of(finished.run).measurements] == ["MAXIM: KI67 mean", "MAXIM: KI67 uncertainty"]
    assert derived_of(finished)["KI67 (MAXIM)"].channel_names[1] == "KI67 uncertainty (MAXIM)"
    text = (finished.run.path / "spread.csv").read_text()
    assert text.startswith("marker,source,pixels,spread,error\nKI67,six views,")
    assert len(text.splitlines()) == 1 + len(table.rows())
    assert (finished.run.path / "spread.png").read_bytes()[:4] == b"\x89PNG"
    assert not finished.run.images[0].warnings
    (finished.run.path / "spread.png").unlink()
    assert impute(workspace(), [model], engine, options("KI67", uncertainty=True)).computed == 0
    assert (finished.run.path / "spread.png").is_file()


def test_a_spread_that_does_not_follow_the_error_is_told(load, engine, workspace) -> None:
    constant = SpreadTable("six views")
    constant.add(np.zeros(99), np.linspace(0, 0.1, 99))
    model = load(("DAPI", "CD8"), ("KI67",), validation={"spread": {"KI67": constant.record()}})
    run = impute(workspace(), [model], engine, options("KI67", uncertainty=True)).run
    assert results_of(run).measurements[1].name == "MAXIM: KI67 spread"
    table = SpreadTable("six views")
    table.add(*np.random.default_rng(0).random((2, 2000)))
    model = load(("DAPI", "CD8"), ("KI67",), validation={"spread": {"KI67": table.record()}})
    warnings = impute(workspace(), [model], engine, options("KI67", uncertainty=True)).run.images[0].warnings
    assert len(warnings) == 1
    assert "hardly follows the error (Spearman" in warnings[0]


def test_models_of_one_marker_are_averaged(load, engine, workspace) -> None:
    """Whatever their scaling, width and inputs; the spread is then that of the models, which no card knows the error of."""
    table = SpreadTable("six views")
    table.add([0.1, 0.2], [0.1, 0.2])
    known = {"spread": {"KI67": table.record()}}
    one = load(("DAPI", "CD8"), ("KI67",), validation=known)
    two = load(("CD8", "CK"), ("KI67",), seed=4, width=4, scaling={"high": 2000.0}, name="Other")
    finished = impute(workspace(), [one, two], engine, options("KI67", uncertainty=True))
    each = np.stack([whole(one, field()[[0, 2]] / 1000)[0] * 1000, whole(two, field()[[2, 1]] / 2000)[0] * 2000])
    found = pixels_of(finished, "KI67 (MAXIM)").astype(float)
    assert np.abs(found[0] - each.mean(axis=0)).max() <= 0.51
    assert np.abs(found[1] - each.std(axis=0)).max() <= 0.51
    mean, spread = results_of(finished.run).measurements
    assert (mean.name, spread.name) == ("MAXIM: KI67 mean", "MAXIM: KI67 spread")
    means = np.stack([cell_means(e) for e in each])
    assert spread.values == pytest.approx(means.std(axis=0), abs=0.01)
    with pytest.raises(UsageError, match=r"0.5, 1 µm per pixel cannot be averaged"):
        impute(workspace(), [one, load(("CK",), ("KI67",), um_per_px=1.0)], engine, options("KI67"))


def test_a_chain_imputes_what_is_missing_first(load, engine, workspace) -> None:
    first, then = load(("DAPI", "CK"), ("PDL1",)), load(("CD8", "PDL1"), ("KI67",), seed=1)
    finished = impute(workspace(), [then, first], engine, options("KI67", chain=True))
    finished.raise_for_errors()
    pdl1 = np.rint(whole(first, field()[[0, 1]] / 1000) * 1000)
    stored = whole(then, np.concatenate([field()[[2]], pdl1]) / 1000)[0] * 1000
    assert np.abs(pixels_of(finished, "PDL1 (MAXIM)") - pdl1).max() <= 1
    assert np.abs(pixels_of(finished, "KI67 (MAXIM)")[0] - stored).max() <= 1.01
    names = [m.name for m in results_of(finished.run).measurements]
    assert names == ["MAXIM: PDL1 mean", "MAXIM: KI67 mean"]
    with pytest.raises(InputError, match="no channel PDL1, which MAXIM needs to impute KI67") as caught:
        impute(workspace(), [then, first], engine, options("KI67"))
    assert "--chain" in caught.value.hint


def test_chains_that_cannot_be(load, engine, workspace) -> None:
    round_one, round_two = load(("CD8", "PDL1"), ("KI67",)), load(("DAPI", "KI67"), ("PDL1",))
    with pytest.raises(UsageError, match="back to where it began: KI67 <- PDL1 <- KI67"):
        impute(workspace(), [round_one, round_two], engine, options("KI67", chain=True))
    with pytest.raises(InputError, match="no channel PDL1, which is needed to impute KI67, and no model for it"):
        impute(workspace(), [round_one], engine, options("KI67", chain=True))


def test_channels_that_failed_are_imputed_first_too(load, engine, workspace) -> None:
    first, then = load(("DAPI", "CK"), ("CD8",)), load(("CK", "CD8"), ("KI67",), seed=1)
    task = ImputeTask((first, then), engine, options("KI67", "CD8"))
    plan = task.plan(workspace().pull(workspace().list()[0]))
    assert any("from the measured CD8; if that has failed too, add --without CD8 --chain" in n for n in plan.notes)
    finished = impute(workspace(), [first, then], engine, options("KI67", "CD8", without=("cd8",), chain=True))
    finished.raise_for_errors()
    steps = finished.run.images[0].counts["steps"]
    assert [(s["targets"], s["uses"]) for s in steps] == [(["CD8"], []), (["KI67"], ["CD8"])]
    with pytest.raises(UnknownName, match="no channel 'CD9'"):
        impute(workspace(), [first, then], engine, options("KI67", without=("CD9",)))


def test_any_marker_models_hide_what_is_missing_or_asked_for(load, engine, workspace) -> None:
    model = load(("DAPI", "CK", "CD8", "KI67", "PDL1"))
    finished = impute(workspace(), [model], engine, options("KI67"))
    finished.raise_for_errors()
    planes = np.zeros((10, HEIGHT, WIDTH), np.float32)
    planes[:3], planes[5:8] = field() / 1000, 1
    stored = whole(model, planes)[3] * 1000
    assert np.abs(pixels_of(finished, "KI67 (MAXIM)")[0] - stored).max() <= 0.51
    said = "KI67: imputed without PDL1: no such channel (map names with --panel)"  # it may be called otherwise
    assert finished.run.images[0].warnings == [said]
    without = options("KI67", without=("pdl1",))
    plan = ImputeTask((model,), engine, without).plan(workspace().pull(workspace().list()[0]))
    assert not plan.warnings
    assert "KI67: imputed without PDL1 (left out, or asked for as well)" in plan.notes
    with pytest.raises(InputError, match="3 of the 5 inputs of MAXIM are missing or asked for"):
        impute(workspace(), [model], engine, options("KI67", "CD8"))


def test_markers_asked_for_together_do_not_see_each_other(load, engine, workspace) -> None:
    model = load((*NAMES, "KI67"))
    pixels = np.concatenate([field(), field(5)[:1]])
    finished = impute(workspace(pixels, (*NAMES, "KI67")), [model], engine, options("KI67", "CD8"))
    planes = np.zeros((8, HEIGHT, WIDTH), np.float32)
    planes[:2], planes[4:6] = pixels[:2] / 1000, 1
    stored = whole(model, planes) * 1000
    assert np.abs(pixels_of(finished, "CD8 (MAXIM)")[0] - stored[2]).max() <= 0.51
    assert np.abs(pixels_of(finished, "KI67 (MAXIM)")[0] - stored[3]).max() <= 0.51


def test_images_unlike_those_of_the_training_are_flagged(load, engine, workspace) -> None:
    rng = np.random.default_rng(0)
    usual = Familiarity.fit(("DAPI", "CD8"), rng.normal(0.5, 0.03, (40, 2)))
    assert usual is not None
    model = load(("DAPI", "CD8"), ("KI67",), validation={"channel_means": usual.record()})
    like = impute(workspace(), [model], engine, options("KI67")).run.images[0]
    assert like.counts["unfamiliar"] == 0
    assert like.counts["familiarity"][0]["distance"] < like.counts["familiarity"][0]["limit"]
    assert not like.warnings
    pixels = field()
    pixels[2] //= 8
    failed = impute(workspace(pixels), [model], engine, options("KI67")).run.images[0]
    assert failed.counts["unfamiliar"] == 1
    assert failed.counts["familiarity"][0]["unusual"][0][0] == "CD8"
    assert "unlike those of the training images" in failed.warnings[0]
    assert "CD8" in failed.warnings[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "CD8: is the same everywhere"),
        (2000, "CD8: is the same everywhere"),
        (None, "50 % of its pixels are as bright"),
    ],
)
def test_constant_and_saturated_channels_are_named(load, engine, workspace, value, words) -> None:
    pixels = field()
    if value is None:
        pixels[2, :, : WIDTH // 2] = 65535
    else:
        pixels[2] = value
    model = load(("DAPI", "CD8"), ("KI67",))
    warnings = impute(workspace(pixels), [model], engine, options("KI67")).run.images[0].warnings
    assert len(warnings) == 1
    assert words in warnings[0]


def test_pixels_that_are_no_numbers_are_told(load, engine, workspace) -> None:
    pixels = field(0, "float32")
    pixels[2, 3:5, 4] = np.nan
    pixels[0, 0, 0] = np.inf
    model = load(("DAPI", "CD8"), ("KI67",), dtype="float32")
    finished = impute(workspace(pixels), [model], engine, options("KI67"))
    assert finished.run.images[0].warnings == [
        "DAPI: 1 pixels are not finite; taken as 0",
        "CD8: 2 pixels are not finite; taken as 0",
    ]
    assert np.isfinite(pixels_of(finished, "KI67 (MAXIM)")).all()
    assert np.isfinite(results_of(finished.run).measurements[0].values).all()
    pixels[2] = np.nan
    warnings = impute(workspace(pixels), [model], engine, options("KI67")).run.images[0].warnings
    assert warnings[1].startswith("CD8: holds no finite number")


def test_other_bit_depths_need_a_word(load, engine, workspace) -> None:
    model = load(("DAPI", "CD8"), ("KI67",), scaling={"high": 250.0}, dtype="uint8")
    with pytest.raises(InputError, match="uint16 numbers") as caught:
        impute(workspace(), [model], engine, options("KI67"))
    assert "--value-scale" in caught.value.hint
    finished = impute(workspace(), [model], engine, options("KI67", value_scale=0.25))
    stored = whole(model, field()[[0, 2]] / 1000)[0] * 1000
    assert np.abs(pixels_of(finished, "KI67 (MAXIM)")[0] - stored).max() <= 0.51


def test_compat_pads_with_zeros_and_divides_by_255(engine, workspace, tmp_path) -> None:
    network = toy_network(2, 1)
    torch.save(network.state_dict(), tmp_path / "checkpoint.pt")
    model = load_checkpoint(tmp_path / "checkpoint.pt", ("DAPI", "CD8"), ("KI67",), 1.0)
    pixels = field(0, "uint8", 250)
    finished = impute(workspace(pixels, um=None), [model], engine, options("KI67", compat="maxim", compat_pad=256))
    finished.raise_for_errors()
    padded = np.zeros((2, 256, 256), np.float32)
    padded[:, :HEIGHT, :WIDTH] = pixels[[0, 2]] / np.float32(255)
    stored = whole(model, padded)[0, :HEIGHT, :WIDTH] * 255
    assert np.abs(pixels_of(finished, "KI67 (MAXIM)")[0] - stored).max() <= 0.51
    assert results_of(finished.run).measurements[0].values == pytest.approx(cell_means(stored), abs=0.01)
    with pytest.raises(InputError, match="do not fit into the padding of 128"):
        impute(workspace(pixels), [model], engine, options("KI67", compat="maxim", compat_pad=128))


def test_a_panel_renames_and_leaves_out(load, engine, workspace, tmp_path) -> None:
    model = load(("DAPI", "CD8"), ("KI67",))
    panel = tmp_path / "panel.csv"
    panel.write_text("channel,name,keep\nHoechst,DAPI,1\nOpal 520,CD8,1\nCD8,,0\n")
    place = workspace(names=("Hoechst", "CD8", "Opal 520"))
    finished = impute(place, [model], engine, options("KI67", panel=panel))
    finished.raise_for_errors()
    stored = whole(model, field()[[0, 2]] / 1000)[0] * 1000
    assert np.abs(pixels_of(finished, "KI67 (MAXIM)")[0] - stored).max() <= 0.51
    with pytest.raises(InputError, match="no channel DAPI"):
        impute(place, [model], engine, options("KI67"))


def test_input_that_cannot_be_used(load, engine, workspace) -> None:
    model = load(("DAPI", "CD8"), ("KI67",))
    cases: list[tuple[MemoryWorkspace, type[MxbridgeError], int, str]] = [
        (workspace(names=("DAPI", "CK", "cd-8")), InputError, 6, "no channel CD8"),
        (workspace(names=("DAPI", "CD8", "CD8")), InputError, 6, "2 channels are called CD8"),
        (workspace(um=None), NoPixelSize, 6, "--um-per-px"),
        (workspace(um=0.1), InputError, 6, "more than a factor of 4"),
        (workspace(field().astype(np.uint8)), InputError, 6, "uint8 numbers"),
    ]
    for place, kind, code, words in cases:
        with pytest.raises(kind) as caught:
            impute(place, [model], engine, options("KI67"))
        assert caught.value.exit_code == code
        assert words in str(caught.value)
    with pytest.raises(UnknownName, match="no marker 'PDL1'"):
        impute(workspace(), [model], engine, options("PDL1"))
    with pytest.raises(UsageError, match="no marker is named"):
        options()
    with pytest.raises(UsageError, match="--compat nimbus is not known"):
        options("KI67", compat="nimbus")


def test_colour_pictures_are_not_for_it(load, engine, workspace) -> None:
    from dataclasses import replace

    model, place = load(("DAPI", "CD8"), ("KI67",)), workspace()
    pulled = place.pull(place.list()[0])
    with pytest.raises(NotApplicable, match="colour picture"):
        ImputeTask((model,), engine, options("KI67")).plan(replace(pulled, image=replace(pulled.image, rgb=True)))


def test_a_checkpoint_of_another_panel(tmp_path) -> None:
    torch.save(toy_network(3, 1).state_dict(), tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match="panel of 2 inputs"):
        load_checkpoint(tmp_path / "checkpoint.pt", ("DAPI", "CD8"), ("KI67",), 1.0)


def test_what_decides_the_numbers_decides_whether_it_is_done(load, engine, workspace) -> None:
    model, place = load(("DAPI", "CD8"), ("KI67",)), workspace()
    assert impute(place, [model], engine, options("KI67")).computed == 1
    assert impute(place, [model], engine, options("KI67")).computed == 0
    assert impute(place, [load(("DAPI", "CD8"), ("KI67",), seed=3)], engine, options("KI67")).computed == 1
    other_scaling = load(("DAPI", "CD8"), ("KI67",), scaling={"high": 900.0})
    assert impute(place, [other_scaling], engine, options("KI67")).computed == 1
    assert impute(place, [model], engine, options("KI67", uncertainty=True)).computed == 1
    assert impute(workspace(field(9)), [model], engine, options("KI67")).computed == 1


def test_from_a_script(load, engine, workspace, tmp_path) -> None:
    """One model or several, loaded or by path; what scores cells is refused."""
    import mxbridge

    model, path = load(("DAPI", "CD8"), ("KI67",)), write_model(tmp_path / "m.safetensors", ("CK",), ("PDL1",))
    finished = mxbridge.impute(workspace(), [model, path], ["KI67", "pdl1"], engine=engine, out=tmp_path / "run")
    assert [m.name for m in results_of(finished.run).measurements] == ["MAXIM: KI67 mean", "MAXIM: PDL1 mean"]
    assert mxbridge.impute(workspace(), model, "KI67", engine=engine, without="CK").computed == 1
    with pytest.raises(ModelError, match="demo imputes no markers"):
        mxbridge.impute(workspace(), "demo", "KI67", engine=engine)
    with pytest.raises(ModelError, match="scores no cells"):
        mxbridge.score(workspace(), path, engine=engine)
