"""The generators of DeepLIIF: equal to the plain ones whatever their options, however many windows share a batch."""

from __future__ import annotations

import pytest
import torch
from plain_generators import one_by_one, plain_attention, plain_resnet, plain_unet
from torch import nn

from mxbridge.networks import winograd
from mxbridge.networks.attention_unet import AttentionUnet
from mxbridge.networks.resnet_generator import ResnetGenerator, ResnetOptions
from mxbridge.networks.unet_generator import UnetGenerator, UnetOptions
from mxbridge.networks.window_norm import freeze, moments

KINDS = {
    "official resnet": (ResnetGenerator, lambda: plain_resnet(), 32),
    "reflected": (ResnetGenerator, lambda: plain_resnet(padding="reflect"), 32),
    "reflected, no dropout": (ResnetGenerator, lambda: plain_resnet(padding="reflect", dropout=False), 32),
    "no dropout": (ResnetGenerator, lambda: plain_resnet(dropout=False, blocks=3), 32),
    "instance norm": (ResnetGenerator, lambda: plain_resnet(norm="instance"), 32),
    "no norm": (ResnetGenerator, lambda: plain_resnet(norm="none"), 32),
    "resized": (ResnetGenerator, lambda: plain_resnet(upsample="resize_conv", padding="reflect"), 32),
    "resized instance": (ResnetGenerator, lambda: plain_resnet(upsample="resize_conv", norm="instance"), 32),
    "nine planes": (ResnetGenerator, lambda: plain_resnet(inputs=9, width=6), 32),
    "wide": (ResnetGenerator, lambda: plain_resnet(width=32), 32),
    "wide, reflected": (ResnetGenerator, lambda: plain_resnet(width=32, padding="reflect"), 32),
    "unet 512": (UnetGenerator, lambda: plain_unet(), 512),
    "unet 32": (UnetGenerator, lambda: plain_unet(width=3, downs=5, inputs=9), 64),
    "unet instance": (UnetGenerator, lambda: plain_unet(width=4, downs=6, norm="instance"), 128),
    "unet no norm": (UnetGenerator, lambda: plain_unet(width=4, downs=5, norm="none"), 32),
    "attention": (AttentionUnet, lambda: plain_attention(), 512),
}


def windows_of(network: nn.Module, side: int, count: int) -> torch.Tensor:
    planes = next(p for p in network.parameters() if p.ndim == 4).shape[1]
    generator = torch.Generator().manual_seed(5)
    scale = torch.tensor([1.0, 0.3, 2.0])[:count, None, None, None]  # so that their statistics differ
    return (torch.rand(count, planes, side, side, generator=generator) * 2 - 1) * scale


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_plain_network_in_any_batch(kind: str) -> None:
    cls, make, side = KINDS[kind]
    plain = make()
    windows = windows_of(plain, side, 3 if side < 512 else 2)
    expected = one_by_one(plain, windows)
    network = cls.from_state_dict(plain.state_dict())
    with torch.inference_mode():
        together = network(windows.clone())
        alone = torch.cat([network(window[None].clone()) for window in windows])
    assert expected.std() > 0.02
    # deep U-Nets have statistics of four pixels and less, where rounding is amplified
    torch.testing.assert_close(together, expected, atol=2e-4 if side == 512 else 2e-5, rtol=0)
    torch.testing.assert_close(together, alone, atol=2e-5 if side == 512 else 5e-6, rtol=0)


@pytest.mark.parametrize(
    "kind", ["official resnet", "reflected", "resized", "wide", "unet 32", "unet instance", "no norm", "attention"]
)
def test_frozen_is_the_batch_norm_of_the_whole_sample(kind: str) -> None:
    """The plain network in training mode pools the statistics of a batch: that is what freezing should keep."""
    cls, make, side = KINDS[kind]
    plain = make()
    sample = windows_of(plain, side, 3 if side < 512 else 2)
    network = cls.from_state_dict(plain.state_dict())
    with torch.inference_mode():
        expected = plain(sample) if "instance" not in kind else None
        found = torch.cat(freeze(network, [window[None].clone() for window in sample]))
        again = network(sample[:1].clone())
    assert not network.pairs()
    tolerance = 1e-4 if side < 512 else 2e-3
    if expected is not None:
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(again, found[:1], atol=tolerance, rtol=0)


def test_spectral_norms_are_divided_out() -> None:
    plain = plain_resnet(norm="spectral")
    network = ResnetGenerator.from_state_dict(plain.state_dict())
    windows = windows_of(plain, 32, 2)
    with torch.inference_mode():
        torch.testing.assert_close(network(windows.clone()), plain(windows), atol=1e-5, rtol=0)
    broken = {k: v for k, v in plain.state_dict().items() if not k.endswith("model.4.parametrizations.weight.0._u")}
    with pytest.raises(ValueError, match=r"model.4 has a spectral norm, but not its vectors"):
        ResnetGenerator.from_state_dict(broken)


