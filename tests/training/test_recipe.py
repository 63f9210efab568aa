"""The recipe of the embedded weights, at toy size."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from mxbridge.models import catalogue
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.training import nimbus, panels
from mxbridge.training.data import SimulatedPatches
from mxbridge.training.simulator import simulate


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    small = replace(panels.scenarios()["clean"], height_um=60, width_um=60)
    monkeypatch.setattr(nimbus, "scenarios", lambda: {"clean": small})
    monkeypatch.setattr(nimbus, "demo_slide", lambda seed: simulate(small, seed))
    monkeypatch.setattr(nimbus, "random_settings", lambda seed: panels.random_settings(seed, size_um=100.0))
    monkeypatch.setattr(nimbus, "VALIDATION_SEEDS", (9_000_001,))


def test_weights_and_card_come_out_and_load(tmp_path):
    out = tmp_path / "toy.safetensors"
    told = []
    card = nimbus.train_demo(out, seed=2, steps=3, width=2, depth=2, batch=2, device="cpu", progress=told.append)
    assert len(told) == 3 and card.steps == 3 and card.seed == 2
    found = catalogue.by_path(out)
    assert found.name == "NimbusDemo" and found.sha256 == card.sha256
    assert {"clean", "demo slide", "validation_macro_f1"} <= set(card.metrics)
    json.dumps(found.card.metrics, allow_nan=False)
    with safe_open(out, framework="np") as opened:
        assert json.loads(opened.metadata()["card"])["name"] == "NimbusDemo"
    assert ResidualUNet.from_state_dict(load_file(out)).width == 2


def test_the_same_seed_gives_the_same_weights(tmp_path):
    options = {"steps": 2, "width": 2, "depth": 2, "batch": 2, "device": "cpu"}
    first = nimbus.train_demo(tmp_path / "a.safetensors", seed=1, **options)
    assert nimbus.train_demo(tmp_path / "b.safetensors", seed=1, **options).sha256 == first.sha256
    assert nimbus.train_demo(tmp_path / "c.safetensors", seed=3, **options).sha256 != first.sha256


def test_seeds_kept_for_judging_are_refused(tmp_path):
    with pytest.raises(ValueError, match="kept for validation"):
        nimbus.train_demo(tmp_path / "a.safetensors", seed=9)


def test_no_scenario_is_a_training_setting():
    judged = {settings.hash() for settings in panels.scenarios().values()}
    drawn = {panels.random_settings(1_000_000 + n).hash() for n in range(200)}
    assert len(drawn) == 200 and not judged & drawn


def test_hash_follows_the_recipe():
    patches = SimulatedPatches(lambda n: nimbus.grow(1, n), 1.0, 1)
    assert nimbus.recipe_hash(1, patches, fields=3) == nimbus.recipe_hash(1, patches, fields=3)
    assert nimbus.recipe_hash(2, patches, fields=3) != nimbus.recipe_hash(1, patches, fields=3)
    assert nimbus.recipe_hash(1, replace(patches, side=64), fields=3) != nimbus.recipe_hash(1, patches, fields=3)


def test_it_runs_as_a_module(tmp_path, capsys):
    out = tmp_path / "toy.safetensors"
    assert nimbus.main(["--out", str(out), "--steps", "2", "--width", "2", "--depth", "2", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["name"] == "NimbusDemo" and "macro-F1" in printed.err
