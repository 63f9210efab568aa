"""Fitting thresholds, the file they are kept in, and the tables people give."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import BrokenFile, ChangedMeanwhile, InputError, SourceError, UnknownName, UsageError
from mxbridge.models.normalization import Normalization
from mxbridge.results import ImageRef
from mxbridge.tasks.hand_calls import ClassedCells, _by_image, _hear_table, read_class_table
from mxbridge.tasks.positivity import HandCalls
from mxbridge.tasks.threshold_fit import auroc, f1_at, fit_threshold
from mxbridge.tasks.thresholds import Calibrated, ScoringRule, ThresholdsFile, stored_thresholds
from mxbridge.workspaces.memory import MemoryWorkspace

RULE = ScoringRule("a" * 64, True, None, "pooled", 0.999)


STEEP = 40


def noisy(cells: int, threshold: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose chance of being positive rises from 0 to 1 around a threshold."""
    random = np.random.default_rng(seed)
    scores = random.random(cells, np.float32)
    return scores, random.random(cells) < 1 / (1 + np.exp(-(scores - threshold) * STEEP))


def best_for_all(threshold: float) -> float:
    """The threshold of the largest balanced accuracy over all cells that :func:`noisy` could draw: where the chance of
    being positive is the share of positive cells."""
    share = (1 / (1 + np.exp(-(np.linspace(0, 1, 10_001) - threshold) * STEEP))).mean()
    return threshold + math.log(share / (1 - share)) / STEEP


def balanced_accuracy(threshold: float, scores: np.ndarray, positive: np.ndarray) -> float:
    called = scores >= np.float32(threshold)
    return (called[positive].mean() + (~called)[~positive].mean()) / 2


def test_a_known_threshold_is_found_and_the_intervals_cover_it() -> None:
    truth, covered = best_for_all(0.37), 0
    for seed in range(40):
        fit = fit_threshold(*noisy(300, 0.37, seed), draws=200)
        assert fit is not None
        assert abs(fit.threshold - truth) < 0.1
        assert fit.auroc_interval[0] <= fit.auroc <= fit.auroc_interval[1]
        covered += fit.interval[0] <= truth <= fit.interval[1]
    assert covered >= 35  # 95 % are meant


def test_more_cells_make_a_narrower_interval() -> None:
    few, many = (fit_threshold(*noisy(cells, 0.4, 3), draws=200) for cells in (60, 2400))
    assert few is not None and many is not None
    assert many.interval[1] - many.interval[0] < (few.interval[1] - few.interval[0]) / 2


def test_two_groups_apart_are_parted_in_the_middle_of_their_gap() -> None:
    scores = np.array([0.1, 0.2, 0.6, 0.9], np.float32)
    fit = fit_threshold(scores, np.array([False, False, True, True]))
    assert fit is not None
    assert fit.threshold == pytest.approx(0.4)
    assert (fit.balanced_accuracy, fit.auroc) == (1, 1)
    assert fit.interval[0] <= np.float32(0.2) and fit.interval[1] >= np.float32(0.6)  # all between them is as good


def test_of_equal_gaps_the_widest_and_of_equally_wide_ones_the_lowest_is_taken() -> None:
    positive = np.array([False, True, False, True])
    wide = fit_threshold(np.array([0.1, 0.2, 0.3, 0.9], np.float32), positive, draws=10)
    even = fit_threshold(np.array([0.125, 0.25, 0.375, 0.5], np.float32), positive, draws=10)
    assert wide is not None and even is not None
    assert wide.threshold == pytest.approx(0.6)
    assert even.threshold == pytest.approx(0.1875)


def test_the_fit_does_not_depend_on_the_order_of_cells_and_repeats() -> None:
    scores, positive = noisy(200, 0.5, 1)
    order = np.random.default_rng(2).permutation(200)
    assert fit_threshold(scores, positive) == fit_threshold(scores[order], positive[order])


def test_scores_that_say_nothing_give_no_threshold() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    assert fit_threshold(scores, np.array([True, True, False, False])) is None
    assert fit_threshold(np.full(4, 0.5, np.float32), np.array([True, True, False, False])) is None


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=30).filter(
        lambda cells: 0 < sum(p for _, p in cells) < len(cells)
    )
)
@settings(max_examples=60, deadline=None)
def test_no_other_threshold_does_better(cells: list[tuple[int, bool]]) -> None:
    scores = np.array([s / 12 for s, _ in cells], np.float32)
    positive = np.array([p for _, p in cells])
    every = [balanced_accuracy(t, scores, positive) for t in np.linspace(-0.01, 1.01, 300)]
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))
    fit = fit_threshold(scores, positive, draws=2)
    if fit is None:
        assert max(every) <= 0.5 + 1e-9
        return
    assert fit.threshold == np.float32(fit.threshold)
    assert balanced_accuracy(fit.threshold, scores, positive) == pytest.approx(max(every)) == fit.balanced_accuracy


