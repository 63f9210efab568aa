"""Failed stains are found, bad inputs are named, good stains are left alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mxbridge.errors import BrokenFile, InputError, ModelError, QualityFlagged, UnknownName, UsageError
from mxbridge.models.maxim import Maxim
from mxbridge.progress import Progress
from mxbridge.stream.engine import Engine
from mxbridge.tasks.judging import causes
from mxbridge.tasks.judging.causes import choose_crops
from mxbridge.tasks.judging.verdicts import Row, load_found
from mxbridge.tasks.over_images import Finished, run_over_images
from mxbridge.tasks.qc import QcOptions, QcTask, qc
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.linked_stains import MARKERS, UM, as_image, save_model, scrambled, shared_mixing, stains

GROUP = ("A", "B", "C")


def validation() -> list[np.ndarray]:
    return [stains(seed, (256, 256)) for seed in range(3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Maxim:
    folder = tmp_path_factory.mktemp("model")
    return save_model(folder / "any.safetensors", shared_mixing(), validation=validation())


def judged(
    models: Sequence[Maxim],
    images: Mapping[str, np.ndarray],
    home: Path,
    *,
    names: Sequence[str] = MARKERS,
    options: QcOptions | None = None,
    um: float = UM,
    engine: Engine | None = None,
) -> tuple[Finished, dict[tuple[str, str], Row]]:
    workspace = MemoryWorkspace({name: (pixels, names, um) for name, pixels in images.items()}, runs_home=home)
    finished, rows = qc(workspace, models, engine or Engine(device="cpu"), options or QcOptions())
    finished.raise_for_errors()
    return finished, {(row.image, row.marker): row for row in rows}


def test_good_failed_and_suspect(model: Maxim, tmp_path: Path) -> None:
    """One run over a good image, a scrambled channel, a shifted one and a dead one."""
    noise, shifted, dead = stains(11), stains(12), stains(13)
    noise[0] = scrambled(noise[0])
    shifted[1] = np.roll(shifted[1], 12, axis=1)
    dead[3] = 0
    images = {"good": stains(10), "noise": noise, "shifted": shifted, "dead": dead}
    finished, rows = judged([model], images, tmp_path)

    assert {rows["good", m].verdict for m in MARKERS} == {"ok"}
    assert rows["noise", "A"].verdict == "flagged"
    assert "noise" in rows["noise", "A"].reason
    assert "B, C agree again" in rows["noise", "A"].reason
    assert {rows["noise", m].verdict for m in "BC"} == {"suspect input A"}
    assert rows["noise", "B"].agreement_without > rows["noise", "B"].agreement + 0.1
    assert rows["shifted", "B"].verdict == "flagged"
    assert {rows["shifted", m].verdict for m in "AC"} == {"suspect input B"}
    assert (rows["dead", "D"].verdict, rows["dead", "D"].reason) == ("flagged", "it is constant")
    assert rows["dead", "E"].verdict == "suspect input D"
    assert "cannot tell" in rows["dead", "E"].reason
    for image, others in (("noise", "DE"), ("shifted", "DE"), ("dead", "ABC")):
        assert {rows[image, m].verdict for m in others} == {"ok"}

    table = pd.read_csv(finished.run.path / "qc.csv")
    assert list(table["verdict"]) == [row.verdict for row in rows.values()]
    about = finished.run.details["qc"]
    assert (about["tests"], about["correction"]) == (20, "Benjamini-Hochberg")
    flagged = {key for key, row in rows.items() if row.is_flag}
    pictures = {p.parent.parent.name[5:] + "/" + p.name[0] for p in finished.run.path.glob("images/*/qc/*.png")}
    assert pictures == {f"{image}/{marker}" for image, marker in flagged}
    with pytest.raises(QualityFlagged, match="8 of 20 stains are flagged") as raised:
        QcTask([model], Engine(device="cpu"), QcOptions()).raise_for_flags(list(rows.values()), finished.run)
    assert raised.value.exit_code == 8


def test_a_stain_that_failed_in_a_part(model: Maxim, tmp_path: Path) -> None:
    pixels = stains(20, (384, 512))
    pixels[2, :, :192] = scrambled(pixels[2, :, :192])
    finished, rows = judged([model], {"part": pixels}, tmp_path)
    assert rows["part", "C"].verdict == "flagged"
    assert "of 48 blocks do not agree" in rows["part", "C"].reason
    assert rows["part", "C"].blocks_bad == 18
    where = pd.read_csv(finished.run.path / "qc_blocks.csv")
    where = where[where["marker"] == "C"]
    assert len(where) == 18
    assert where["x_um"].max() + 64 * UM == 192 * UM  # the left three columns of blocks
    assert set(where["side_x_um"]) == {64 * UM}
    assert {rows["part", m].verdict for m in "DE"} == {"ok"}


def test_two_bad_channels_are_both_named(model: Maxim, tmp_path: Path) -> None:
    pixels = stains(21)
    pixels[0] = np.roll(pixels[0], 15, axis=0)
    pixels[3] = np.roll(pixels[3], 15, axis=1)
    _, rows = judged([model], {"two": pixels}, tmp_path)
    assert rows["two", "A"].verdict == "flagged"
    assert {rows["two", m].verdict for m in "BC"} == {"suspect input A"}
    assert "or E failed" in rows["two", "D"].reason  # nobody else tells of D and E
    assert "or D failed" in rows["two", "E"].reason


def test_blank_images_are_low_signal(model: Maxim, tmp_path: Path) -> None:
    """Glass: hardly any contrast in any channel, and so nothing to compare."""
    pixels = np.full((5, 320, 320), 90, np.uint8)
    pixels[:, ::7, ::5] += 1
    _, rows = judged([model], {"glass": pixels}, tmp_path)
    assert {row.verdict for row in rows.values()} == {"low signal"}
    assert rows["glass", "A"].reason.startswith("0 of 25 blocks have signal")


def test_a_channel_without_numbers_is_flagged_and_what_was_not_imaged_is_not(model: Maxim, tmp_path: Path) -> None:
    lost, masked = stains(14).astype(np.float32), stains(15).astype(np.float32)
    lost[0] = np.nan
    masked[:, :, :170] = np.nan
    _, rows = judged([model], {"lost": lost, "masked": masked}, tmp_path)
    assert (rows["lost", "A"].verdict, rows["lost", "A"].reason) == ("flagged", "100% of its pixels are no numbers")
    assert {rows["lost", m].verdict for m in "DE"} == {"ok"}
    assert {rows["masked", m].verdict for m in MARKERS} == {"ok"}
    assert rows["masked", "A"].blocks_used == 15


def test_models_of_one_marker_are_both_judged_and_named_once(model: Maxim, tmp_path: Path) -> None:
    other = save_model(tmp_path / "b.safetensors", 0.9 * shared_mixing(), validation=validation())
    pixels = stains(11)
    pixels[0] = scrambled(pixels[0])
    workspace = MemoryWorkspace({"x": (pixels, MARKERS, UM)}, runs_home=tmp_path)
    _, rows = qc(workspace, [model, other], Engine(device="cpu"))
    of_a = [row for row in rows if row.marker == "A"]
    assert len({row.model for row in of_a}) == 2
    assert {row.verdict for row in of_a} == {"flagged"}
    assert all("B, C agree again" in row.reason for row in of_a)
    with pytest.raises(UsageError, match="the same weights"):
        QcTask([model, replace(model, name="other")], Engine(device="cpu"), QcOptions())


def test_pictures_of_what_is_no_longer_flagged_go(model: Maxim, tmp_path: Path) -> None:
    """And nothing else in their folder."""
    noise = stains(11)
    noise[0] = scrambled(noise[0])
    finished, _ = judged([model], {"noise": noise}, tmp_path)
    folder = next(finished.run.path.glob("images/*/qc"))
    assert {p.name[0] for p in folder.iterdir()} == set(GROUP)
    (folder / "mine.png").write_bytes(b"mine")
    task = QcTask([model], Engine(device="cpu"), QcOptions())
    found = folder.parent / "qc.json"
    rows = json.loads(found.read_text())
    rows[1] |= {"agreement": 0.9, "bad_blocks": 0}
    found.write_text(json.dumps(rows))
    task.finish(finished.run)
    assert {p.name[0] for p in folder.iterdir()} == {"A", "C", "m"}


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (17, 3)])
def test_tiny_images(model: Maxim, tmp_path: Path, shape: tuple[int, int]) -> None:
    _, rows = judged([model], {"tiny": stains(1)[:, : shape[0], : shape[1]]}, tmp_path)
    assert {row.verdict for row in rows.values()} == {"low signal"}
    assert all(row.reason.startswith("no block of 64 px has enough pixels") for row in rows.values())


def test_an_image_in_which_all_fails_takes_no_time_of_its_own(
    model: Maxim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of markers and channels grow with the square of the panel; what is tried of them does not."""
    monkeypatch.setattr(causes, "TRIALS", 6)
    tried: list[str] = []
    real = causes.Search._hangs
    monkeypatch.setattr(causes.Search, "_hangs", lambda *a: tried.append(a[-1]) or real(*a))
    pixels = np.stack([np.roll(plane, (41 * k, 67 * k), (0, 1)) for k, plane in enumerate(stains(16))])
    pixels[4] = 0
    _, rows = judged([model], {"all": pixels}, tmp_path)
    assert sum(row.is_flag for row in rows.values()) >= 4
    assert 0 < len(tried) <= 6
    assert tried[0] == "E"  # what is known to be bad comes first


