"""The report of qc: its numbers are those of qc.csv, flagged stains are seen, and what is damaged does not hide the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mxbridge.report.blocks import Card, Gallery, Group, Note, Numbers, Plot, Table
from mxbridge.report.build import build_report
from mxbridge.report.of_qc import (
    BLOCK_COLUMNS,
    COLUMNS,
    MORE_COLUMNS,
    MOST_BLOCKS,
    agreement_plot,
    is_flag,
    sections,
    stain_cards,
)
from mxbridge.report.qc_pictures import MarkerPicture, panel
from mxbridge.stream.engine import Engine
from mxbridge.tasks.qc import qc
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.linked_stains import MARKERS, UM, save_model, scrambled, shared_mixing, stains
from tests.report.shown_blocks import assert_says_the_same, column, context_of, of_kind, pixels, read_csv, shown

HOSTILE = "no<b>ise $\\foo$"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a good image, one with a scrambled channel, and one that failed in a part."""
    folder = tmp_path_factory.mktemp("qc")
    model = save_model(
        folder / "any.safetensors", shared_mixing(), validation=[stains(s, (256, 256)) for s in range(3)]
    )
    noise, part = stains(11, (256, 256)), stains(20, (384, 512))
    noise[0] = scrambled(noise[0])
    part[2, :, :192] = scrambled(part[2, :, :192])
    images = {"good": stains(10, (256, 256)), HOSTILE: noise, "part": part}
    workspace = MemoryWorkspace({name: (p, MARKERS, UM) for name, p in images.items()}, runs_home=folder)
    finished, _ = qc(workspace, [model], Engine(device="cpu"), out=folder / "run")
    assert not finished.errors
    return finished.run.path


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(done, tmp_path / "run"))


def test_every_number_is_that_of_the_runs_tables(done: Path) -> None:
    found = shown(sections(context_of(done)))
    assert list(found) == ["qc", "qc-agreement", "qc-flagged", "qc-blocks"]
    stored = read_csv(done / "qc.csv")
    flags = stored["verdict"].map(is_flag)
    assert flags.sum() == 4 and len(stored) == 15
    table, more = of_kind(found["qc"], Table)
    ranked = pd.concat(
        [stored[stored["verdict"] == "flagged"], stored[flags & (stored["verdict"] != "flagged")], stored[~flags]]
    )
    assert assert_says_the_same(table, ranked, COLUMNS) == len(COLUMNS) - 1, "all but the model, of which there is one"
    assert assert_says_the_same(more, ranked, MORE_COLUMNS) == len(MORE_COLUMNS) - 1
    for head, name in {"Expected from": "expected_low", "To": "expected_high", "p corrected": "p_corrected"}.items():
        assert column(table, head) == ranked[name].tolist()
    (numbers,) = of_kind(found["qc"], Numbers)
    assert {word: count for count, word in numbers.pairs} == {
        "flagged": "4",
        "stains looked at": "15",
        "images": "3",
        "tests": "15",
    }
    (blocks,) = of_kind(found["qc-blocks"], Table)
    stored_blocks = read_csv(done / "qc_blocks.csv")
    assert len(stored_blocks) < MOST_BLOCKS
    assert assert_says_the_same(blocks, stored_blocks, BLOCK_COLUMNS) >= 6


def test_flagged_stains_are_seen_with_their_bad_blocks_framed(done: Path) -> None:
    context = context_of(done)
    found = shown(sections(context))
    assert [group.title for group in of_kind(found["qc-flagged"], Group)] == [
        f"{HOSTILE}: 3 flagged",
        "part: 1 flagged",
    ]
    galleries = of_kind(found["qc-flagged"], Gallery)
    assert [gallery.title[:20] for gallery in galleries][-1].startswith("C: flagged; 18 of 48")
    assert len(galleries) == 4
    measured, imputed, _, agreement = galleries[-1].items
    assert measured.lines == ("Measured", "18 of 48 blocks are bad")
    left, right = orange(measured)[:, :90].sum(), orange(measured)[:, 100:].sum()
    assert left > 300 and right < left / 20, "the frames are around the blocks on the left"
    assert orange(imputed).sum() < 20
    bright = pixels(agreement.picture).sum(axis=2)
    assert bright[:, :90].mean() < bright[:, 100:].mean() / 2
    assert context.problems == []


def test_panels_have_a_scale_bar(done: Path) -> None:
    (folder,) = done.glob("images/*part")
    picture = MarkerPicture.load(folder, *MarkerPicture.names(folder)[0])
    assert picture.um_per_px((384 // 2, 512 // 2)) == pytest.approx((2 * UM, 2 * UM)), "the field has 384 x 512 pixels"
    high = panel(picture, "measured", outlined=False).size[1]
    for card in stain_cards(picture):
        below = pixels(card.picture)[high:].sum(axis=2)
        assert (below < 200).sum(axis=1).max() > 20, card.lines


def orange(card: Card) -> np.ndarray:
    """Where the colour of frames is."""
    red, green, blue = np.moveaxis(pixels(card.picture), -1, 0)
    return (red > 150) & (red - blue > 90) & (red - green > 40)


def test_the_page_of_a_run_escapes_its_names(done: Path, tmp_path: Path) -> None:
    text = build_report(done, tmp_path / "qc.html").read_text(encoding="utf-8")
    assert "no&lt;b&gt;ise" in text and "no<b>ise" not in text
    assert text.count("data:image/webp") == 16


def test_damaged_files_leave_the_rest(run: Path) -> None:
    next(run.glob("images/*part/qc.npz")).write_bytes(b"PK nothing")
    (run / "qc_blocks.csv").write_bytes(b"\xff\xfe\x00broken")
    context = context_of(run)
    found = shown(sections(context))
    assert list(found) == ["qc", "qc-agreement", "qc-flagged"]
    assert len(of_kind(found["qc-flagged"], Gallery)) == 3
    (bare,) = of_kind(found["qc-flagged"], Table)
    assert bare.rows[0][:2] == ("C", "flagged")
    assert any("qc_blocks.csv" in problem for problem in context.problems)
    assert any("part" in problem for problem in context.problems)


def test_without_the_table_a_note_says_so(run: Path) -> None:
    (run / "qc.csv").unlink()
    found = shown(sections(context_of(run)))
    assert [type(block) for block in found["qc"]] == [Note]
    (run / "qc.csv").write_text("image,marker\nx,y\n")
    context = context_of(run)
    assert [type(block) for block in shown(sections(context))["qc"]] == [Note]
    assert context.problems == ["qc.csv has no column image_id"]


def test_words_where_numbers_should_be_are_no_numbers(run: Path) -> None:
    table = read_csv(run / "qc.csv").astype({"agreement": object})
    table.loc[0, "agreement"] = "<script>"
    table.to_csv(run / "qc.csv", index=False)
    shown_table, _ = of_kind(shown(sections(context_of(run)), "qc")["qc"], Table)
    values = [row[4] for row in shown_table.rows]
    assert sum(value is None for value in values) == 1 and all(value is None or value < 1 for value in values)


def test_a_plot_of_many_stains_stays_small() -> None:
    rows = pd.DataFrame(
        [
            {"marker": f"stain {m} $\\bad", "model": "M", "image": str(i), "verdict": "ok", "agreement": m / 130,
             "expected_low": 0.2, "expected_high": 0.6}
            for m in range(130) for i in range(20)
        ]
    )  # fmt: skip
    drawn = agreement_plot(rows)
    assert isinstance(drawn, Plot)
    assert len(drawn.svg) < 400_000
    assert "120 of 130 rows" in drawn.svg