def test_published_sizes() -> None:
    """Facts 2.1, 2.2: parameters, and keys without the three running statistics of every norm."""
    with torch.device("meta"):
        resnet, unet, attention = ResnetGenerator(ResnetOptions()), UnetGenerator(UnetOptions()), AttentionUnet()
    sizes = [(sum(p.numel() for p in n.parameters()), len(n.state_dict())) for n in (resnet, unet, attention)]
    assert sizes == [(11_383_427, 140 - 3 * 23), (66_998_915, 94 - 3 * 15), (56_616_056, 237 - 3 * 34)]


def test_winograd_is_taken_where_it_pays_and_equal_to_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *a, **k: calls.append(1) or original(*a, **k))
    plain = plain_resnet(width=32)
    network = ResnetGenerator.from_state_dict(plain.state_dict())
    with torch.inference_mode():
        network(windows_of(plain, 32, 1))
    assert len(calls) == 4
    with torch.no_grad():
        assert not winograd.pays(nn.Conv2d(8, 8, 3), torch.zeros(1, 8, 8, 8))
        assert not winograd.pays(nn.Conv2d(128, 128, 3), torch.zeros(1, 128, 8, 10))
    assert not winograd.pays(nn.Conv2d(128, 128, 3), torch.zeros(1, 128, 8, 8))  # gradients are wanted


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (68, 40), (4, 260)])
def test_winograd_against_float64(height: int, width: int, mirrored: bool) -> None:
    generator = torch.Generator().manual_seed(height)
    conv = nn.Conv2d(24, 20, 3)
    x = torch.randn(2, 24, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    factors = torch.rand(2, 24, generator=generator) + 0.5, torch.randn(2, 24, generator=generator)
    scale, shift = (part[:, :, None, None] for part in factors)
    seen = torch.nn.functional.pad(torch.relu(x * scale + shift), (1,) * 4, mode="reflect" if mirrored else "constant")
    with torch.inference_mode():
        expected = torch.nn.functional.conv2d(seen.double(), conv.weight.double(), conv.bias.double())
        weights = conv.weight.clone()
        winograd.lay_out(conv)
        assert torch.equal(conv.weight, weights)
        found = winograd.convolve(conv, x, factors, rectified=True, mirrored=mirrored)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
        plain = winograd.convolve(conv, x[:1], None, rectified=False, mirrored=mirrored)
        padded = torch.nn.functional.pad(x[:1], (1,) * 4, mode="reflect" if mirrored else "constant")
        torch.testing.assert_close(plain, conv(padded), atol=2e-5, rtol=0)


def test_moments_far_from_zero() -> None:
    x = 1000 + torch.randn(2, 5, 60, 70) * torch.tensor([0.1, 1.0, 3.0, 1e-3, 0.0])[:, None, None]
    for layout in (torch.channels_last, torch.contiguous_format):
        mean, variance = moments(x.contiguous(memory_format=layout))
        torch.testing.assert_close(mean.double(), x.double().mean((2, 3)), atol=2e-4, rtol=0)
        torch.testing.assert_close(variance.double(), x.double().var((2, 3), correction=0), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.4.weight"), "lacks model.4.weight"),
        (lambda w: w.update({"extra": torch.zeros(1)}), "extra on top"),
        (lambda w: w.update({"model.4.weight": torch.zeros(8, 4, 5, 5)}), "expected"),
        (lambda w: w["model.4.weight"].fill_(float("nan")), "not finite"),
        (lambda w: w.update({"model.4.weight": torch.zeros(8, 4, 3, 3, dtype=torch.int32)}), "not floating point"),
        (lambda w: w.pop("model.1.weight"), "not the weights of a ResNet"),
        (lambda w: w.pop("model.10.conv_block.0.weight"), "residual blocks"),
        (lambda w: w.update({"model.1.weight": torch.zeros(1).expand(9000, 3, 7, 7)}), "no possible size"),
        (lambda w: [w.pop(k) for k in list(w) if ".conv_block." in k], "residual blocks"),
        (lambda w: w.update({f"model.{10**9}.conv_block.0.weight": torch.zeros(1)}), "on top"),
    ],
)
def test_resnet_weights_that_do_not_fit(change, message: str) -> None:
    weights = plain_resnet().state_dict()
    change(weights)
    with pytest.raises(ValueError, match=message):
        ResnetGenerator.from_state_dict(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.model.3.bias"), "lacks model.model.3.bias"),
        (lambda w: w.pop("model.model.0.weight"), "not the weights of a U-Net"),
        (lambda w: [w.pop(k) for k in list(w) if k.startswith("model.model.1.model.3")], "2 downsamplings"),
        (lambda w: w.update({"model.model.3.weight": torch.zeros(4, 3, 2, 2)}), "expected"),
    ],
)
def test_unet_weights_that_do_not_fit(change, message: str) -> None:
    weights = plain_unet(downs=5).state_dict()
    change(weights)
    with pytest.raises(ValueError, match=message):
        UnetGenerator.from_state_dict(weights)
    with pytest.raises(ValueError, match="not the weights of an attention U-Net"):
        AttentionUnet.from_state_dict(weights)