def test_too_small_an_image_is_not_judged(model: Maxim, tmp_path: Path) -> None:
    _, rows = judged([model], {"small": stains(1, (64, 128))}, tmp_path)
    assert {row.verdict for row in rows.values()} == {"low signal"}


def test_what_cannot_be_judged_says_why(tmp_path: Path) -> None:
    bare = save_model(tmp_path / "bare.safetensors", shared_mixing())
    _, rows = judged([bare], {"x": stains(1)}, tmp_path)
    assert {row.verdict for row in rows.values()} == {"not judged"}
    assert "no range of agreement" in rows["x", "A"].reason
    pixels = stains(1)
    pixels[1] = 255
    _, rows = judged([bare], {"x": pixels}, tmp_path)
    assert rows["x", "B"].verdict == "flagged"  # whatever the model knows
    weak = save_model(
        tmp_path / "weak.safetensors", 0.01 + 0 * shared_mixing(), validation=[_unrelated(s) for s in range(3)]
    )
    _, rows = judged([weak], {"x": stains(1)}, tmp_path)
    assert {row.verdict for row in rows.values()} == {"not judged"}
    assert "too weakly" in rows["x", "A"].reason


def _unrelated(seed: int) -> np.ndarray:
    return np.concatenate([stains(100 * seed + k, (256, 256))[k : k + 1] for k in range(5)])


