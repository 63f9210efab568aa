"""The residual U-Net: equal to the published one, honest about its reach, and suspicious of other networks' weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mxbridge.networks.residual_unet import ResidualUNet


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "nimbus"


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "V1.pt", map_location="cpu", weights_only=True)


def run(network: ResidualUNet, inputs: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(inputs.astype(np.float32))).numpy()


def test_layout_is_read_from_the_weights(weights: dict) -> None:
    network = ResidualUNet.from_state_dict(weights)
    assert (network.width, network.depth, network.in_channels, network.out_channels) == (4, 5, 2, 1)
    assert (network.stride, network.halo, network.minimum) == (16, 96, 32)
    assert list(network.state_dict()) == list(weights)
    assert not network.training


def test_published_size() -> None:
    """35,607,809 parameters and 154 keys (facts 2.1)."""
    with torch.device("meta"):
        network = ResidualUNet(64, 5)
    assert sum(p.numel() for p in network.parameters()) == 35_607_809
    assert len(network.state_dict()) == 154


def test_reflect_oracle(folder: Path, weights: dict) -> None:
    out = run(ResidualUNet.from_state_dict(weights), np.load(folder / "reflect_input_1x2x64x96.npy"))
    np.testing.assert_allclose(out, np.load(folder / "reflect_output_1x1x64x96.npy"), atol=1e-5)


def test_shrunken_map_oracle(folder: Path, weights: dict) -> None:
    """50 x 70 is no multiple of 16: the map comes back as 48 x 64."""
    with np.load(folder / "reflect_50x70_case.npz") as case:
        out = run(ResidualUNet.from_state_dict(weights), case["input"])
        np.testing.assert_allclose(out, case["output"], atol=1e-5)


@pytest.mark.parametrize(
    ("size", "file"), [(252, "valid_output_1x1x64x64.npy"), (256, "valid_256_output_1x1x68x68.npy")]
)
def test_valid_oracles(folder: Path, weights: dict, size: int, file: str) -> None:
    with np.load(folder / "valid_input_256.npz") as case:
        inputs = np.stack([case["marker"], case["mask"]])[None, :, :size, :size]
    out = run(ResidualUNet.from_state_dict(weights, padding="valid"), inputs)
    np.testing.assert_allclose(out, np.load(folder / file), atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_receptive_radius_is_neither_too_small_nor_too_large(depth: int) -> None:
    """In a network made linear and positive every pixel that can matter has a gradient."""
    network = ResidualUNet(1, depth, in_channels=1).eval()
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 0.1)
    for i, layer in enumerate(network.contracting_layers):
        if isinstance(layer, nn.MaxPool2d):
            network.contracting_layers[i] = nn.AvgPool2d(2)
    network.double()
    radius, stride = network.receptive_radius, network.stride
    centre = -(-2 * radius // stride) * stride
    side = 2 * centre + stride
    inputs = torch.ones(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "MaxPool2d", nn.AvgPool2d)
        network.logits(inputs)[..., centre : centre + stride, centre : centre + stride].sum().backward()
    touched = torch.nonzero(inputs.grad[0, 0].sum(1)).ravel()
    assert int(touched.min()) == centre - radius or int(touched.max()) == centre + stride - 1 + radius
    assert int(touched.min()) >= centre - radius
    assert int(touched.max()) <= centre + stride - 1 + radius
    assert network.halo % stride == 0
    assert radius <= network.halo < radius + stride


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_wrapped_checkpoints(weights: dict, prefix: str) -> None:
    wrapped = {prefix + key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    network = ResidualUNet.from_state_dict(wrapped)
    assert network.final_conv.weight.dtype == torch.float32
    torch.testing.assert_close(network.final_conv.weight, weights["final_conv.weight"], atol=1e-3, rtol=1e-3)


def test_batch_counters_may_be_absent(weights: dict) -> None:
    ResidualUNet.from_state_dict({k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")})


def changed(weights: dict, **changes: torch.Tensor | None) -> dict:
    out = {**weights, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in out.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"final_conv__weight": None}, "not the weights of a residual U-Net"),
        ({"bottle_neck__bn_1__weight": None}, "lacks bottle_neck.bn_1.weight"),
        ({"head__weight": torch.zeros(1)}, "has head.weight on top"),
        ({"bottle_neck__bn_1__bias": torch.zeros(3)}, r"bottle_neck.bn_1.bias is \(3,\), expected \(64,\)"),
        ({"bottle_neck__bn_1__bias": torch.full((64,), torch.nan)}, "not finite"),
        ({"bottle_neck__bn_1__bias": torch.zeros(64, dtype=torch.int32)}, "int32"),
        ({"contracting_layers__0__conv2d_0__weight": torch.zeros(1 << 20, 2, 1, 1)}, "expected"),
    ],
)
def test_other_networks_are_named(weights: dict, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ResidualUNet.from_state_dict(changed(weights, **changes))


def test_impossible_shapes() -> None:
    for arguments in [(0, 5), (4, 0), (4, 9)]:
        with pytest.raises(ValueError, match="make no network"):
            ResidualUNet(*arguments)
    with pytest.raises(ValueError, match="padding"):
        ResidualUNet(4, 3, padding="same")  # type: ignore[arg-type]
