"""Nuclei and scores of a picture whose nuclei are known; with other thresholds, of an earlier run, of pictures made elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mxbridge import api
from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import BrokenFile, InputError, NoPixelSize, NotApplicable, UsageError
from mxbridge.models.deconvolution import Deconvolution
from mxbridge.results import Results
from mxbridge.runs import Run
from mxbridge.stream.engine import Engine
from mxbridge.tasks.over_images import Finished
from mxbridge.tasks.regions import Annotations
from mxbridge.tasks.translate import translate
from mxbridge.tasks.translating import map_sources, opening
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.toy_ihc import ihc, nuclei_on_a_grid, positives
from tests.toy_translator import ToyTranslator

SHAPE = (128, 160)
TOTAL, POSITIVE = positives(SHAPE)
COLOURS = ("red", "green", "blue")
Do = Callable[..., Finished]


@pytest.fixture
def place(tmp_path: Path) -> MemoryWorkspace:
    return MemoryWorkspace({"a": (ihc(SHAPE), COLOURS, 0.5)}, runs_home=tmp_path / "runs")


@pytest.fixture
def do(place: MemoryWorkspace) -> Do:
    def run(workspace: MemoryWorkspace | None = None, **options: Any) -> Finished:
        return api.translate(workspace or place, "deconvolution", engine=Engine("cpu", workers=1), **options)

    return run


@pytest.fixture
def no_networks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, whatever would make maps fails."""

    def forbid() -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise AssertionError("networks were run")

        monkeypatch.setattr(map_sources, "make_maps", fail)

    return forbid


def results_of(run: Run, number: int = 0) -> Results:
    return Results.load(run.folder_of(run.images[number]))


def score_of(run: Run) -> dict[str, Any]:
    return dict(run.images[0].counts["score"])


def test_every_nucleus_is_an_object_with_class_place_and_size(do: Do) -> None:
    run = do().run
    results = results_of(run)
    (objects,) = results.objects
    assert (objects.kind, len(objects)) == ("detection", TOTAL)
    assert objects.class_names.count("Positive") == POSITIVE
    assert list(objects.measurements) == [
        "Deconvolution: Area µm^2",
        "Deconvolution: DAB mean",
        "Deconvolution: Positive probability",
    ]
    table = pd.read_parquet(run.path / "nuclei.parquet")
    found = table.sort_values(["y_px", "x_px"])[["y_px", "x_px"]].round(-1)
    true = pd.DataFrame(nuclei_on_a_grid(SHAPE), columns=["y_px", "x_px"]).round(-1)
    assert found.to_numpy().tolist() == sorted(true.to_numpy().tolist())
    assert table["nucleus"].tolist() == list(objects.keys)
    assert np.array_equal(table["area_um2"], objects.measurements["Deconvolution: Area µm^2"])
    assert np.allclose(table["area_um2"], table["area_px"] * 0.25)
    assert (table.loc[table["class"] == "Positive", "positive_probability"] > 0.9).all()
    assert (table.loc[table["class"] == "Negative", "positive_probability"] < 0.1).all()
    for k, (x, y) in enumerate(zip(table["x_px"], table["y_px"], strict=True)):
        assert np.abs(objects.outlines.rings_of(k)[0].mean(axis=0) - (x, y)).max() < 2


def test_the_image_has_counts_that_say_their_run(do: Do) -> None:
    run = do().run
    values = {v.name: v.value for v in results_of(run).image_values}
    of_run = f"(run {run.run_id})"
    assert values == {
        f"Deconvolution: Num detections {of_run}": TOTAL,
        f"Deconvolution: Num positive {of_run}": POSITIVE,
        f"Deconvolution: Num negative {of_run}": TOTAL - POSITIVE,
        f"Deconvolution: Positive % {of_run}": 100 * POSITIVE / TOTAL,
    }
    assert score_of(run) == {
        "num_total": TOTAL,
        "num_pos": POSITIVE,
        "num_neg": TOTAL - POSITIVE,
        "percent_pos": 35.0,
        "seg_thresh": 120,
        "size_thresh": score_of(run)["size_thresh"],
        "size_thresh_upper": None,
        "marker_thresh": None,
    }
    (row,) = pd.read_csv(run.path / "scores.csv").to_dict("records")
    assert (row["num_total"], row["num_pos"], row["percent_pos"]) == (TOTAL, POSITIVE, 35.0)