def test_a_channel_that_no_model_judges_can_be_the_cause(tmp_path: Path) -> None:
    """A's own range is too weak to judge it, but B and C agree again without it."""
    strong = save_model(tmp_path / "m.safetensors", shared_mixing(), validation=validation())
    text = json.loads((tmp_path / "m.json").read_text())
    text["validation"]["agreement"].pop("A")
    del text["validation"]["input_ranges"]
    (tmp_path / "m.json").write_text(json.dumps(text))
    from mxbridge.models.catalogue import by_path, open_model

    model = open_model(by_path(tmp_path / "m.safetensors"))
    assert model.weights_sha256 == strong.weights_sha256
    pixels = stains(22)
    pixels[0] = np.roll(pixels[0], 15, axis=0)
    _, rows = judged([model], {"x": pixels}, tmp_path)
    assert {rows["x", m].verdict for m in "BC"} == {"suspect input A"}
    assert rows["x", "A"].verdict == "flagged"
    assert rows["x", "A"].reason == "B, C agree again without it"


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory) -> list[Maxim]:
    """One single-marker model for each of A, B and C, from the other four."""
    folder = tmp_path_factory.mktemp("singles")
    out = []
    for k, marker in enumerate(GROUP):
        inputs = [m for m in MARKERS if m != marker]
        mixing = np.delete(shared_mixing()[k : k + 1], k, axis=1)
        out.append(
            save_model(
                folder / f"{marker}.safetensors", mixing, inputs, [marker], any_marker=False, validation=validation()
            )
        )
    return out


