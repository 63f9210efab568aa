"""``mxbridge train maxim``: from files, projects and the published program's tables to weights; wrong use in one line."""

from __future__ import annotations

import csv
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import typer
from safetensors.torch import load_file

from mxbridge.cli import train_maxim as command
from mxbridge.training.maxim import recipe as maxim
from mxbridge.training.maxim import settings as maxim_settings
from tests.toy_maxim_training import MARKERS, pixels

Call = Callable[..., tuple[int, str, str]]
TINY = (
    "--width", 2, "--patch", 32, "--batch", 2, "--steps", 4, "--validate-every", 2, "--device", "cpu",
)  # fmt: skip


def write(
    folder: Path, count: int = 3, channels: tuple[str, ...] = MARKERS, um: float | None = 0.5, **kind: Any
) -> Path:
    folder.mkdir()
    for k in range(count):
        size = {} if um is None else {"PhysicalSizeX": um, "PhysicalSizeY": um}
        stack = pixels(k, markers=len(channels), **kind)
        metadata = {"axes": "CYX", "Channel": {"Name": list(channels)}, **size}
        tifffile.imwrite(folder / f"s{k}.ome.tif", stack, ome=True, photometric="minisblack", metadata=metadata)
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("slides") / "good")


def test_weights_come_out(mxbridge: Call, tmp_path: Path, slides: Path) -> None:
    words = ("train", "maxim", "--any-marker", "--files", slides, "--out", "m.safetensors", *TINY)
    code, out, err = mxbridge(*words)
    assert code == 0, err
    assert "held back" in out and "KI67" in out and str(tmp_path / "m.safetensors") in out
    assert "by case (every image taken for one): " in err and "step 4: loss" in err and "Pearson" in err
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "m.json", "m.training"}
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, out, err = mxbridge(*words, "--json", "--progress", "json")
    document = json.loads(out)
    assert (
        code == 0
        and document["card"]["outputs"] == list(MARKERS)
        and document["weights"] == str(tmp_path / "m.safetensors")
    )
    assert any("done already" in json.loads(line).get("text", "") for line in err.splitlines())
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    code, _, err = mxbridge(*words, "--seed", 5, "--quiet")
    assert code == 0 and err == "" and before[tmp_path / "m.safetensors"] != (tmp_path / "m.safetensors").read_bytes()


def test_projects_and_one_marker(mxbridge: Call, tmp_path: Path, project: Path) -> None:
    words = ("--project", project, "--marker", "ki67", "--inputs", "DAPI,CD3", "--validation", "south.ome.tif", *TINY)
    code, out, err = mxbridge("train", "maxim", *words, "--out", "m.safetensors", "--licence", "CC0", "--json")
    assert code == 0, err
    card = json.loads(out)["card"]
    assert (card["channels"], card["outputs"], card["any_marker"]) == (["DAPI", "CD3"], ["Ki67"], False)
    assert card["licence"] == "CC0" and "south.ome.tif held back" in card["split"]


def test_a_dry_run_says_what_would_be_done(mxbridge: Call, tmp_path: Path, slides: Path) -> None:
    words = ("train", "maxim", "--any-marker", "--files", slides, "--out", "m.safetensors", *TINY, "--dry-run")
    code, out, err = mxbridge(*words, "--validation-region", 0.25, "--guard", 8)
    assert code == 0 and "validation rows 48 to 64" in out and "4 outputs" in out, err
    code, out, _ = mxbridge(*words, "--json")
    document = json.loads(out)
    assert document["steps"] == 4 and set(document["scaling"]) == set(MARKERS) and not list(tmp_path.iterdir())


def test_cases_decide(mxbridge: Call, tmp_path: Path, slides: Path) -> None:
    cases = tmp_path / "cases.csv"
    words = (
        "train",
        "maxim",
        "--any-marker",
        "--files",
        slides,
        "--out",
        "m.safetensors",
        *TINY,
        "--dry-run",
        "--cases",
        cases,
    )
    cases.write_text("image,case,split\ns0.ome.tif,p1,train\ns1.ome.tif,p1,valid\ns2.ome.tif,p2,train\n")
    code, _, err = mxbridge(*words)
    assert code == 2 and "case p1 is on both sides" in err and "--validation-region" in err
    code, out, err = mxbridge(*words, "--validation-region", 0.3, "--guard", 0, "--json")
    assert code == 0 and "by region" in json.loads(out)["split"], err
    cases.write_text("image,case\ns0.ome.tif,p1\ns1.ome.tif,p1\ns2.ome.tif,p2\n")
    code, out, err = mxbridge(*words, "--validation", "p2", "--json")
    assert code == 0 and json.loads(out)["split"].startswith("by case: p2 held back"), err


