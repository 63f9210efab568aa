"""Where weights go is looked at first, and nothing of the user's is in danger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mxbridge.errors import OutputError, UsageError
from mxbridge.models.card import ModelCard
from mxbridge.training.target import check_target

OURS = ModelCard(name="NimbusDemo").to_json()


def weights(path: Path, card: str | None = OURS) -> None:
    save_file({"a": torch.zeros(1)}, path, metadata=None if card is None else {"card": card})


def test_a_free_place_is_made(tmp_path):
    check_target(tmp_path / "new" / "folder" / "w.safetensors", "NimbusDemo")
    assert (tmp_path / "new" / "folder").is_dir() and not list((tmp_path / "new" / "folder").iterdir())


def test_an_earlier_training_of_ours_is_replaced(tmp_path):
    out = tmp_path / "w.safetensors"
    weights(out)
    check_target(out, "NimbusDemo")
    out.with_suffix(".json").write_text(OURS)
    check_target(out, "NimbusDemo")
    with pytest.raises(OutputError, match="not of an earlier training"):
        check_target(out, "Other")


@pytest.mark.parametrize(
    "card",
    ["", "{", "[1]", "{}", json.dumps({"name": "NimbusDemo"}), ModelCard(name="Nimbus").to_json(), "[" * 100_000],
    ids=["empty", "torn", "list", "bare", "no card", "another's", "deep"],
)
def test_what_is_not_ours_is_refused(tmp_path, card):
    out = tmp_path / "w.safetensors"
    weights(out, card)
    with pytest.raises(OutputError, match=r"w\.safetensors is there already"):
        check_target(out, "NimbusDemo")
    weights(out)
    out.with_suffix(".json").write_text(card)
    with pytest.raises(OutputError, match=r"w\.json is there already"):
        check_target(out, "NimbusDemo")


def test_files_that_are_no_weights_folders_and_links(tmp_path):
    out = tmp_path / "w.safetensors"
    out.write_bytes(b"\xff" * 64)
    with pytest.raises(OutputError):
        check_target(out, "NimbusDemo")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OutputError):
        check_target(tmp_path / "folder.safetensors", "NimbusDemo")
    (tmp_path / "w2.json").mkdir()
    with pytest.raises(OutputError):
        check_target(tmp_path / "w2.safetensors", "NimbusDemo")
    (tmp_path / "below").write_text("a file")
    with pytest.raises(OutputError):
        check_target(tmp_path / "below" / "w.safetensors", "NimbusDemo")


def test_the_suffix_says_what_it_is(tmp_path):
    with pytest.raises(UsageError, match=r"w\.pt"):
        check_target(tmp_path / "w.pt", "NimbusDemo")


@pytest.mark.parametrize("name", ["w.safetensors", "w.json", "../here/w.safetensors"])
def test_a_checkpoint_is_another_file(tmp_path, name):
    """It is removed when the weights are there."""
    folder = tmp_path / "here"
    with pytest.raises(UsageError, match="both the checkpoint"):
        check_target(folder / "w.safetensors", "NimbusDemo", folder / name)
    check_target(folder / "w.safetensors", "NimbusDemo", tmp_path / "new" / "c")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        check_target(folder / "w.safetensors", "NimbusDemo", tmp_path / "file" / "c")