def test_single_marker_models_judge_each_others_inputs(singles: list[Maxim], tmp_path: Path) -> None:
    pixels = stains(30)
    pixels[0] = np.roll(pixels[0], 15, axis=0)
    _, rows = judged(singles, {"good": stains(31), "shifted": pixels}, tmp_path)
    assert {rows["good", m].verdict for m in GROUP} == {"ok"}
    assert rows["shifted", "A"].verdict == "flagged"
    assert {rows["shifted", m].verdict for m in "BC"} == {"suspect input A"}


def test_an_input_of_a_single_model_that_nothing_can_replace(singles: list[Maxim], tmp_path: Path) -> None:
    pixels = stains(32)
    pixels[1] = scrambled(pixels[1])
    _, rows = judged(singles[:1], {"x": pixels}, tmp_path)
    assert rows["x", "A"].verdict == "suspect input B"
    assert "cannot tell" in rows["x", "A"].reason
    assert rows["x", "B"].verdict == "not judged"
    assert "noise" in rows["x", "B"].reason


def test_a_missing_input_is_said(singles: list[Maxim], model: Maxim, tmp_path: Path) -> None:
    without_d = np.delete(stains(33), 3, axis=0)
    names = [m for m in MARKERS if m != "D"]
    _, rows = judged([*singles[:1], model], {"x": without_d}, tmp_path, names=names)
    single, several = rows["x", "A"], rows["x", "B"]
    assert several.verdict == "ok"  # an any-marker model does without
    assert ("x", "D") not in rows
    assert single.model == f"MAXIM {model.weights_sha256[:6]}"  # the last one in; both have a row of their own
    workspace = MemoryWorkspace({"x": (without_d, names, UM)}, runs_home=tmp_path / "alone")
    with pytest.raises(InputError, match="no channel D"):
        qc(workspace, singles[:1], Engine(device="cpu"))


def test_images_with_nothing_to_judge_are_left_out(model: Maxim, tmp_path: Path) -> None:
    strange = MemoryWorkspace({"x": (stains(1), [f"X{m}" for m in MARKERS], UM)}, runs_home=tmp_path)
    with pytest.raises(InputError, match="nothing to judge"):
        qc(strange, [model], Engine(device="cpu"))
    unsized = MemoryWorkspace({"x": (stains(1), MARKERS, None)}, runs_home=tmp_path)
    with pytest.raises(InputError, match="how large its pixels are"):
        qc(unsized, [model], Engine(device="cpu"))
    with pytest.raises(UnknownName, match="no marker 'KI67'"):
        qc(strange, [model], Engine(device="cpu"), QcOptions(markers=("KI67",)))


def test_only_the_markers_asked_for_under_their_panel_names(model: Maxim, tmp_path: Path) -> None:
    panel = tmp_path / "panel.csv"
    panel.write_text("channel,name\nch1,A\nch2,B\nch3,C\nch4,D\nch5,E\n")
    names = [f"ch{k}" for k in range(1, 6)]
    _, rows = judged([model], {"x": stains(5)}, tmp_path, names=names, options=QcOptions(("a", "D"), panel))
    assert list(rows) == [("x", "A"), ("x", "D")]
    assert {row.verdict for row in rows.values()} == {"ok"}


def test_tiles_and_scale_do_not_matter(model: Maxim, tmp_path: Path) -> None:
    pixels = stains(40, (260, 340))
    _, whole = judged([model], {"x": pixels}, tmp_path / "a")
    _, tiled = judged([model], {"x": pixels}, tmp_path / "b", engine=Engine(device="cpu", tile=272))
    finer = pixels.repeat(2, axis=1).repeat(2, axis=2)
    _, doubled = judged([model], {"x": finer}, tmp_path / "c", um=UM / 2)
    for key, row in whole.items():
        assert tiled[key].agreement == pytest.approx(row.agreement, abs=1e-5)
        assert doubled[key].agreement == pytest.approx(row.agreement, abs=1e-3)
        assert row.verdict == tiled[key].verdict == doubled[key].verdict


