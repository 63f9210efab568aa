"""A run that was stopped or killed goes on and ends with identical arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nimbus_fields import assert_same, cells_of, image_of, labels_of, narrow_model, noise, score

from mxbridge.errors import Interrupted
from mxbridge.models import nimbus
from mxbridge.models.nimbus import VIEWS, CellScores
from mxbridge.stream.engine import Engine

KILLED_RUN = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from nimbus_fields import cells_of, image_of, labels_of, narrow_model, noise
from mxbridge.models.nimbus import VIEWS
from mxbridge.stream.engine import Engine
torch.set_num_threads(1)
tiles, after = int(sys.argv[3]), float(sys.argv[4])
labels, raw = labels_of(120, 130, seed=8), noise(2, 120, 130, seed=8)
def progress(done, total):
    if done >= tiles and threading.active_count() < 20:
        threading.Timer(after, lambda: os.kill(os.getpid(), 9)).start()
narrow_model(depth=2).score(
    image_of(raw), cells_of(labels), [0, 1], [2000.0] * 2, Engine(device="cpu", tile=32), views=VIEWS["six"],
    work=Path(sys.argv[2]), progress=progress,
)
"""


def stop_after(tiles: int):
    def progress(done: int, total: int) -> None:
        if done >= tiles:
            raise Interrupted("stopped by the user")

    return progress


@pytest.mark.parametrize("batch", [1, 5])
def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path: Path, batch: int) -> None:
    model = narrow_model(depth=2)
    labels, raw = labels_of(120, 130, seed=8), noise(2, 120, 130, seed=8)
    options = {"tile": 32, "batch": batch, "views": VIEWS["six"]}
    expected = score(model, raw, labels, **options)
    for stop in range(2, expected.tiles_done, 3):
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


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a POSIX signal")
def test_kill_nine_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    labels, raw = labels_of(120, 130, seed=8), noise(2, 120, 130, seed=8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = score(narrow_model(depth=2), raw, labels, tile=32, views=VIEWS["six"])
        started: list[int] = []
        for tiles, after in ((3, "0"), (6, "0.02"), (10, "0.05")):
            command = [sys.executable, "-c", KILLED_RUN, str(Path(__file__).parent), str(tmp_path), str(tiles), after]
            assert subprocess.run(command, check=False, timeout=120).returncode in (0, -9)
        found = score(
            narrow_model(depth=2),
            raw,
            labels,
            tile=32,
            views=VIEWS["six"],
            work=tmp_path,
            progress=lambda done, total: started.append(done),
        )
    finally:
        torch.set_num_threads(threads)
    assert started[0] > 0  # something of the killed runs was there
    assert_same(found, expected)
