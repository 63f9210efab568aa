"""The recipe of the embedded weights, at toy size."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mxbridge.errors import BrokenFile, OutputError, UsageError
from mxbridge.models import catalogue
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.training import frozen, nimbus
from tests.toy_training import shrink

TOY = {"steps": 2, "width": 2, "depth": 2, "batch": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    shrink(monkeypatch)


def test_weights_and_card_come_out_and_load(tmp_path):
    out = tmp_path / "toy.safetensors"
    told = []
    card = nimbus.train_demo(out, seed=2, **TOY, progress=told.append)
    assert len(told) == 2 and card.steps == 2 and card.seed == 2
    assert card.settings_hash == frozen.simulator_hash() and "no real image" in card.training_data
    found = catalogue.by_path(out)
    assert found.name == "NimbusDemo" and found.sha256 == card.sha256
    assert {"clean", "demo slide", "validation_macro_f1"} <= set(card.metrics)
    json.dumps(found.card.metrics, allow_nan=False)
    with safe_open(out, framework="np") as opened:
        assert json.loads(opened.metadata()["card"])["name"] == "NimbusDemo"
    assert ResidualUNet.from_state_dict(load_file(out)).width == 2


def test_the_same_seed_gives_the_same_weights_and_replaces_its_own(tmp_path):
    first = nimbus.train_demo(tmp_path / "a.safetensors", seed=1, **TOY)
    assert nimbus.train_demo(tmp_path / "a.safetensors", seed=1, **TOY).sha256 == first.sha256
    assert nimbus.train_demo(tmp_path / "c.safetensors", seed=3, **TOY).sha256 != first.sha256


def test_a_stopped_training_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(moment):
        if moment.step == 2:
            raise Stop

    plan = nimbus.Schedule
    monkeypatch.setattr(nimbus, "Schedule", lambda **given: plan(**(given | {"validate_every": 1})))
    options = TOY | {"steps": 3}
    whole = nimbus.train_demo(tmp_path / "whole.safetensors", **options)
    kept = tmp_path / "kept"
    with pytest.raises(Stop):
        nimbus.train_demo(tmp_path / "part.safetensors", **options, checkpoint=kept, progress=stop)
    for change in ({"width": 3}, {"depth": 3}, {"batch": 3}, {"steps": 4}, {"seed": 2}):
        with pytest.raises(UsageError, match="another"):
            nimbus.train_demo(tmp_path / "part.safetensors", **(options | change), checkpoint=kept)
    with monkeypatch.context() as changed:
        changed.setattr(nimbus, "simulator_hash", lambda: "another simulator")
        with pytest.raises(UsageError, match="another simulator"):
            nimbus.train_demo(tmp_path / "part.safetensors", **options, checkpoint=kept)
    told = []
    part = nimbus.train_demo(tmp_path / "part.safetensors", **options, checkpoint=kept, progress=told.append)
    assert [m.step for m in told] == [3] and part.sha256 == whole.sha256
    assert not kept.exists()


def test_what_cannot_be_trained(tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match="kept for validation"):
        nimbus.train_demo(out, seed=9)
    for wrong in ({"steps": 0}, {"width": 0}, {"batch": 0}, {"depth": 7}, {"device": "abacus"}):
        with pytest.raises(UsageError):
            nimbus.train_demo(out, **(TOY | wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("depth", [1, 6])
def test_the_shallowest_and_the_deepest(tmp_path, depth):
    nimbus.train_demo(tmp_path / "a.safetensors", **(TOY | {"depth": depth, "steps": 1, "width": 1}))
    assert ResidualUNet.from_state_dict(load_file(tmp_path / "a.safetensors")).depth == depth


def test_files_in_the_way_are_seen_first(tmp_path, monkeypatch):
    monkeypatch.setattr(nimbus, "train", lambda *a, **k: pytest.fail("it trained"))
    (tmp_path / "a.json").write_text("my notes")
    with pytest.raises(OutputError):
        nimbus.train_demo(tmp_path / "a.safetensors", **TOY)
    assert (tmp_path / "a.json").read_text() == "my notes"


def test_a_checkpoint_that_is_none_is_left_alone(tmp_path):
    (tmp_path / "thesis.docx").write_bytes(b"PK")
    with pytest.raises(BrokenFile, match="thesis"):
        nimbus.train_demo(tmp_path / "a.safetensors", **TOY, checkpoint=tmp_path / "thesis.docx")
    assert (tmp_path / "thesis.docx").read_bytes() == b"PK"


def test_starting_anew_spares_the_checkpoint_until_nothing_is_in_the_way(tmp_path):
    kept, other = tmp_path / "kept", json.dumps({"schedule": {}})
    torch.save({"identity": other}, kept)
    before = kept.read_bytes()
    (tmp_path / "a.json").write_text("my notes")
    with pytest.raises(OutputError, match=r"a\.json"):
        nimbus.train_demo(tmp_path / "a.safetensors", **TOY, checkpoint=kept, restart=True)
    for wrong in ({"seed": 9}, {"device": "abacus"}):
        with pytest.raises(UsageError):
            nimbus.train_demo(tmp_path / "b.safetensors", **(TOY | wrong), checkpoint=kept, restart=True)
    assert kept.read_bytes() == before
    with pytest.raises(UsageError, match="another"):
        nimbus.train_demo(tmp_path / "b.safetensors", **TOY, checkpoint=kept)
    assert nimbus.train_demo(tmp_path / "b.safetensors", **TOY, checkpoint=kept, restart=True).steps == 2
    assert not kept.exists()
