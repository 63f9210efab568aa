"""Weights: both formats, wrapped or not; what is no plain set of tensors is refused in one line and never run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mxbridge.errors import ModelError
from mxbridge.models import weights_files
from mxbridge.models.nimbus import load
from mxbridge.networks.residual_unet import ResidualUNet


def test_weights_by_pt_and_safetensors(data: Path, tmp_path: Path) -> None:
    path = data / "nimbus/V1.pt"
    model = load(path, name="Nimbus", um_per_px=1.0)
    assert (model.name, model.um_per_px, model.halo, model.stride) == ("Nimbus", 1.0, 96, 16)
    assert len(model.weights_sha256) == 64
    weights = torch.load(path, weights_only=True)
    save_file(weights, tmp_path / "v1.safetensors")
    again = load(tmp_path / "v1.safetensors")
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key])
    torch.save({f"_orig_mod.{key}": value for key, value in weights.items()}, tmp_path / "tuned.pt")
    load(tmp_path / "tuned.pt")
    assert model.describe()["network"] == "residual U-Net, width 4, depth 5"


class Evil:
    def __reduce__(self) -> tuple:
        return exec, ("open('executed', 'w')",)


@pytest.mark.parametrize(
    "name", ["missing", "text", "cut", "evil", "evil zip", "model", "list", "other", "safetensors", "dir"]
)
def test_weights_that_are_none_are_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("w.safetensors" if name == "safetensors" else "w.pt")
    original = (data / "nimbus/V1.pt").read_bytes()
    if name == "text":
        path.write_text("<html>404</html>")
    elif name == "cut":
        path.write_bytes(original[: len(original) // 2])
    elif name == "evil":
        path.write_bytes(pickle.dumps({"final_conv.weight": Evil()}))
    elif name == "evil zip":
        torch.save({"final_conv.weight": Evil()}, path)
    elif name == "model":
        torch.save(torch.nn.Conv2d(1, 1, 1), path)
    elif name == "list":
        torch.save([1, 2, 3], path)
    elif name == "other":
        torch.save({"a.weight": torch.zeros(3)}, path)
    elif name == "safetensors":
        path.write_bytes(b"\xff" * 100)
    elif name == "dir":
        path.mkdir()
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "executed").exists()
    if name.startswith("evil") or name == "model":
        assert "run code" in str(caught.value)


def test_weights_that_unpack_to_very_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_files, "LARGEST_WEIGHTS", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 21))
    with pytest.raises(ModelError, match="unpack"):
        load(tmp_path / "bomb.pt")


def test_networks_of_other_channels_are_refused(tmp_path: Path) -> None:
    torch.save(ResidualUNet(2, 2, in_channels=3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="3 to 1 channels"):
        load(tmp_path / "w.pt")