def test_the_same_command_again_does_nothing(do: Do, place: MemoryWorkspace) -> None:
    first = do()
    again = do()
    assert (again.computed, again.published) == (0, 0)
    assert again.run.path == first.run.path
    assert len(place.published["a"]) == 1


def test_other_thresholds_use_the_same_images_and_replace_the_nuclei(
    do: Do, place: MemoryWorkspace, no_networks: Callable[[], None]
) -> None:
    first = do(outputs="all").run
    no_networks()
    second = do(min_area=50.0).run
    assert second.path != first.path
    few = results_of(second).objects[0]
    assert len(few) == POSITIVE  # the others are smaller
    assert set(few.keys) < set(results_of(first).objects[0].keys)
    kept = {key for results in place.published["a"] for key in results.result_keys}
    assert set(results_of(second).result_keys) <= kept
    assert results_of(second).derived == ()


def test_images_that_an_earlier_run_did_not_need_are_made(do: Do) -> None:
    first = do(outputs="score").run
    second = do(outputs="all").run
    assert len(results_of(second).derived) == 2
    assert score_of(second) == score_of(first)


def test_rescoring_takes_options_and_images_of_its_run(do: Do, no_networks: Callable[[], None]) -> None:
    first = do(marker="CD8", objects="cells", expand=2.0, min_area=10.0).run
    no_networks()
    workspace = MemoryWorkspace({"a": (ihc(SHAPE), COLOURS, None)}, runs_home=first.path.parent)
    second = api.rescore(first.path, workspace=workspace, seg_threshold=150).run
    results = results_of(second)
    assert second.options["expand"] == 2.0
    assert results.objects[0].kind == "cell"
    assert "Deconvolution: CD8 mean" in results.objects[0].measurements
    assert "Deconvolution: Area µm^2" in results.objects[0].measurements  # the pixel size is the one of the run
    assert score_of(second)["seg_thresh"] == 150
    third = api.rescore(second.path, workspace=workspace, min_area=50.0).run
    assert score_of(third)["num_total"] == POSITIVE
    assert third.options["seg_threshold"] == 150
    fewer = api.rescore(second.path, workspace=workspace, size=200).run  # pixels take the place of µm²
    assert score_of(fewer)["num_total"] == POSITIVE
    assert (fewer.options["min_area"], fewer.options["size"]) == (None, 200)


def test_rescoring_gives_what_a_new_run_gives(do: Do, tmp_path: Path) -> None:
    first = do().run
    place = MemoryWorkspace({"a": (ihc(SHAPE), COLOURS, 0.5)}, runs_home=first.path.parent)
    again = results_of(api.rescore(first.path, workspace=place, size=100, seg_threshold=160).run)
    elsewhere = MemoryWorkspace({"a": (ihc(SHAPE), COLOURS, 0.5)}, runs_home=tmp_path / "other runs")
    new = results_of(do(elsewhere, size=100, seg_threshold=160).run)
    assert again.objects[0].same_as(new.objects[0])
    assert again.result_keys == new.result_keys


def test_rescoring_separates_as_a_new_run_does(do: Do, place: MemoryWorkspace) -> None:
    """By outlines alone, where the model makes no image for it."""
    first = do().run
    again = api.rescore(first.path, workspace=place, separate=True).run
    assert results_of(again).objects[0].same_as(results_of(do(separate=True, resume=False).run).objects[0])


