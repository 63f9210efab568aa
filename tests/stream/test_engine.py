"""The engine: what this machine does not have is said, and a lack of memory makes smaller steps with the same result."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import InputError, UsageError
from mxbridge.image import Box
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.stream import engine as engine_module
from mxbridge.stream.engine import Engine, is_out_of_memory
from mxbridge.stream.views import SIX_VIEWS, View


class Small(ResidualUNet):
    """A network on a device with room for so many input pixels."""

    room = 10**9
    largest = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] * x.shape[-1] * x.shape[-2] > self.room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes")
        self.largest = max(self.largest, x.shape[0] * x.shape[-1] * x.shape[-2])
        return super().forward(x)


@pytest.fixture
def network() -> Small:
    torch.manual_seed(0)
    return Small(2, 2).eval()


@pytest.mark.parametrize("view", SIX_VIEWS)
def test_views_are_distinct_and_turn_back(view: View) -> None:
    image = torch.arange(12.0).reshape(1, 3, 4)
    assert torch.equal(view.invert(view.apply(image)), image)
    same = [other for other in SIX_VIEWS if torch.equal(other.apply(image[:, :3, :3]), view.apply(image[:, :3, :3]))]
    assert same == [view]


@pytest.mark.parametrize("view", [*SIX_VIEWS, View("both", 3, (-2,))])
def test_views_know_where_a_part_goes(view: View) -> None:
    image, part = torch.arange(35.0).reshape(5, 7), Box(1, 2, 3, 6)
    to = view.box(part, (5, 7))
    found = view.invert(view.apply(image)[to.y0 : to.y1, to.x0 : to.x1])
    assert torch.equal(found, image[part.y0 : part.y1, part.x0 : part.x1])


def test_views_turn_as_numpy_does() -> None:
    image = torch.arange(12.0).reshape(3, 4)
    for turns, view in enumerate(SIX_VIEWS[:4]):
        np.testing.assert_array_equal(view.apply(image), np.rot90(image.numpy(), turns))
    np.testing.assert_array_equal(SIX_VIEWS[4].apply(image), image.numpy()[::-1])
    np.testing.assert_array_equal(SIX_VIEWS[5].apply(image), image.numpy()[:, ::-1])


class OfParts(Small):
    """A network that computes only the wanted part of its output."""

    takes_core = True

    def forward(self, x: torch.Tensor, core: tuple[int, int, int, int]) -> torch.Tensor:
        return super().forward(x)[..., core[0] : core[2], core[1] : core[3]]


def test_networks_that_can_are_told_the_wanted_part(network: Small) -> None:
    parts, engine = OfParts(2, 2).eval(), Engine(device="cpu")
    parts.load_state_dict(network.state_dict())
    inputs, core = torch.rand(2, 2, 24, 36), Box(8, 10, 20, 29)
    expected = engine.predict(network, inputs, core, SIX_VIEWS)
    torch.testing.assert_close(engine.predict(parts, inputs, core, SIX_VIEWS), expected, atol=1e-6, rtol=0)
    parts.room = 500  # and where the memory ends
    torch.testing.assert_close(engine.predict(parts, inputs, core, SIX_VIEWS), expected, atol=1e-5, rtol=0)
    assert engine.steps_back


@given(st.integers(60, 3_000), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=25)
def test_stepping_back_changes_nothing(room: int, count: int, all_views: bool) -> None:
    torch.manual_seed(0)
    network = Small(2, 2).eval()
    engine = Engine(device="cpu")
    inputs, core = torch.rand(count, 2, 24, 36), Box(8, 8, 20, 29)
    views = SIX_VIEWS if all_views else SIX_VIEWS[:1]
    expected = engine.predict(network, inputs, core, views)
    assert expected.shape == (count, len(views), 1, 12, 21)
    assert engine.steps_back == []
    network.room, network.largest = room, 0
    smallest = (2 + 2 * network.halo) ** 2  # one block of the stride and its halo
    if room < smallest:
        with pytest.raises(InputError, match="smallest size does not fit"):
            engine.predict(network, inputs, core, views)
        return
    found = engine.predict(network, inputs, core, views)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert network.largest <= room
    needed = count * 24 * 36 > room
    assert bool(engine.steps_back) == needed
    before = list(engine.steps_back)
    engine.predict(network, inputs, core, views)
    assert engine.steps_back == before  # once reduced, it stays reduced


def test_batch_goes_before_the_tile(network: Small, caplog: pytest.LogCaptureFixture) -> None:
    network.room = 48 * 64
    engine = Engine(device="cpu")
    engine.predict(network, torch.rand(4, 2, 48, 64), Box(8, 8, 40, 56))
    assert engine.steps_back == ["batch 4 -> 2", "batch 2 -> 1"]
    network.room //= 2
    engine.predict(network, torch.rand(4, 2, 48, 64), Box(8, 8, 40, 56))
    assert engine.steps_back[2] == "tile core 48 -> 24 px"
    assert "not enough memory: batch 4 -> 2" in caplog.text
    assert engine.describe()["steps_back"] == engine.steps_back


def test_other_errors_pass(network: Small) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        Engine(device="cpu").predict(network, torch.rand(2, 3, 16, 16), Box(0, 0, 16, 16))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:99"}, "no device cuda:99"),
        ({"device": "cuda:x"}, "unknown device"),
        ({"device": "cpu", "precision": "fp16"}, "fp16 is not for CPUs"),
        ({"device": "cpu", "precision": "int8"}, "unknown precision"),
        ({"device": "cpu", "tile": 0}, "--tile 0"),
        ({"device": "cpu", "batch": -1}, "--batch -1"),
    ],
)
def test_what_is_not_there_is_said(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Engine(**options)


def test_bf16_is_tried_in_a_child_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module.sys, "executable", "no-such-python")
    with pytest.raises(UsageError, match="bf16"):
        Engine(device="cpu", precision="bf16")
    monkeypatch.setattr(engine_module, "bf16_works_on_cpu", lambda: True)
    assert Engine(device="cpu", precision="bf16").dtype == torch.bfloat16


def test_a_run_on_another_kind_of_device_is_another_run() -> None:
    """The name goes into the header of the records; a run begun on mps must not go on with records of the CPU."""
    engine = Engine(device="cpu")
    assert engine.describe()["device_name"] == "cpu"
    engine.torch_device = torch.device("mps")
    assert engine.describe()["device_name"] == "mps"


def test_tiles_fit_the_network() -> None:
    with torch.device("meta"):
        published, narrow = ResidualUNet(64, 5), ResidualUNet(8, 5)
    engine = Engine(device="cpu")
    assert engine.default_tile(published) % 16 == 0
    assert engine.default_tile(narrow, full_pixels=100.0) <= 416  # 10 label pixels a side under each model pixel
    assert 512 <= engine.default_tile(published) < engine.default_tile(narrow) <= 1024
    assert Engine(device="cpu", tile=512).grid(published, (5000, 5000)).core == 320
    known = {"width": 32, "stride": 16, "halo": 96, "minimum": 16, "takes_core": True}
    maxim, many = SimpleNamespace(**known, in_channels=6), SimpleNamespace(**known, in_channels=80)
    assert engine.default_tile(maxim) == 1536
    assert engine.default_tile(many) <= 992  # its inputs are the largest of its layers
    assert engine.grid(maxim, (100, 100), padded=1000).padded == (1008, 1008)
    assert [len(engine.grid(maxim, shape)) for shape in ((1396, 1860), (896, 3392), (1760, 1760))] == [1, 1, 4]
    assert engine.grid(maxim, (1396, 1860), padded=2048)[0].outer == (0, 0, 1504, 1968)
    assert len(Engine(device="cpu", tile=1536).grid(maxim, (1396, 1860))) == 4
    assert len(engine.grid(published, (1100, 1100))) > 1  # it would hold whole layers of it
    with pytest.raises(UsageError, match="--tile 208 or more"):
        Engine(device="cpu", tile=207).grid(published, (100, 100))


@pytest.mark.gpu
def test_cuda_equals_cpu(network: Small) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    inputs, core = torch.rand(3, 2, 48, 64), Box(8, 8, 40, 56)
    expected = Engine(device="cpu").predict(network, inputs, core, SIX_VIEWS)
    engine = Engine(device="cuda")
    engine.prepare(network)
    found = engine.predict(network, inputs.cuda(), core, SIX_VIEWS).cpu()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
