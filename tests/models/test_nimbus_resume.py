"""A run that was stopped after any tile goes on and ends with identical arrays and maps.

Kills (of whole commands, at every step and any moment) are in ``tests/cli/test_kill.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nimbus_fields import assert_same, cells_of, image_of, labels_of, narrow_model, noise, score

from mxbridge.errors import Interrupted
from mxbridge.models import nimbus
from mxbridge.models.nimbus import VIEWS, CellScores
from mxbridge.stream.engine import Engine
from mxbridge.tasks.score_maps import ScoreMaps, map_places


def stop_after(tiles: int):
    def progress(done: int, total: int) -> None:
        if done >= tiles:
            raise Interrupted("stopped by the user")

    return progress


@pytest.mark.parametrize("batch", [1, 5])
def test_stopped_after_any_tile_it_goes_on_and_ends_the_same(tmp_path: Path, batch: int) -> None:
    model = narrow_model(depth=2)
    labels, raw = labels_of(90, 100, seed=8), noise(2, 90, 100, seed=8)
    labels[:20, :20] = 0
    options = {"tile": 32, "batch": batch, "views": VIEWS["six"]}
    expected = score(model, raw, labels, **options)
    assert expected.tiles_done > 9
    for stop in range(expected.tiles_done):
        work = tmp_path / f"{stop}"
        with pytest.raises(Interrupted):
            score(model, raw, labels, work=work, progress=stop_after(stop), **options)
        records = work / nimbus.RECORDS_NAME
        if stop % 2:  # as if the machine had died in the middle of a write
            records.write_bytes(records.read_bytes()[:-7])
        seen: list[int] = []
        found = score(
            model, raw, labels, work=work, progress=lambda done, total, seen=seen: seen.append(done), **options
        )
        assert_same(found, expected)
        assert seen[0] >= max(0, stop - 2 * batch)
        assert seen[-1] == expected.tiles_done
    again: list[int] = []
    assert_same(
        score(model, raw, labels, work=work, progress=lambda done, total: again.append(done), **options), expected
    )
    assert again == [expected.tiles_done]  # nothing was left to do


def test_maps_of_a_stopped_run_end_the_same(tmp_path: Path) -> None:
    """Stopped after any tile, maps included: the same bytes in every chunk, and no tile left empty."""
    model = narrow_model(depth=2)
    labels, raw = labels_of(60, 70, seed=8), noise(1, 60, 70, seed=8)

    def run(work: Path, **options) -> tuple[CellScores, dict[str, bytes]]:
        places = map_places(["A (Narrow)"], ["k" * 32], work)
        maps = ScoreMaps(places, model.field(image_of(raw)).shape, (1.0, 1.0), "0.4")
        scores = score(model, raw, labels, tile=32, work=work / "work", maps=maps, **options)
        maps.finish()
        folder = places[0].final
        return scores, {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    expected, chunks = run(tmp_path / "whole")
    for stop in range(expected.tiles_done):
        with pytest.raises(Interrupted):
            run(tmp_path / f"{stop}", progress=stop_after(stop))
        found, same = run(tmp_path / f"{stop}")
        assert_same(found, expected)
        assert same == chunks, f"stopped after {stop} tiles"


def test_records_of_other_settings_are_not_taken_over(tmp_path: Path) -> None:
    model = narrow_model(depth=2)
    labels, raw = labels_of(60, 60, seed=8), noise(1, 60, 60, seed=8)
    score(model, raw, labels, work=tmp_path, tile=40)
    for options in ({"factors": [3.0]}, {"tile": 32}, {"views": VIEWS["six"]}, {"um": 0.4}):
        done: list[int] = []
        found = score(model, raw, labels, work=tmp_path, progress=lambda d, t, done=done: done.append(d), **options)
        assert done[0] == 0
        assert_same(found, score(model, raw, labels, **options))


@pytest.mark.parametrize("changed", ["weights", "cells", "pixels", "channels"])
def test_records_of_other_inputs_are_not_taken_over(tmp_path: Path, changed: str) -> None:
    model, other = narrow_model(depth=2), narrow_model(depth=2, seed=5 if changed == "weights" else 0)
    labels, raw = labels_of(60, 60, seed=8), noise(1, 60, 60, seed=8)
    score(model, raw, labels, work=tmp_path, tile=40)
    if changed == "cells":
        labels = np.ascontiguousarray(labels[::-1])  # as many cells, with the same names
    image = image_of(np.concatenate([raw, raw[:, ::-1]]))
    if changed == "pixels":
        image = replace(image_of(raw[:, ::-1]), identity="other")
    channels, done = [1 if changed == "channels" else 0], []

    def run(**options) -> CellScores:
        return other.score(image, cells_of(labels), channels, [2000.0], Engine(device="cpu", tile=40), **options)

    found = run(work=tmp_path, progress=lambda d, t: done.append(d))
    assert done[0] == 0
    assert_same(found, run())