def test_a_second_run_computes_nothing_and_damage_is_said(model: Maxim, tmp_path: Path) -> None:
    pixels = stains(50)
    pixels[0] = scrambled(pixels[0])
    workspace = MemoryWorkspace({"x": (pixels, MARKERS, UM)}, runs_home=tmp_path)
    first, rows = qc(workspace, [model], Engine(device="cpu"))
    again, same = qc(workspace, [model], Engine(device="cpu"))
    assert (first.computed, again.computed) == (1, 0)
    assert first.run.path == again.run.path
    assert repr(rows) == repr(same)
    picture = next(first.run.path.glob("images/*/qc/*.png"))
    picture.unlink()
    qc(workspace, [model], Engine(device="cpu"))
    assert picture.is_file()
    found = next(first.run.path.glob("images/*/qc.json"))
    found.write_text("[{}]")
    with pytest.raises(BrokenFile, match="no result of qc"):
        load_found(found.parent)


def test_another_validation_is_another_run(tmp_path: Path) -> None:
    """The card lies beside the weights: new ranges in it make old verdicts stale."""
    workspace = MemoryWorkspace({"x": (stains(1), MARKERS, UM)}, runs_home=tmp_path)
    path = tmp_path / "m.safetensors"
    first, _ = qc(workspace, [save_model(path, shared_mixing(), validation=validation())], Engine(device="cpu"))
    second, _ = qc(workspace, [save_model(path, shared_mixing(), validation=validation()[:2])], Engine(device="cpu"))
    assert second.computed == 1
    assert first.run.path != second.run.path


def test_a_card_with_broken_ranges_is_a_model_error(model: Maxim) -> None:
    model_with = type(model)(
        **{**vars(model), "card": type(model.card)(validation={"agreement": {"A": {"windows": 3}}})}
    )
    with pytest.raises(ModelError, match="A: no usable range"):
        QcTask([model_with], Engine(device="cpu"), QcOptions())


def test_one_bad_image_does_not_stop_the_others(model: Maxim, tmp_path: Path) -> None:
    images = {"deep": (stains(1).astype(np.uint16), MARKERS, UM), "good": (stains(2), MARKERS, UM)}
    workspace = MemoryWorkspace(images, runs_home=tmp_path)
    task = QcTask([model], Engine(device="cpu"), QcOptions())
    finished = run_over_images(workspace, workspace.list(), task, publish=False)
    assert [i.status for i in finished.run.images] == ["failed", "computed"]
    assert "--value-scale" in str(finished.errors[0])
    assert {row.image for row in task.rows(finished.run)} == {"good"}
    scaled = QcTask([model], Engine(device="cpu"), QcOptions(value_scale=1.0))
    done = run_over_images(workspace, workspace.list(["deep"]), scaled, publish=False)
    assert {row.verdict for row in scaled.rows(done.run)} == {"ok"}


def test_crops_are_where_the_blocks_are() -> None:
    image = as_image(stains(1, (1100, 1200)))
    blocks = np.zeros((18, 19), bool)
    blocks[9:12, 9:15] = True
    blocks[0, 0] = True
    first, second = choose_crops(image, blocks, (UM, UM))
    assert first.shape == (512, 512)
    assert np.array_equal(first.levels[0].compute(), image.levels[0][:, 512:1024, 512:1024].compute())
    assert second.identity.endswith("(0, 0, 512, 512)")
    assert list(choose_crops(image, ~blocks & False, (UM, UM))) == []


class Interrupting(Progress):
    """Ctrl-C when the second image begins."""

    def image(self, number: int, total: int, name: str) -> None:
        if number == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(model: Maxim, tmp_path: Path) -> None:
    images = {name: (stains(seed, (256, 256)), MARKERS, UM) for seed, name in enumerate(("one", "two"), start=60)}
    workspace = MemoryWorkspace(images, runs_home=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        qc(workspace, [model], Engine(device="cpu"), progress=Interrupting())
    finished, rows = qc(workspace, [model], Engine(device="cpu"))
    assert finished.computed == 1
    assert [row.image for row in rows] == ["one"] * 5 + ["two"] * 5
    assert len(pd.read_csv(finished.run.path / "qc.csv")) == 10
