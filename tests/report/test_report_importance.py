"""The report of importance: its shares are those of attributions.csv, and what is damaged does not hide the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mxbridge.models.attribution import AttributionSettings
from mxbridge.report.blocks import Group, Note, Plot, Table
from mxbridge.report.build import build_report
from mxbridge.report.of_importance import COLUMNS, PAIR_COLUMNS, sections
from mxbridge.stream.engine import Engine
from mxbridge.tasks.importance import ImportanceOptions, importance
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.linked_stains import MARKERS, UM, save_model, shared_mixing, stains
from tests.report.shown_blocks import assert_says_the_same, column, context_of, of_kind, read_csv, shown


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over two images and two targets."""
    folder = tmp_path_factory.mktemp("importance")
    model = save_model(folder / "any.safetensors", shared_mixing())
    images = {name: (stains(seed, (64, 80)), MARKERS, UM) for seed, name in enumerate(("one", "two"))}
    options = ImportanceOptions(("A", "D"), AttributionSettings(steps=4))
    workspace = MemoryWorkspace(images, runs_home=folder)
    finished, _ = importance(workspace, [model], Engine(device="cpu"), options, out=folder / "run")
    assert not finished.errors
    return finished.run.path


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def test_every_number_is_that_of_the_runs_tables(done: Path) -> None:
    context = context_of(done)
    found = shown(sections(context))
    assert list(found) == ["importance", "importance-targets", "importance-images"]
    stored, pairs = read_csv(done / "attributions.csv"), read_csv(done / "attribution_pairs.csv")
    (every,) = of_kind(found["importance-images"], Table)
    assert assert_says_the_same(every, stored, COLUMNS) >= 12
    assert column(every, "Absolute, %") == stored["absolute_percent"].tolist()
    shares = of_kind(found["importance-targets"], Table)
    assert len(shares) == 4 and len(of_kind(found["importance-targets"], Plot)) == 2
    for target, means, correlations in (("A", *shares[:2]), ("D", *shares[2:])):
        own = stored[stored["target"] == target].groupby("input")["absolute_percent"]
        order = own.mean().sort_values(ascending=False)
        assert column(means, "From") == order.index.tolist()
        assert 100 * np.array(column(means, "Absolute")) == pytest.approx(order.to_numpy())
        assert 100 * np.array(column(means, "Lowest")) == pytest.approx(own.min()[order.index].to_numpy())
        assert 100 * np.array(column(means, "Highest")) == pytest.approx(own.max()[order.index].to_numpy())
        assert assert_says_the_same(correlations, pairs[pairs["target"] == target], PAIR_COLUMNS) == 4
    assert context.problems == []


def test_the_fewest_markers_are_named(done: Path) -> None:
    """A comes from B and C by 6 of 14 parts each, from D and E by 1 each: two make up 80 %."""
    (table,) = of_kind(shown(sections(context_of(done)), "importance")["importance"], Table)
    assert column(table, "Imputed") == ["A", "D"]
    assert column(table, "Markers for 80 %")[0] == 2 and column(table, "Of") == [4, 4]
    assert set(column(table, "Which, the most important first")[0].split(", ")) == {"B", "C"}
    stored = read_csv(done / "attributions.csv")
    own = stored[stored["target"] == "A"]
    worst = max(abs(part["delta"].iloc[0]) / part["absolute"].sum() for _, part in own.groupby("image_id"))
    assert column(table, "Sum missed by")[0] == pytest.approx(worst)


def test_what_is_missed_by_much_is_said(run: Path) -> None:
    table = read_csv(run / "attributions.csv")
    table["delta"] = 0.1 * table["absolute"].sum()
    table.to_csv(run / "attributions.csv", index=False)
    (note,) = of_kind(shown(sections(context_of(run)), "importance")["importance"], Note)
    assert "more --steps" in note.text and note.kind == "warning"


def test_without_correlations_the_shares_stay(run: Path) -> None:
    (run / "attribution_pairs.csv").unlink()
    found = shown(sections(context_of(run)))
    assert len(of_kind(found["importance-targets"], Group)) == 2
    assert not of_kind(found["importance-targets"], Plot)
    assert len(of_kind(found["importance-targets"], Table)) == 2


def test_tables_that_are_none(run: Path) -> None:
    pairs = read_csv(run / "attribution_pairs.csv")
    pd.concat([pairs, pairs.assign(first="$stranger\\")]).to_csv(run / "attribution_pairs.csv", index=False)
    table = read_csv(run / "attributions.csv")
    table["input"] = table["input"].str.replace("C", "$\\frac{<b>")
    table.to_csv(run / "attributions.csv", index=False)
    assert len(of_kind(shown(sections(context_of(run)))["importance-targets"], Plot)) == 2
    for content in (b"", b"\xff\xfe\x00", b"image,image_id\n1,2\n"):
        (run / "attributions.csv").write_bytes(content)
        context = context_of(run)
        assert [type(block) for block in shown(sections(context))["importance"]] == [Note]
        assert len(context.problems) == 1


def test_the_page(done: Path, tmp_path: Path) -> None:
    text = build_report(done, tmp_path / "importance.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in text for name in ("importance", "importance-targets", "importance-images"))
