"""The discriminators: the coded one with the published keys and numbers, the paper's as described."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mxbridge.networks.maxim_discriminator import CodedDiscriminator, PaperDiscriminator


def test_oracle(data: Path) -> None:
    folder = data / "maxim"
    discriminator = CodedDiscriminator(6, 1, features=(8, 16, 32, 32))
    discriminator.load_state_dict(torch.load(folder / "discriminator.pt", map_location="cpu", weights_only=True))
    inputs = torch.from_numpy(np.load(folder / "input_1x6x64x80.npy"))
    real = torch.from_numpy(np.load(folder / "roi_1.npy")[5][None, None] / np.float32(255))
    with torch.inference_mode():
        logits = discriminator.eval()(inputs, real)
    np.testing.assert_allclose(logits, np.load(folder / "discriminator_output.npy"), atol=1e-5)


def test_published_size() -> None:
    """Facts 2.2."""
    with torch.device("meta"):
        discriminator = CodedDiscriminator(6)
    assert sum(p.numel() for p in discriminator.parameters()) == 1_716_545
    shapes = {key: tuple(values.shape) for key, values in discriminator.state_dict().items() if values.ndim == 4}
    assert shapes == {
        "initial.0.weight": (64, 7, 4, 4),
        "model.0.conv.0.weight": (128, 64, 4, 4),
        "model.1.conv.0.weight": (256, 128, 4, 4),
        "model.2.conv.0.weight": (256, 256, 4, 4),
        "model.3.weight": (1, 256, 4, 4),
    }
    narrow = CodedDiscriminator(6, 1, features=(2, 4, 8, 8))
    logits = narrow(torch.rand(1, 6, 256, 256), torch.rand(1, 1, 256, 256))
    assert logits.shape == (1, 1, 56, 56)


def test_six_strides_of_two() -> None:
    discriminator = PaperDiscriminator(5, 2)
    logits = discriminator(torch.rand(3, 5, 128, 192), torch.rand(3, 2, 128, 192))
    assert logits.shape == (3, 1, 2, 3)
    convolutions = [m for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.stride, c.kernel_size) for c in convolutions] == [((2, 2), (4, 4))] * 6
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in discriminator.modules()) == 4


def test_initialisation_is_repeatable() -> None:
    for kind in (CodedDiscriminator, PaperDiscriminator):
        first, second = kind(2), kind(2)
        first.initialise(3)
        second.initialise(3)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
