"""The network as it is run equals the published layout, whatever the size, padding and memory layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.networks import fused_unet
from mxbridge.networks.fused_unet import FusedUNet
from mxbridge.networks.residual_unet import ResidualUNet


def random_network(width: int, depth: int, padding: str = "reflect") -> ResidualUNet:
    """Batch norms and biases that matter."""
    with torch.random.fork_rng():
        torch.manual_seed(width * 10 + depth)
        network = ResidualUNet(width, depth, padding=padding).eval()
        for name, values in [*network.named_parameters(), *network.named_buffers()]:
            if values.is_floating_point() and values.ndim == 1:
                torch.nn.init.uniform_(values, 0.3, 1.2)
            elif name.endswith("weight"):
                torch.nn.init.normal_(values, 0, 1.5 / values[0].numel() ** 0.5)
        with torch.inference_mode():  # probabilities neither all 0 nor all 1
            logits = network.logits(torch.rand(1, 2, 96, 96))
        with torch.no_grad():
            scale = 1 / max(float(logits.std()), 1e-3)
            network.final_conv.bias.sub_(float(logits.mean())).mul_(scale)
            network.final_conv.weight.mul_(scale)
    return network


def both(network: ResidualUNet, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return network(inputs), FusedUNet(network)(inputs)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 5),
    depth=st.integers(1, 5),
    height=st.integers(32, 150),
    breadth=st.integers(32, 150),
    batch=st.integers(1, 3),
    channels_last=st.booleans(),
)
def test_equals_the_published_layout(
    width: int, depth: int, height: int, breadth: int, batch: int, channels_last: bool
) -> None:
    """Also at sides that are no multiples of the stride, where the map comes back smaller."""
    inputs = torch.rand(batch, 2, height, breadth, generator=torch.Generator().manual_seed(height))
    inputs = inputs.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    expected, found = both(random_network(width, depth), inputs)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [252, 256])
def test_valid_padding_shares_the_weights(side: int) -> None:
    network = random_network(3, 5)
    valid = ResidualUNet.from_state_dict(network.state_dict(), padding="valid")
    fused = FusedUNet(network)
    inputs = torch.rand(1, 2, side, side, generator=torch.Generator().manual_seed(side))
    with torch.inference_mode():
        torch.testing.assert_close(fused.with_padding("valid")(inputs), valid(inputs), atol=1e-5, rtol=0)
        torch.testing.assert_close(fused(inputs[..., :240, :240]), network(inputs[..., :240, :240]), atol=1e-5, rtol=0)
    assert fused.padding == "reflect"
    assert fused.with_padding("valid").final_conv.weight is fused.final_conv.weight


def test_rims_equal_padded_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to mirror the image, at every level."""
    network = FusedUNet(random_network(2, 3))
    inputs = torch.rand(1, 2, 40, 28)
    with torch.inference_mode():
        copied = network(inputs)
        monkeypatch.setattr(fused_unet, "PAD_BELOW", 0)
        torch.testing.assert_close(network(inputs), copied, atol=1e-5, rtol=0)


def test_the_network_itself_is_left_alone() -> None:
    network = random_network(3, 4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    FusedUNet(network)
    assert list(network.state_dict()) == list(before)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_in_half_precision(dtype: torch.dtype) -> None:
    """As the engine runs it with ``--precision bf16`` and ``fp16``."""
    network = random_network(3, 3)
    inputs = torch.rand(1, 2, 128, 120, generator=torch.Generator().manual_seed(1))
    expected, _ = both(network, inputs)
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
        found = FusedUNet(network)(inputs.contiguous(memory_format=FusedUNet.memory_format))
    assert found.dtype == dtype
    assert float((found.float() - expected).abs().mean()) < 0.02
