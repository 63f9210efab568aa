"""Weights and cards of imputation models: loaded together, refused apart, never executed."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from maxim_models import MARKERS, SCALINGS, linear_start
from maxim_networks import random_network
from safetensors.torch import save_file

from mxbridge.errors import ModelError
from mxbridge.models import catalogue
from mxbridge.models.card import ModelCard
from mxbridge.models.maxim import Maxim, from_card, load_checkpoint
from mxbridge.models.nimbus import Nimbus
from mxbridge.models.scaling import PEER, Scaling


def card_of(inputs=MARKERS[:3], outputs=("KI67",), **changes) -> ModelCard:
    scaling = {marker: SCALINGS[marker].to_json() for marker in {*inputs, *outputs} if marker in SCALINGS}
    settings = {"name": "MAXIM", "system": "maxim", "um_per_px": 0.5, "scaling": scaling, "dtype": "uint16"}
    return ModelCard(**{**settings, "channels": tuple(inputs), "outputs": tuple(outputs), **changes})


def weights_file(folder: Path, planes: int = 3, outputs: int = 1, card: ModelCard | None = None) -> Path:
    path = folder / "model.safetensors"
    metadata = {"card": card.to_json()} if card else None
    save_file(random_network(planes, outputs).state_dict(), path, metadata)
    return path


def test_a_single_model_through_the_catalogue(tmp_path: Path) -> None:
    path = weights_file(tmp_path, card=card_of())
    model = catalogue.open_model(catalogue.by_path(path))
    assert isinstance(model, Maxim)
    assert (model.inputs, model.outputs, model.any_marker, model.dtype) == (MARKERS[:3], ("KI67",), False, "uint16")
    assert model.scaling == SCALINGS
    assert (model.um_per_px, model.stride, model.halo, model.start) == (0.5, 16, 96, None)
    assert model.weights_sha256 == catalogue.sha256_of(path) == model.describe()["weights_sha256"]
    assert not any(parameter.requires_grad for parameter in model.plain.parameters())
    json.dumps(model.describe())


def test_an_any_marker_model_with_its_linear_start(tmp_path: Path) -> None:
    start = linear_start(MARKERS)
    card = card_of(MARKERS, MARKERS, any_marker=True, linear_start=start.to_json())
    path = weights_file(tmp_path, 8, 4)
    path.with_suffix(".json").write_text(card.to_json(), encoding="utf-8")
    model = catalogue.open_model(catalogue.by_path(path))
    assert model.any_marker
    assert model.planes == MARKERS
    np.testing.assert_allclose(model.start.covariance, start.covariance, rtol=1e-8)


def test_both_systems_open_through_one_door() -> None:
    assert isinstance(catalogue.open_model(catalogue.resolve("demo")), Nimbus)


@pytest.mark.parametrize(
    ("planes", "outputs", "card", "said"),
    [
        (4, 1, card_of(), "take 4 planes to 1, but the panel of 3 inputs and 1 outputs needs 3 to 1.*another panel"),
        (3, 2, card_of(), "needs 3 to 1"),
        (4, 4, card_of(MARKERS, MARKERS, any_marker=True), "needs 8 to 4"),
        (3, 1, card_of(outputs=()), "which markers go in and come out"),
        (3, 1, card_of(inputs=()), "which markers go in and come out"),
        (3, 1, card_of(inputs=("DAPI", "CD3", "cd3 ")), "repeat or have no name"),
        (3, 1, card_of(inputs=("DAPI", "CD3", " ")), "repeat or have no name"),
        (3, 1, card_of(inputs=("A",) * 100_000), "A, A and 99960 more$"),
        (3, 1, card_of(outputs=("cd3",)), "cd3 cannot be input and output"),
        (3, 1, card_of(any_marker=True), "same markers as inputs and outputs"),
        (3, 1, card_of(scaling={}), "does not say how DAPI is scaled"),
        (3, 1, card_of(scaling={m: {"high": 0} for m in MARKERS}), "DAPI: a scaling needs high above low"),
        (3, 1, card_of(scaling={m: {"__class__": "x"} for m in MARKERS}), "no scaling of a marker"),
        (3, 1, card_of(scaling=dict.fromkeys(MARKERS, 7)), "no scaling of a marker"),
        (3, 1, card_of(linear_start={"names": list(MARKERS)}), "linear start of its card is broken"),
        (3, 1, card_of(linear_start=linear_start(MARKERS[:3]).to_json()), "does not fit its markers"),
        (3, 1, card_of(linear_start={**linear_start(MARKERS).to_json(), "names": [[], *MARKERS[1:]]}), "does not fit"),
        (3, 1, card_of(linear_start={**linear_start(MARKERS).to_json(), "mean": [float("nan")] * 8}), "does not fit"),
        (3, 1, card_of(linear_start={**linear_start(MARKERS).to_json(), "mean": [[1], 2]}), "is broken"),
        (3, 1, card_of(linear_start={**linear_start(MARKERS).to_json(), "mean": [10**400] * 8}), "is broken"),
        (3, 1, card_of(linear_start={**linear_start(MARKERS).to_json(), "mean": [1e300] * 8}), "does not fit"),
        (3, 1, card_of(scaling={m: {"high": 10**400} for m in MARKERS}), "no scaling of a marker"),
        (3, 1, card_of(scaling={m: {"high": float("inf")} for m in MARKERS}), "no scaling of a marker"),
        (3, 1, card_of(scaling={m: {"high": 1e-50} for m in MARKERS}), "high above low"),
        (3, 1, card_of(scaling={m: {"transform": "arcsinh", "cofactor": 1e-50} for m in MARKERS}), "positive cofactor"),
        (3, 1, card_of(scaling={m: {"transform": "arcsinh", "high": 800} for m in MARKERS}), "beyond all numbers"),
        (
            3,
            1,
            card_of(linear_start={**linear_start(MARKERS).to_json(), "covariance": (-np.eye(8)).tolist()}),
            "is none",
        ),
        (3, 1, card_of(linear_start=linear_start(MARKERS[::-1]).to_json()), "about other markers"),
    ],
)
def test_cards_that_do_not_fit(tmp_path: Path, planes: int, outputs: int, card: ModelCard, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        from_card(weights_file(tmp_path, planes, outputs), card)


def test_the_peers_checkpoint(data: Path, tmp_path: Path) -> None:
    path = data / "maxim" / "checkpoint.pt"
    model = load_checkpoint(path, list("ABCDEF"), ["T"], 0.25)
    assert (model.inputs, model.outputs, model.dtype) == (tuple("ABCDEF"), ("T",), "uint8")
    assert set(model.scaling.values()) == {PEER}
    assert load_checkpoint(path, list("ABCDEF"), ["T"], 0.25, Scaling("linear", 0, 4095)).dtype == ""
    wrapped = {f"module.{key}": value for key, value in torch.load(path, weights_only=True).items()}
    torch.save(wrapped, tmp_path / "checkpoint.pt")
    again = load_checkpoint(tmp_path / "checkpoint.pt", list("ABCDEF"), ["T"], 0.25)
    assert torch.equal(again.plain.conv.weight, model.plain.conv.weight)
    with pytest.raises(ModelError, match="checkpoint of another panel"):
        load_checkpoint(path, list("ABCDE"), ["T"], 0.25)
    with pytest.raises(ModelError, match="um_per_px"):
        load_checkpoint(path, list("ABCDEF"), ["T"], -1)


def test_files_that_are_no_weights(tmp_path: Path, data: Path) -> None:
    cases = {
        "empty.pt": b"",
        "text.pt": b"hello",
        "half.pt": (data / "maxim" / "checkpoint.pt").read_bytes()[:5000],
        "text.safetensors": b"hello hello hello",
        "run.pt": pickle.dumps(print, protocol=2),
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelError, match=name):
            from_card(path, card_of())
    with pytest.raises(ModelError, match="no such file"):
        from_card(tmp_path / "none.pt", card_of())


def test_weights_of_another_network(data: Path) -> None:
    with pytest.raises(ModelError, match=r"not the weights of a MAXIM U-Net.*mxbridge train maxim"):
        from_card(data / "nimbus" / "V1.pt", card_of())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("outputs", "KI67", "not a list of names"),
        ("any_marker", "yes", "not true or false"),
        ("scaling", [], "not a table"),
        ("linear_start", 3, "not a table"),
        ("dtype", 8, "not text"),
        ("steps", 1.5, "not a whole number"),
    ],
)
def test_cards_with_other_kinds_of_values(key: str, value: object, said: str) -> None:
    with pytest.raises(ModelError, match=f"card.json: {key} of the model card is {said}"):
        ModelCard.from_mapping({**asdict(card_of()), "channels": [], "outputs": [], key: value}, "card.json")


def test_cards_survive_writing() -> None:
    card = card_of(split="cases 3, 5", validation={"kind": "cases"})
    assert ModelCard.from_mapping(json.loads(card.to_json()), "x") == card