def test_f1_counts_what_is_called_right() -> None:
    scores, positive = np.array([0.1, 0.5, 0.6, 0.9], np.float32), np.array([False, True, False, True])
    assert f1_at(0.5, scores, positive) == pytest.approx(4 / 5)
    assert f1_at(0.95, scores, positive) == 0


def entry(
    marker: str = "CD3", threshold: float = 0.4, *, model: str = "Nimbus", rule: ScoringRule = RULE
) -> Calibrated:
    return Calibrated(
        model, marker, threshold, (0.3, 0.5), rule, 0.9, (0.8, 1.0), 0.85, 0.5, 0.7, 0.9, 12, 15, 1, 2,
        ("a.tif",), ("run-1",), "2026-11-21T10:00:00+00:00",
    )  # fmt: skip


def test_thresholds_are_kept_beside_others(tmp_path: Path) -> None:
    path = tmp_path / "mxbridge" / "thresholds.json"
    other = replace(RULE, weights_sha256="b" * 64)
    ThresholdsFile.read(path, missing=True).put([entry("CD3"), entry("CD3", 0.9, rule=other), entry("CD8", 0.25)])
    document = json.loads(path.read_text("utf-8"))
    document["mine"], document["thresholds"][2]["comment"] = "note", "by Ann"
    path.write_text(json.dumps(document), encoding="utf-8")
    ThresholdsFile.read(path).put([entry("CD3", 0.75)])
    after = ThresholdsFile.read(path)
    assert {m: e.threshold for m, e in after.of("Nimbus", RULE).items()} == {"CD3": 0.75, "CD8": 0.25}
    assert after.of("Nimbus", other)["CD3"].threshold == np.float32(0.9)
    assert after.of("NimbusDemo", RULE) == {}
    assert after.document["mine"] == "note"
    assert [raw.get("comment") for raw in after.document["thresholds"]] == [None, "by Ann", None]


def test_thresholds_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    ThresholdsFile(path).put([entry("Ki67 µ/\U0001f600", 0.5)])
    assert ThresholdsFile.read(path).entries == (entry("Ki67 µ/\U0001f600", 0.5),)