def test_what_cannot_be_rescored_says_why(do: Do, place: MemoryWorkspace, tmp_path: Path) -> None:
    first = do().run
    for option in ({"weighting": "test"}, {"statistics": "slide"}, {"stains": "H&E"}, {"outputs": "all"}):
        with pytest.raises(UsageError):
            api.rescore(first.path, workspace=place, **option)
    changed = MemoryWorkspace({"a": (ihc(SHAPE, every=2), COLOURS, 0.5)}, runs_home=tmp_path / "runs")
    with pytest.raises(InputError, match="has changed since run"):
        api.rescore(first.path, workspace=changed)
    channels = do(outputs="channels", resume=False).run
    (channels.folder_of(channels.images[0]) / "maps.json").write_text("{}")
    with pytest.raises(InputError, match="not the record of maps"):
        api.rescore(channels.path, workspace=place)
    shutil.rmtree(first.folder_of(first.images[0]) / "maps.zarr")
    with pytest.raises(InputError, match="not there any more"):
        api.rescore(first.path, workspace=place, seg_threshold=150)
    record = json.loads((first.path / "run.json").read_text())
    (first.path / "run.json").write_text(json.dumps(record | {"task": "score"}))
    with pytest.raises(UsageError, match="is a run of `score`"):
        api.rescore(first.path, workspace=place)


def test_damaged_maps_are_made_again_by_translate(do: Do) -> None:
    first = do().run
    maps = first.folder_of(first.images[0]) / "maps.zarr"
    shutil.rmtree(maps)
    maps.mkdir()
    second = do(seg_threshold=150).run
    assert score_of(second)["seg_thresh"] == 150
    with pytest.raises(InputError, match="no finished maps"):
        api.rescore(first.path, workspace=MemoryWorkspace({"a": (ihc(SHAPE), COLOURS, 0.5)}))


def test_a_lost_piece_of_maps_is_no_blank_slide(do: Do, place: MemoryWorkspace) -> None:
    """The format reads it as black: there would be no nuclei, and nothing said."""
    first = do().run
    maps = first.folder_of(first.images[0]) / "maps.zarr"
    next(path for path in sorted(maps.rglob("*")) if path.is_file() and path.name != "zarr.json").unlink()
    with pytest.raises(BrokenFile, match=r"maps are damaged .*--restart"):
        api.rescore(first.path, workspace=place, seg_threshold=150)
    assert score_of(do(seg_threshold=150).run)["num_total"] == TOTAL


def test_a_blank_slide_has_no_cells_and_is_no_error(tmp_path: Path, do: Do) -> None:
    blank = MemoryWorkspace({"a": (ihc(SHAPE, empty=True), COLOURS, 0.5)}, runs_home=tmp_path / "runs")
    run = do(blank, outputs="all").run
    results = results_of(run)
    assert len(results.objects[0]) == 0
    assert np.isnan(results.image_values[-1].value)
    assert score_of(run)["percent_pos"] is None
    assert run.images[0].warnings == ["no cells (Deconvolution)"]
    assert pd.read_csv(run.path / "nuclei.csv").empty


def test_images_that_are_no_brightfield_slides(tmp_path: Path, do: Do) -> None:
    stains = np.zeros((4, 64, 64), np.uint16)
    panel = MemoryWorkspace({"a": (stains, ("DAPI", "CD3", "CD8", "CD20"), 0.5)}, runs_home=tmp_path / "runs")
    with pytest.raises(NotApplicable, match="fluorescence image"):
        do(panel)
    unknown = MemoryWorkspace({"a": (ihc(SHAPE), COLOURS, None)}, runs_home=tmp_path / "runs")
    with pytest.raises(NoPixelSize):
        do(unknown)


def test_sixteen_bits_give_the_same_nuclei_and_a_warning(tmp_path: Path, do: Do) -> None:
    deep = (ihc(SHAPE).astype(np.uint16) << 8) + 255
    run = do(MemoryWorkspace({"a": (deep, COLOURS, 0.5)}, runs_home=tmp_path / "runs")).run
    assert score_of(run)["num_total"] == TOTAL
    assert any("scaled to 8" in warning for warning in run.images[0].warnings)


def test_sizes_in_um_do_not_depend_on_the_scale(tmp_path: Path, do: Do) -> None:
    """Twice the pixels, each half as wide: the same nuclei, outlines twice as large in pixels."""
    fine = np.repeat(np.repeat(ihc(SHAPE), 2, axis=1), 2, axis=2)
    coarse = results_of(do(min_area=50.0).run).objects[0]
    place = MemoryWorkspace({"a": (fine, COLOURS, 0.25)}, runs_home=tmp_path / "fine")
    found = results_of(do(place, min_area=50.0).run).objects[0]
    assert len(found) == POSITIVE
    assert found.keys == coarse.keys
    assert np.allclose(found.outlines.xy, 2 * coarse.outlines.xy)
    for name, values in coarse.measurements.items():
        assert np.allclose(found.measurements[name], values)


