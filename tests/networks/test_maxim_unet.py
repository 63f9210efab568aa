"""MAXIM's U-Net: equal to the published one, honest about its reach, and suspicious of other networks' weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mxbridge.networks.maxim_unet import MaximUNet


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "maxim"


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)


def test_oracle(folder: Path, weights: dict) -> None:
    with torch.inference_mode():
        out = MaximUNet.from_state_dict(weights)(torch.from_numpy(np.load(folder / "input_1x6x64x80.npy")))
    np.testing.assert_allclose(out, np.load(folder / "output_1x1x64x80.npy"), atol=1e-5)


def test_layout_is_read_from_the_weights(weights: dict) -> None:
    network = MaximUNet.from_state_dict(weights)
    assert (network.in_channels, network.out_channels, network.width) == (6, 1, 8)
    assert list(network.state_dict()) == list(weights)
    assert not network.training


def test_published_size() -> None:
    """Facts 2.1."""
    with torch.device("meta"):
        network = MaximUNet(6, 1)
    assert sum(p.numel() for p in network.parameters()) == 7_763_905
    assert len(network.state_dict()) == 118
    assert network.encoder1.enc1conv1.weight.shape == (32, 6, 3, 3)
    assert network.upconv4.weight.shape == (512, 256, 2, 2)
    assert network.decoder1.dec1conv1.weight.shape == (32, 64, 3, 3)


def test_the_halo_is_what_the_network_sees_and_a_pixel_more() -> None:
    """In a network made linear and positive every pixel that can matter has a gradient. The linear start sees one more."""
    network = MaximUNet(1, 1, 1).eval()
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 0.3)
    for level in range(1, 5):
        setattr(network, f"pool{level}", nn.AvgPool2d(2))
    network.double()
    centre, stride = 208, network.stride
    inputs = torch.ones(1, 1, 2 * centre + stride, 2 * centre + stride, dtype=torch.float64, requires_grad=True)
    network.logits(inputs)[..., centre : centre + stride, centre : centre + stride].sum().backward()
    touched = torch.nonzero(inputs.grad[0, 0].sum(1)).ravel()
    radius = max(centre - int(touched.min()), int(touched.max()) - (centre + stride - 1))
    assert network.halo - stride < radius <= network.halo - 1


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_wrapped_checkpoints(weights: dict, prefix: str) -> None:
    wrapped = {prefix + key: value for key, value in weights.items()}
    assert torch.equal(MaximUNet.from_state_dict(wrapped).conv.weight, weights["conv.weight"])


def test_batch_counters_may_be_absent(weights: dict) -> None:
    MaximUNet.from_state_dict({k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")})


def endless(*shape: int) -> torch.Tensor:
    """One number that claims to be many."""
    return torch.zeros(1).expand(*shape)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conv.weight": None}, "not the weights of a MAXIM U-Net"),
        ({"encoder1.enc1conv1.weight": torch.zeros(8, 0, 3, 3)}, "not the weights of a MAXIM U-Net"),
        ({"bottleneck.bottlenecknorm1.weight": None}, "lacks bottleneck.bottlenecknorm1.weight"),
        ({"head.weight": torch.zeros(1)}, "has head.weight on top"),
        ({"decoder2.dec2norm1.bias": torch.zeros(3)}, r"decoder2.dec2norm1.bias is \(3,\), expected \(16,\)"),
        ({"decoder1.dec1norm1.bias": torch.full((8,), torch.inf)}, "not finite"),
        ({"decoder1.dec1norm1.running_var": torch.full((8,), -1.0)}, "below zero"),
        ({"decoder1.dec1norm1.bias": torch.zeros(8, dtype=torch.int64)}, "int64"),
        ({"decoder1.dec1norm1.bias": torch.zeros(8).to_sparse()}, "sparse"),
        ({"decoder1.dec1norm1.bias": endless(8)}, "fewer numbers than its shape"),
        ({"encoder1.enc1conv1.weight": endless(1 << 24, 6, 3, 3)}, "no sizes"),
        ({"encoder1.enc1conv1.weight": endless(1 << 10, 6, 3, 3)}, "fewer numbers"),
    ],
)
def test_other_networks_are_named(weights: dict, changes: dict, said: str) -> None:
    changed = {key: value for key, value in {**weights, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=said):
        MaximUNet.from_state_dict(changed)


def test_published_initialisation() -> None:
    network, again, other = MaximUNet(4, 2, 8), MaximUNet(4, 2, 8), MaximUNet(4, 2, 8)
    state = torch.random.get_rng_state()
    network.initialise(7)
    again.initialise(7)
    other.initialise(8)
    assert torch.equal(torch.random.get_rng_state(), state)
    for key, values in network.state_dict().items():
        assert torch.equal(values, again.state_dict()[key]), key
    assert not torch.equal(network.conv.weight, other.conv.weight)
    for weight in (network.bottleneck.bottleneckconv2.weight.detach(), network.upconv3.weight.detach()):
        assert abs(float(weight.mean())) < 1e-3
        assert 0.019 < float(weight.std()) < 0.021
    norm = network.bottleneck.bottlenecknorm1
    assert 0.015 < float(norm.weight.detach().std()) < 0.025
    assert abs(float(norm.weight.detach().mean()) - 1) < 0.01
    assert not norm.bias.any()
