"""``mxbridge train``: weights come out and score, a stop goes on, and nothing of the user's is overwritten."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mxbridge.training import nimbus
from tests.toy_training import shrink

Call = Callable[..., tuple[int, str, str]]
TOY = ("--steps", 2, "--width", 2, "--depth", 2, "--batch", 2, "--device", "cpu")
TRAINED_WITH = ("seed", "steps", "width", "depth", "batch", "device")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def test_weights_come_out_and_score(mxbridge: Call, tmp_path: Path, fields: Path) -> None:
    code, out, err = mxbridge("train", "nimbus", "--demo", "--out", "w.safetensors", *TOY)
    assert code == 0, err
    assert "macro-F1 at 0.5" in out and str(tmp_path / "w.safetensors") in out
    assert "simulated tissue" in err and "step 2: loss" in err
    assert {p.name for p in tmp_path.iterdir()} == {"w.safetensors", "w.json"}
    one = ("--files", fields / "north.ome.tif", "--labels", fields / "north_mask.tif", "--no-tta", "--markers", "CD3")
    code, out, err = mxbridge("score", *one, "--model", "w.safetensors", "--device", "cpu")
    assert code == 0 and "NimbusDemo: CD3" in out, err


def test_answers_for_programs(mxbridge: Call, tmp_path: Path) -> None:
    code, out, err = mxbridge(
        "train", "nimbus", "--demo", "--out", "w.safetensors", *TOY, "--json", "--progress", "json"
    )
    assert code == 0
    document = json.loads(out)
    assert document["weights"] == str(tmp_path / "w.safetensors") and document["card"]["seed"] == 1
    events = [json.loads(line) for line in err.splitlines()]
    steps = [(e["done"], e["total"]) for e in events if e["event"] == "step"]
    assert steps == [(1, 2), (2, 2)]
    _, _, err = mxbridge("train", "nimbus", "--demo", "--out", "w.safetensors", *TOY, "--quiet")
    assert err == ""


def test_every_option_arrives(mxbridge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}

    def listen(out: Path, **options: object) -> None:
        told.update(out=out, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(nimbus, "train_demo", listen)
    options = {"seed": 3, "steps": 7, "width": 5, "depth": 2, "batch": 9, "device": "cpu", "checkpoint": "c"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    code, _, err = mxbridge("train", "nimbus", "--demo", "--out", "w.safetensors", *words)
    assert code == 130 and "go on" in err
    expected = options | {"out": Path("w.safetensors"), "checkpoint": Path("c"), "restart": False}
    assert told.pop("progress") and told == expected
    mxbridge("train", "nimbus", "--demo", "--out", "w.safetensors", "--restart")
    assert told["checkpoint"] == Path("w.safetensors.checkpoint") and told["restart"] is True


def test_the_defaults_are_those_of_the_recipe(mxbridge: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}

    def listen(out: Path, **options: object) -> None:
        told.update(options)
        raise KeyboardInterrupt

    recipe = {k: p.default for k, p in inspect.signature(nimbus.train_demo).parameters.items() if k in TRAINED_WITH}
    monkeypatch.setattr(nimbus, "train_demo", listen)
    mxbridge("train", "nimbus", "--demo", "--out", "w.safetensors")
    assert len(recipe) == len(TRAINED_WITH) and {k: told[k] for k in recipe} == recipe


def test_restart_starts_anew_and_spares_other_files(mxbridge: Call, tmp_path: Path) -> None:
    same = ("train", "nimbus", "--demo", "--out", "w.safetensors", "--checkpoint", "kept")
    (tmp_path / "kept").write_bytes(b"my thesis")
    for choice in ("--resume", "--restart"):
        code, _, err = mxbridge(*same, *TOY, choice)
        assert code == 6 and "no checkpoint" in err and "Traceback" not in err
    assert (tmp_path / "kept").read_bytes() == b"my thesis"
    torch.save({"identity": json.dumps({"schedule": {}})}, tmp_path / "kept")
    code, _, err = mxbridge(*same, *TOY)
    assert code == 2 and "another" in err and "--restart" in err
    code, _, err = mxbridge(*same, *TOY, "--restart")
    assert code == 0 and not (tmp_path / "kept").exists(), err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nimbus", "--out", "w.safetensors"), 2, "--demo"),
        (("stardist", "--out", "w.safetensors"), 2, "stardist"),
        (("nimbus", "--demo"), 2, "--out"),
        (("nimbus", "--demo", "--out", "w.pt"), 2, "w.pt"),
        (("nimbus", "--demo", "--out", "w.safetensors", "--seed", "9"), 2, "--seed"),
        (("nimbus", "--demo", "--out", "w.safetensors", "--depth", "7"), 2, "--depth"),
        (("nimbus", "--demo", "--out", "w.safetensors", "--device", "abacus"), 2, "abacus"),
        (("nimbus", "--demo", "--out", "taken.safetensors"), 7, "taken.safetensors is there already"),
    ],
)
def test_wrong_use(mxbridge: Call, tmp_path: Path, words: tuple[str, ...], code: int, says: str) -> None:
    (tmp_path / "taken.safetensors").write_bytes(b"somebody's")
    given, out, err = mxbridge("train", *words)
    assert (given, out, "Traceback" in err) == (code, "", False) and says in err
    assert [p.name for p in tmp_path.iterdir()] == ["taken.safetensors"]
