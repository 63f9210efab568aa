"""What the engine promises, seen from the task: any tile gives the same table; what was skipped or reduced is said and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.models.nimbus import Nimbus
from mxbridge.networks.fused_unet import FusedUNet
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.progress import Progress
from mxbridge.stream.engine import Engine
from mxbridge.tasks.score import ScoreOptions, score
from mxbridge.workspaces.memory import MemoryWorkspace


class Heard(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def model() -> Nimbus:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Nimbus("Nimbus", 1.0, "seed 5", FusedUNet(ResidualUNet(3, 3).eval()))


def workspace(folder: Path, height: int, width: int, um: float, seed: int, empty: int = 0) -> MemoryWorkspace:
    """Square cells every 16 px, two markers; no cells in the last ``empty`` rows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    labels = np.where((y % 16 < 13) & (x % 16 < 13) & (y < height - empty), y // 16 * 1000 + x // 16 + 1, 0)
    pixels = rng.poisson(np.where(labels % 3 == 1, 900, 20), (2, height, width)).astype(np.uint16)
    return MemoryWorkspace({"a": (pixels, ("CD3", "Ki67"), um)}, {"a": labels.astype(np.int32)}, runs_home=folder)


def table_and_record(space: MemoryWorkspace, model: Nimbus, engine: Engine, heard: Progress) -> tuple:
    run = score(space, model, engine, ScoreOptions(tta=False), progress=heard).run
    record = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    return pd.read_parquet(run.path / "cells.parquet"), record


@given(
    size=st.tuples(st.integers(33, 150), st.integers(33, 150)),
    um=st.sampled_from([0.33, 0.5, 0.75, 1.0]),
    tiles=st.lists(st.integers(64, 120), min_size=2, max_size=2),
    workers=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=12)
def test_the_table_does_not_depend_on_tiles_or_workers(
    tmp_path_factory: pytest.TempPathFactory,
    model: Nimbus,
    size: tuple[int, int],
    um: float,
    tiles: list[int],
    workers: int,
    seed: int,
) -> None:
    """From pixels to the table, normalisation included."""
    tables = []
    for tile in (None, *tiles):
        space = workspace(tmp_path_factory.mktemp("runs"), *size, um, seed)
        tables.append(table_and_record(space, model, Engine(device="cpu", tile=tile, workers=workers), Heard())[0])
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=1e-5, atol=1e-5)
    assert tables[0]["Nimbus: CD3"].nunique() > 1


def test_skipped_tiles_are_said_and_kept(tmp_path: Path, model: Nimbus) -> None:
    heard = Heard()
    space = workspace(tmp_path, 400, 150, 1.0, 0, empty=250)
    table, record = table_and_record(space, model, Engine(device="cpu", tile=80), heard)
    counts = record["images"][0]["counts"]
    assert counts["tiles_skipped"] > counts["tiles"] / 2 > 1
    tiles = counts["tiles"] + counts["tiles_skipped"]
    assert f"a: {counts['tiles_skipped']} of {tiles} tiles hold no cell and were skipped" in heard.notes
    assert counts["steps_back"] == []
    assert len(table) == counts["cells"]
    full = Heard()
    _, record = table_and_record(workspace(tmp_path / "full", 100, 100, 1.0, 0), model, Engine(device="cpu"), full)
    assert record["images"][0]["counts"]["tiles_skipped"] == 0
    assert not [note for note in full.notes if "skipped" in note]


def test_what_was_reduced_for_lack_of_memory_is_said_and_kept(
    tmp_path: Path, model: Nimbus, caplog: pytest.LogCaptureFixture
) -> None:
    plain, record = table_and_record(workspace(tmp_path / "1", 150, 150, 1.0, 0), model, Engine(device="cpu"), Heard())
    assert record["images"][0]["counts"]["steps_back"] == []

    def check(_: object, inputs: tuple[torch.Tensor]) -> None:
        if inputs[0].shape[0] * inputs[0].shape[-1] * inputs[0].shape[-2] > 100**2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.network.register_forward_pre_hook(check)
    try:
        engine = Engine(device="cpu", batch=2)
        table, record = table_and_record(workspace(tmp_path / "2", 150, 150, 1.0, 0), model, engine, Heard())
    finally:
        hook.remove()
    said = record["images"][0]["counts"]["steps_back"]
    assert said[0] == "batch 2 -> 1"
    assert said[1].startswith("tile core")
    assert "not enough memory: batch 2 -> 1" in caplog.text
    pd.testing.assert_frame_equal(table, plain, rtol=1e-5, atol=1e-5)