def test_a_file_that_changed_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    ThresholdsFile(path).put([entry()])
    read = ThresholdsFile.read(path)
    path.write_text(path.read_text("utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ChangedMeanwhile):
        read.put([entry("CD8")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights_sha256": "c" * 64}, "other weights"),
        ({"quantile": 0.99}, "another normalisation quantile"),
        ({"normalize": "per-image"}, "another kind of normalisation"),
        ({"tta": False}, "another augmentation"),
        ({"compat": "nimbus-0.0.5"}, "another --compat"),
    ],
)
def test_thresholds_for_other_scores_are_told_and_not_used(tmp_path: Path, change: dict, words: str) -> None:
    file = ThresholdsFile(tmp_path / "t.json").put([entry()])
    now = replace(RULE, **change)
    assert file.of("Nimbus", now) == {}
    (line,) = file.stale("Nimbus", now, ["CD3", "CD8"])
    assert words in line and "CD3" in line
    assert file.stale("Nimbus", RULE, ["CD3"]) == []
    assert file.stale("Nimbus", now, ["CD8"]) == []


def broken_thresholds() -> dict[str, bytes]:
    good = {"mxbridge_thresholds": 1, "thresholds": [asdict(entry())]}

    def but(**change: object) -> bytes:
        return json.dumps({**good, "thresholds": [{**asdict(entry()), **change}]}).encode()

    return {
        "empty": b"",
        "list": b"[]",
        "deep": b"[" * 100_000,
        "other": b'{"a": 1}',
        "version": b'{"mxbridge_thresholds": 2, "thresholds": []}',
        "no list": b'{"mxbridge_thresholds": 1, "thresholds": 3}',
        "no entry": b'{"mxbridge_thresholds": 1, "thresholds": [null]}',
        "text": but(threshold="high"),
        "range": but(threshold=1.5),
        "nan": but(threshold=math.nan),
        "huge": but(positive=math.inf),
        "interval": but(interval=[1]),
        "rule": but(rule={}),
        "marker": but(marker=None),
    }


@pytest.mark.parametrize("name", broken_thresholds())
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(broken_thresholds()[name])
    with pytest.raises(BrokenFile, match=r"t\.json"):
        ThresholdsFile.read(path)


def test_a_threshold_said_outright_wins(tmp_path: Path) -> None:
    workspace, path = MemoryWorkspace({}), tmp_path / "t.json"
    ThresholdsFile(path).put([entry()])
    assert stored_thresholds(workspace, None, None) is None
    assert stored_thresholds(workspace, path, None) is not None
    assert stored_thresholds(workspace, None, 0.6) is None
    with pytest.raises(UsageError, match="two things"):
        stored_thresholds(workspace, path, 0.6)
    with pytest.raises(SourceError, match="no thresholds"):
        stored_thresholds(workspace, tmp_path / "none.json", None)


def test_conflicts_and_cells_without_a_score_are_left_out() -> None:
    cells = ClassedCells()
    cells.add(np.array([1, 2, 3, 1, 0, 2], np.uint8), np.array([0.9, 0.1, 0.5, np.nan, 0.4, 0.2], np.float32), 7)
    assert cells.scores.tolist() == pytest.approx([0.9, 0.1, 0.2])
    assert cells.positive.tolist() == [True, False, False]
    assert (cells.conflicts, cells.unscored, cells.cells, cells.counts) == (1, 1, 5, (1, 2))
    assert set(cells.images) == {7}


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "calls.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


def heard(path: Path, calls: HandCalls, ids: list[str]) -> dict[str, list[int]]:
    said = {m: np.zeros(len(ids), np.uint8) for m in calls.wanted}
    rows = _by_image(read_class_table(path), [ImageRef("/a/x.tif", "x.tif")], path)
    _hear_table(said, calls, rows.get("/a/x.tif", ()), ids, path)
    return {m: s.tolist() for m, s in said.items()}


def test_a_table_of_calls(tmp_path: Path) -> None:
    calls = HandCalls(("CD3", "NA"), ("CD3", "NA"))
    text = "Image,Cell ID,Marker,Class\nx.tif,1,CD3,1\nx.tif,2,cd3,Negative\nx.tif,3,,CD3: NA-\n/a/x.tif,4,CD3,maybe\nx.tif,1,NA,neg\n"
    got = heard(table(tmp_path, text + "x.tif,2,CD3,+\n"), calls, ["1", "2", "3", "4"])
    assert got == {"CD3": [1, 3, 1, 0], "NA": [2, 0, 2, 0]}


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ("y.tif,1,CD3,1", UnknownName, "y.tif"),
        ("x.tif,9,CD3,1", InputError, "no scored cell '9'"),
        ("x.tif,1,CD99,1", UnknownName, "CD99"),
    ],
)
def test_a_table_that_names_what_is_not_there(tmp_path: Path, row: str, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        heard(table(tmp_path, f"image,cell,marker,class\n{row}\n"), HandCalls(("CD3",), ("CD3",)), ["1"])


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BrokenFile, match="no column image, class"):
        read_class_table(table(tmp_path, "cell,marker\n1,CD3\n"))
    with pytest.raises(SourceError):
        read_class_table(tmp_path / "nowhere.csv")
    (tmp_path / "calls.csv").write_bytes(b"\xff\xfe\x00\x01,\n")
    with pytest.raises(InputError, match=r"calls\.csv"):
        read_class_table(tmp_path / "calls.csv")


def test_a_name_that_two_images_share_is_not_guessed() -> None:
    refs = [ImageRef("/a/x.tif", "x.tif"), ImageRef("/b/x.tif", "x.tif")]
    with pytest.raises(UsageError, match="several images"):
        _by_image([{"image": "x.tif", "cell": "1", "marker": "", "class": "CD3"}], refs, Path("calls.csv"))


def test_factors_of_unknown_origin_are_told_apart(tmp_path: Path) -> None:
    """A normalization_dict.json of Nimbus-Inference does not say how it was measured."""
    one, same, other = (Normalization({"CD3": factor, "CD8": 2.0}) for factor in (10.0, 10.0, 20.0))
    assert ScoringRule.kind_of(one) == ScoringRule.kind_of(same) != ScoringRule.kind_of(other)
    measured = [Normalization({"CD3": factor}, quantile=0.999) for factor in (10.0, 20.0)]
    assert {ScoringRule.kind_of(factors) for factors in measured} == {"pooled"}