def test_cells_hold_their_nuclei(do: Do) -> None:
    objects = results_of(do(objects="cells", expand=2.0).run).objects[0]
    assert objects.kind == "cell"
    assert objects.nuclei is not None
    outer, inner = objects.outlines.bounds(), objects.nuclei.bounds()
    grown = np.where([True, True, False, False], inner - outer, outer - inner)
    assert 3 <= grown.min() <= grown.max() <= 4  # 2 µm are 4 pixels


def test_channels_alone_look_for_no_nuclei(do: Do, no_networks: Callable[[], None]) -> None:
    run = do(outputs="channels").run
    results = results_of(run)
    assert [d.channels for d in results.derived] == [
        (
            "DAB (Deconvolution)",
            "positive (Deconvolution)",
            "negative (Deconvolution)",
            "border (Deconvolution)",
        ),
        ("Red", "Green", "Blue"),
    ]
    assert (results.objects, results.image_values) == ((), ())
    assert not (run.path / "scores.csv").exists()
    no_networks()
    assert score_of(do(outputs="score").run)["num_total"] == TOTAL


def test_scores_alone_make_no_objects(do: Do) -> None:
    results = results_of(do(outputs="score").run)
    assert (results.objects, results.derived) == ((), ())
    assert len(results.image_values) == 4


def test_optical_density_limits_turn_nuclei_negative(do: Do) -> None:
    assert score_of(do(od_upper=500.0).run)["num_pos"] == POSITIVE
    assert score_of(do(od_upper=50.0).run)["num_pos"] == 0


def test_marker_threshold_turns_nuclei_positive(do: Do) -> None:
    assert score_of(do(marker_threshold=300).run)["num_pos"] == POSITIVE
    every = score_of(do(marker_threshold=-0.0).run)
    assert every["num_pos"] == POSITIVE  # no DAB at all is not above 0
    assert every["marker_thresh"] == 0


def test_the_automatic_marker_threshold_is_that_of_what_networks_saw(tmp_path: Path) -> None:
    """Blank windows have a colour of their own, which must not drown that of a little tissue."""
    small = np.full((3, 64, 64), 240, np.uint8)
    small[:, 8:56, 8:56] = np.random.default_rng(0).integers(20, 200, (3, 48, 48))
    large = np.pad(small, ((0, 0), (0, 640), (0, 640)), constant_values=240)
    found = []
    for name, pixels in (("small", small), ("large", large)):
        workspace = MemoryWorkspace({"a": (pixels, COLOURS, 0.25)}, runs_home=tmp_path / name)
        run = api.translate(workspace, ToyTranslator(), engine=Engine("cpu", workers=1), marker_threshold="auto").run
        assert (name == "large") == bool(run.images[0].counts["maps"]["skipped"])
        found.append(score_of(run)["marker_thresh"])
    assert found[0] > 100
    assert found[0] == pytest.approx(found[1], abs=3)


def test_a_largest_area_alone_leaves_the_smallest_as_it_is(do: Do) -> None:
    automatic = score_of(do().run)
    limited = score_of(do(max_area=50.0).run)
    assert limited["size_thresh"] == automatic["size_thresh"] > 0
    assert limited["size_thresh_upper"] == 200
    assert limited["num_total"] == TOTAL - POSITIVE  # the others are larger


@pytest.mark.parametrize("um", [0.17, 0.3, 0.9])
def test_nuclei_end_with_the_image(tmp_path: Path, do: Do, um: float) -> None:
    """The last pixels of maps may reach beyond it."""
    pixels = ihc((101, 103))
    pixels[:, -40:, -40:] = np.array([90, 60, 160])[:, None, None]
    workspace = MemoryWorkspace({"a": (pixels, COLOURS, um)}, runs_home=tmp_path / "runs")
    run = do(workspace, size="none").run
    (objects,) = results_of(run).objects
    assert objects.outlines.xy.max(axis=0).tolist() == [103, 101]
    table = pd.read_parquet(run.path / "nuclei.parquet")
    assert table["x_px"].max() <= 103 and table["y_px"].max() <= 101