def test_the_published_programs_table(mxbridge: Call, tmp_path: Path) -> None:
    lines = ["Image_Path,Split_Name"]
    for k, side in enumerate(("train", "train", "valid", "test")):
        np.save(tmp_path / f"i{k}.npy", pixels(k, dtype="uint8"))
        lines.append(f"i{k}.npy,{side}")
    (tmp_path / "images.csv").write_text("\n".join(lines))
    words = (
        "train",
        "maxim",
        "--npy",
        "images.csv",
        "--marker",
        "KI67",
        "--um-per-px",
        0.25,
        "--out",
        "m.safetensors",
        *TINY,
    )
    code, out, err = mxbridge(*words, "--npy-panel", ",".join(MARKERS), "--preset", "paper", "--json")
    assert code == 0, err
    card = json.loads(out)["card"]
    assert "i2.npy held back" in card["split"] and card["dtype"] == "uint8" and card["um_per_px"] == 0.25
    assert card["scaling"]["KI67"]["high"] == 255 and card["linear_start"] == {}
    uses = [r["use"] for r in csv.DictReader((tmp_path / "m.training" / "split.csv").read_text().splitlines())]
    assert uses == ["training", "training", "validation", "left out"]
    code, _, err = mxbridge(*words)
    assert code == 2 and "--npy-panel" in err
    code, _, err = mxbridge(*words, "--npy-panel", "A,B")
    assert code == 6 and "has 4 planes, the panel 2 names" in err


def test_every_option_arrives(mxbridge: Call, slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def listen(images: list[Any], settings: Any, out: Path, **options: Any) -> None:
        told.update(options, settings=settings, out=out)
        raise KeyboardInterrupt

    monkeypatch.setattr(maxim, "train_maxim", listen)
    given = {
        "marker": "CD3,CD8", "inputs": "DAPI", "scaling": "arcsinh:3", "cap": 0.9, "model-um-per-px": 0.7,
        "fraction": 0.5, "steps": 7, "validate-every": 3, "patience": 4, "batch": 5, "patch": 64, "jitter": 0.1,
        "learning-rate": 0.01, "alpha": 0.3, "adversarial": "paper", "beta": 9, "seed": 8, "width": 6, "start": "none",
        "precision": "fp32",
    }  # fmt: skip
    words = [w for name, value in given.items() for w in (f"--{name}", value)]
    code, _, err = mxbridge(
        "train", "maxim", "--files", slides, "--out", "m.safetensors", *words, "--name", "Ours", "--device", "cpu"
    )
    assert code == 130 and "go on" in err
    settings = told["settings"].to_json()
    assert settings.pop("markers") == ("CD3", "CD8") and settings.pop("inputs") == ("DAPI",)
    renamed = {"model_um_per_px": "um_per_px", "patch": "side"}
    for name, value in given.items():
        key = renamed.get(name.replace("-", "_"), name.replace("-", "_"))
        assert key in ("marker", "inputs") or settings[key] == value, name
    assert (told["name"], told["device"], told["restart"], told["licence"]) == ("Ours", "cpu", False, "")
    assert told["checkpoint"] == Path("m.safetensors.checkpoint") and told["held_back"] == maxim.HoldBack()
    words = ("--files", slides, "--out", "m.safetensors", "--any-marker", "--restart", "--checkpoint", "c")
    mxbridge("train", "maxim", *words, "--most-hidden", 3, "--epochs", 2)
    assert (told["settings"].most_hidden, told["settings"].epochs) == (3, 2)
    mxbridge("train", "maxim", *words, "--validation-region", 0.4, "--guard", 9)
    assert told["held_back"] == maxim.HoldBack(region=0.4) and told["settings"].guard == 9
    assert told["restart"] is True and told["checkpoint"] == Path("c")


def test_the_defaults_are_the_presets() -> None:
    """Only what somebody gives replaces a preset's setting."""
    own = {"preset", "name", "licence", "device", "precision", "progress", "resume"}
    for name, parameter in inspect.signature(command.train_maxim).parameters.items():
        assert name in own or parameter.default in (None, False, inspect.Parameter.empty, ""), name
    assert maxim_settings.settings_of("house", any_marker=True) == maxim_settings.MaximSettings(any_marker=True)
    assert typer.main.get_command


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "--marker NAME or --any-marker"),
        (("--any-marker", "--marker", "CD3"), 2, "--marker NAME or --any-marker"),
        (("--marker", "CD99"), 2, "no marker 'CD99'"),
        (("--marker", ","), 2, "names nothing"),
        (("--any-marker", "--preset", "home"), 2, "no preset 'home'"),
        (("--any-marker", "--scaling", "log"), 2, "--scaling 'log'"),
        (("--any-marker", "--validation", "s1.ome.tif", "--validation-region", "0.2"), 2, "two ways"),
        (("--any-marker", "--guard", "8"), 2, "--guard goes with"),
        (("--any-marker", "--validation", "s9"), 2, "no case 's9'"),
        (("--any-marker", "--validation-region", "0.9"), 6, "too few to hold back"),
        (("--any-marker", "--patch", "1024"), 6, "smaller than a patch"),
        (("--any-marker", "--adversarial", "mine"), 2, "no discriminator 'mine'"),
        (("--any-marker", "--precision", "fp16"), 2, "fp16"),
        (("--any-marker", "--device", "abacus"), 2, "abacus"),
        (("--any-marker", "--image", "s0"), 2, "1 case is too few"),
        (("--any-marker", "--image", "s9"), 2, "no image 's9'"),
        (("--any-marker", "--panel", "nowhere.csv"), 4, "no panel file"),
        (("--any-marker", "--cases", "nowhere.csv"), 4, "no table of cases"),
        (("--any-marker", "--npy", "images.csv"), 2, "source of its own"),
        (("--any-marker", "--npy-panel", "A"), 2, "goes with --npy"),
        (("--any-marker", "--model-um-per-px", "9"), 6, "more than 4 times"),
        (("--any-marker", "--epochs", "2", "--steps", "9"), 2, "--steps would have no effect"),
        (("--any-marker", "--preset", "paper", "--validate-every", "9"), 2, "--validate-every would have no effect"),
        (("--any-marker", "--beta", "9"), 2, "--beta would have no effect"),
        (("--marker", "CD3", "--most-hidden", "2"), 2, "--most-hidden would have no effect"),
        (("--any-marker", "--scaling", "peer", "--cap", "0.9"), 2, "--cap would have no effect"),
    ],
)
def test_wrong_use(mxbridge: Call, tmp_path: Path, slides: Path, words: tuple[str, ...], code: int, says: str) -> None:
    given, out, err = mxbridge("train", "maxim", "--files", slides, "--out", "m.safetensors", *words)
    assert (given, out, "Traceback" in err) == (code, "", False), err
    assert says in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ({"um": None}, 6, "--um-per-px"),
        ({"channels": ("DAPI", "CD3", "CD3", "CD8")}, 6, "2 channels are called CD3"),
        ({"count": 1}, 2, "--validation-region"),
        ({"shape": (40, 34)}, 6, "8 are the least"),
    ],
)
def test_images_that_cannot_be_learned_from(
    mxbridge: Call, tmp_path: Path, kind: dict[str, Any], code: int, says: str
) -> None:
    folder = write(tmp_path / "bad", **kind)
    given, _, err = mxbridge("train", "maxim", "--any-marker", "--files", folder, "--out", "m.safetensors", *TINY)
    assert given == code and says in err and "Traceback" not in err, err
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]


