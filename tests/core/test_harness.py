"""The measuring of commands, and what is compared: inputs, checks of equal work, environments of other programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from benchmarks import fields, peers, score
from benchmarks.harness import Bar, Case, Figures, compare, machine, measure, table


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_cpu_seconds_and_memory_are_those_of_the_command() -> None:
    block = "x = b'x' * 200_000_000; import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    busy = measure(Case("busy", python(block)))
    assert busy.cpu >= 0.3
    assert busy.rss >= 180


def test_a_failing_command_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"bad failed \(3\): why"):
        measure(Case("bad", python("import sys; sys.stderr.write('why'); sys.exit(3)")))
    made = tmp_path / "made"
    made.write_text("by an earlier run")
    with pytest.raises(RuntimeError, match="idle failed"):
        measure(Case("idle", python(""), done=made))


def test_cases_are_compared_in_turn(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def case(name: str, **more: object) -> Case:
        return Case(name, python(f"open({str(log)!r}, 'a').write({name!r})"), **more)

    figures = compare([case("a"), case("b", most_runs=1), case("c", warm_up=False)], runs=2)
    assert log.read_text() == "ab" + "abc" + "ac"
    assert [f.runs for f in figures.values()] == [2, 1, 2]
    with pytest.raises(ValueError, match="one name"):
        compare([case("a"), case("a")], runs=1)


def test_the_table_has_ratios_and_says_which_bars_are_kept() -> None:
    figures = {"theirs": Figures(10, 20, 1000, 5), "ours": Figures(4, 10, 1500, 1)}
    bars = (Bar("cpu", 0.5, "theirs"), Bar("wall", 0.4, "theirs"), Bar("rss", 1400), Bar("cpu", 1.0, "not measured"))
    text = table("Nothing", figures, 5, [Case("ours", [], rival="theirs", bars=bars), Case("theirs", [])])
    assert "| theirs | 10.00 | 20.00 | 1000 |  |  |" in text
    ours = next(line for line in text.splitlines() if "ours" in line)
    assert "ours (median of 1)" in ours
    assert "0.40 / 0.50 / 1.50" in ours
    assert "CPU <= 0.5 x: 0.40, kept; wall <= 0.4 x: 0.50, **missed**; RSS <= 1400 MB: **missed** |" in ours
    assert machine() in text
    assert "cores" in machine()


@pytest.mark.parametrize(("size", "blocks", "cells"), [(512, 2, 400), (1024, 2, 1600), (1536, 3, 60**2)])
def test_fields_are_the_same_for_both_programs(tmp_path: Path, size: int, blocks: int, cells: int) -> None:
    made = fields.field(tmp_path, size, blocks=blocks, for_peer=True)
    labels, pixels = tifffile.imread(made.labels), tifffile.imread(made.image)
    assert labels.shape == pixels.shape == (size, size)
    assert made.cells == cells == len(np.unique(labels)) - 1
    bright = pixels[(labels % 3 == 1) & (labels > 0)].mean()
    assert bright > 10 * pixels[(labels % 3 != 1) & (labels > 0)].mean() > 0
    np.testing.assert_array_equal(tifffile.imread(made.fov / "CD3.tiff"), pixels)
    np.testing.assert_array_equal(tifffile.imread(made.segmentation / f"{made.fov.name}_whole_cell.tiff"), labels)


def test_large_fields_hold_as_many_cells_in_islands_or_alone() -> None:
    """By the first tiles alone: 16384 px with 160 x 160 cells."""
    for blocks, pitch in ((8, 2048), (160, 102)):
        tiles = fields._tiles(16384, blocks)
        labels = np.concatenate([next(tiles)[0] for _ in range(32)], axis=1)
        assert blocks * fields._cells_a_side(16384, blocks) == 160
        a_side = fields._cells_a_side(16384, blocks)
        columns = {(int(label) - 1) % 160 for label in np.unique(labels) if label}
        assert columns == set(range(160))
        assert not labels[:, a_side * fields.CELL_STEP : pitch].any()


def test_work_that_is_not_equal_is_not_compared(tmp_path: Path) -> None:
    for name, cell, column in (("theirs", "label", "CD3"), ("ours", "cell", "Nimbus: CD3")):
        (tmp_path / name).write_text(f"{cell},fov,{column}\n1,a,0.25\n2,a,0.5\n")
    theirs, ours = score.read_scores(tmp_path / "theirs"), score.read_scores(tmp_path / "ours")
    assert theirs == ours == {"1": 0.25, "2": 0.5}
    assert "scores 0.250 to 0.500, largest difference between the programs 0" in score.same_scores(theirs, ours, 2, "x")
    for wrong in ({"1": 0.25}, {"1": 0.25, "2": 0.50002}, {"1": 0.25, "2": float("nan")}):
        with pytest.raises(RuntimeError, match="x: "):
            score.same_scores(theirs, wrong, 2, "x")
    (tmp_path / "a.json").write_text(json.dumps({"CD3": "976.0"}))
    (tmp_path / "b.json").write_text(json.dumps({"factors": {"CD3": 976.0}}))
    assert "976" in score.same_factors(tmp_path / "a.json", tmp_path / "b.json", "x")
    (tmp_path / "b.json").write_text(json.dumps({"factors": {"CD3": 977.0}}))
    with pytest.raises(RuntimeError, match="divides by 976"):
        score.same_factors(tmp_path / "a.json", tmp_path / "b.json", "x")


def test_environments_of_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert peers.requirements("nimbus")["Nimbus-Inference"] == "0.0.5"
    found = peers.installed(Path(sys.executable), ["numpy", "no-such-package"])
    assert found == {"numpy": np.__version__}
    assert peers.folder_of(Path(sys.executable), "mxbridge").name == "mxbridge"
    monkeypatch.setenv("MXBRIDGE_PEERS", str(tmp_path))
    assert peers.home() == tmp_path
    monkeypatch.delenv("MXBRIDGE_PEERS")
    assert peers.home().name == ".peers"