def test_maps_do_not_depend_on_where_nuclei_are_looked_for(place: MemoryWorkspace) -> None:
    """So that those of a whole slide serve for its annotations, also where levels are found on a sample of the slide."""
    source = opening.networks(place, "deconvolution", Engine("cpu"), opening.TranslateOptions())
    (ref,) = place.list()
    ring = np.array([(10, 10), (60, 10), (60, 60)], float)
    drawn = OutlineCells(("a",), (None,), SHAPE, Rings.of([[ring]]))
    image = place.pull(ref).image
    whole, inside = (source.plan(image, ref, a) for a in (Annotations(None), Annotations(drawn, limiting=True)))
    assert whole.fingerprint == inside.fingerprint


def test_an_open_model_serves_as_well(place: MemoryWorkspace) -> None:
    options = opening.TranslateOptions()
    source = opening.networks(place, Deconvolution(positive_od=5.0), Engine("cpu"), options)
    finished = translate(place, source, options)
    finished.raise_for_errors()
    assert score_of(finished.run)["num_pos"] == 0


def save(path: Path, picture: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(np.moveaxis(picture, 0, -1) if picture.ndim == 3 else picture)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_alpha_is_dropped_and_a_palette_expanded(tmp_path: Path, do: Do) -> None:
    from mxbridge.workspaces.files import FilesWorkspace

    picture = np.moveaxis(ihc(SHAPE), 0, -1)
    clear = np.dstack([picture, np.full(SHAPE, 128, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "alpha.png")
    Image.fromarray(picture).quantize(64).save(tmp_path / "palette.png")
    files = FilesWorkspace(
        [tmp_path / "alpha.png", tmp_path / "palette.png"], um_per_px=0.5, runs_home=tmp_path / "runs"
    )
    run = do(files).run
    alpha, palette = run.images
    assert alpha.counts["score"]["num_total"] == palette.counts["score"]["num_total"] == TOTAL
    assert any("alpha" in warning for warning in alpha.warnings)
    assert any("palette" in warning for warning in palette.warnings)


class TestFromSeg:
    """Pictures of a segmentation: red positive, blue negative."""

    @pytest.fixture
    def seg(self) -> np.ndarray:
        picture = np.zeros((3, 60, 90), np.uint8)
        picture[0, 5:25, 5:25] = 200
        picture[2, 5:25, 40:60] = 200
        picture[2, 35:55, 5:25] = 200
        picture[2, 35:37, 80:82] = 255  # as large as noise
        return picture

    def go(self, segs: list[Path], markers: list[Path] = [], home: Path | None = None, **options: Any) -> Run:  # noqa: B006
        scale = {key: options.pop(key) for key in ("resolution", "um_per_px") if key in options}
        source, workspace, chosen = opening.pictures(
            [str(p) for p in segs], [str(p) for p in markers], options, **scale
        )
        finished = translate(workspace, source, chosen, out=home)
        finished.raise_for_errors()
        return finished.run

    def test_its_score_has_the_peers_keys(self, tmp_path: Path, seg: np.ndarray) -> None:
        run = self.go([save(tmp_path / "s.png", seg)], home=tmp_path / "run")
        assert score_of(run) == {
            "num_total": 3,
            "num_pos": 1,
            "num_neg": 2,
            "percent_pos": 33.3,
            "seg_thresh": 120,
            "size_thresh": score_of(run)["size_thresh"],
            "size_thresh_upper": None,
            "marker_thresh": None,
        }
        objects = results_of(run).objects[0]
        assert objects.measurements["DeepLIIF: Area px^2"].tolist() == [400, 400, 400]
        assert "DeepLIIF: Marker mean" not in objects.measurements

    def test_the_marker_decides_too(self, tmp_path: Path, seg: np.ndarray) -> None:
        marker = np.zeros((60, 90), np.uint8)
        marker[40, 10] = 200
        files = [save(tmp_path / "s.png", seg)], [save(tmp_path / "m.png", marker)]
        run = self.go(*files, home=tmp_path / "run", marker_threshold=100, um_per_px=0.5)
        assert score_of(run)["num_pos"] == 2
        measured = results_of(run).objects[0].measurements
        assert measured["DeepLIIF: Area µm^2"].tolist() == [100, 100, 100]
        assert measured["DeepLIIF: Marker mean"].tolist() == [0, 0, 0.5]

    def test_pictures_of_other_sizes_and_wrong_options(self, tmp_path: Path, seg: np.ndarray) -> None:
        picture, small = save(tmp_path / "s.png", seg), save(tmp_path / "m.png", seg[:, :50])
        with pytest.raises(InputError, match="90 x 50 pixels, but the segmentation s has 90 x 60"):
            self.go([picture], [small], tmp_path / "run")
        with pytest.raises(UsageError, match="2 --marker-image for 1"):
            self.go([picture], [small, small])
        with pytest.raises(UsageError, match="needs --marker-image"):
            self.go([picture], marker_threshold=10)
        with pytest.raises(UsageError, match="does not go with --from-seg"):
            self.go([picture], od_lower=10)
        with pytest.raises(UsageError, match="either --resolution"):
            self.go([picture], resolution="20x", um_per_px=0.5)
        grey = save(tmp_path / "g.png", seg[0])
        with pytest.raises(NotApplicable, match="one channel"):
            self.go([grey], home=tmp_path / "run")

    def test_pictures_of_a_pattern_are_paired_in_order(self, tmp_path: Path, seg: np.ndarray) -> None:
        for name, shift in (("a", 0), ("b", 5)):
            save(tmp_path / f"{name}_seg.png", np.roll(seg, shift, axis=1))
            marker = np.zeros((60, 90), np.uint8)
            marker[40 + shift, 10] = 200
            save(tmp_path / f"{name}_marker.png", marker)
        patterns = [tmp_path / "*_seg.png"], [tmp_path / "*_marker.png"]
        run = self.go(*patterns, home=tmp_path / "run", marker_threshold=100)
        assert [image.counts["score"]["num_pos"] for image in run.images] == [2, 2]

    def test_what_is_in_um_needs_their_scale(self, tmp_path: Path, seg: np.ndarray) -> None:
        picture = save(tmp_path / "s.png", seg)
        for options in ({"objects": "cells"}, {"min_area": 5.0}, {"max_area": 500.0}):
            with pytest.raises(NoPixelSize):
                self.go([picture], home=tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()  # said before anything is done
        run = self.go([picture], home=tmp_path / "run", objects="cells", resolution="40x")
        assert len(results_of(run).objects[0]) == 3

    def test_the_resolution_bounds_the_automatic_size(self, tmp_path: Path, seg: np.ndarray) -> None:
        found = {}
        for resolution in ("40x", "20x", "10x"):
            run = self.go([save(tmp_path / "s.png", seg)], home=tmp_path / resolution, resolution=resolution)
            found[resolution] = score_of(run)["size_thresh"]
        assert found["40x"] >= 16 > found["20x"] >= 9 > found["10x"] == 4


def test_a_damaged_record_is_no_bug(do: Do, place: MemoryWorkspace) -> None:
    run = do().run
    record = json.loads((run.path / "run.json").read_text())
    for name, value in (("seg_threshold", "much"), ("inside", 5), ("size", []), ("outputs", {})):
        (run.path / "run.json").write_text(json.dumps(record | {"options": record["options"] | {name: value}}))
        with pytest.raises((BrokenFile, UsageError)):
            api.rescore(run.path, workspace=place)
    (run.path / "run.json").write_text(json.dumps(record))
    kept = run.folder_of(run.images[0]) / "maps.json"
    told = json.loads(kept.read_text())
    for damage in ({"images": 5}, {"system": []}, {"um_per_px": "wide"}, {"format": "other"}, {"made": 3}):
        kept.write_text(json.dumps(told | damage))
        with pytest.raises(BrokenFile, match="not the record of maps"):
            api.rescore(run.path, workspace=place)
    assert score_of(do(seg_threshold=150).run)["seg_thresh"] == 150  # what cannot be read is made again