def test_a_dead_channel_is_named(mxbridge: Call, tmp_path: Path) -> None:
    folder = write(tmp_path / "bad")
    for file in folder.iterdir():
        stack = tifffile.imread(file)
        stack[2] = 9
        metadata = {"axes": "CYX", "Channel": {"Name": list(MARKERS)}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        tifffile.imwrite(file, stack, ome=True, photometric="minisblack", metadata=metadata)
    code, _, err = mxbridge("train", "maxim", "--any-marker", "--files", folder, "--out", "m.safetensors", *TINY)
    assert code == 6 and "no signal in CD8" in err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_and_gone_on(mxbridge: Call, tmp_path: Path, slides: Path) -> None:
    """kill -9 once a checkpoint is there; the same command then ends with the weights of an undisturbed training."""
    words = ["train", "maxim", "--any-marker", "--files", slides, *TINY, "--steps", 16, "--patience", 16]
    command_line = [sys.executable, "-m", "mxbridge", *map(str, words), "--out", "killed.safetensors"]
    kept = tmp_path / "killed.safetensors.checkpoint"
    with subprocess.Popen(command_line, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 240
        while not kept.exists() and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed.json").exists() and "steps" in torch.load(kept, weights_only=True)["state"]
    for name in ("whole", "killed"):
        code, _, err = mxbridge(*words, "--out", f"{name}.safetensors")
        assert code == 0, err
    one, two = (load_file(tmp_path / f"{n}.safetensors") for n in ("whole", "killed"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not kept.exists()


@pytest.mark.parametrize("before", ["m.safetensors", "m.json"])
def test_a_kill_while_writing_leaves_a_model_or_none(
    mxbridge: Call, tmp_path: Path, slides: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the weights or between them and their card: the next run ends as if nothing had been."""
    replace, words = os.replace, ("train", "maxim", "--any-marker", "--files", slides, "--out", "m.safetensors", *TINY)

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == before:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        assert mxbridge(*words)[0] == 130
    assert not (tmp_path / "m.json").exists() and (tmp_path / "m.safetensors.checkpoint").exists()
    code, _, err = mxbridge(*words, "--cap", 0.9)
    assert code == 2 and "another" in err and "scaling" in err and "--restart" in err
    code, _, err = mxbridge(*words)
    assert code == 0 and not (tmp_path / "m.safetensors.checkpoint").exists(), err
    assert (
        json.loads((tmp_path / "m.json").read_text())["sha256"]
        == maxim.hashlib.sha256((tmp_path / "m.safetensors").read_bytes()).hexdigest()
    )
