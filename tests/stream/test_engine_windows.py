"""Fixed windows through the engine: batches, the lack of memory, frozen statistics, what a GPU is given at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch import Tensor

from mxbridge.errors import InputError
from mxbridge.stream import engine as engine_module
from mxbridge.stream.engine import Engine


class Networks:
    """Room for so many windows at once; half precision may come out."""

    def __init__(self, room: int = 1000, fault: str = "not enough memory: you tried to allocate") -> None:
        self.room, self.fault = room, fault
        self.moved: list[torch.device] = []

    def to(self, device: torch.device) -> Self:
        self.moved.append(device)
        return self

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        if len(windows) > self.room:
            raise RuntimeError(self.fault)
        assert torch.is_inference_mode_enabled()
        return {"a": windows * 2, "b": (windows - 1).to(torch.bfloat16)}

    def frozen(self, sample: Tensor) -> Networks:
        if len(sample) > self.room:
            raise RuntimeError(self.fault)
        return Networks(len(sample))


@pytest.mark.parametrize(("room", "steps"), [(7, []), (4, ["batch 7 -> 3"]), (1, ["batch 7 -> 3", "batch 3 -> 1"])])
def test_a_batch_is_halved_until_it_fits(room: int, steps: list[str]) -> None:
    inputs = torch.arange(7.0).reshape(7, 1, 1, 1).expand(7, 3, 2, 2)
    engine = Engine(device="cpu")
    found = engine.windows(Networks(room), inputs)
    assert torch.equal(found["a"], inputs * 2)
    assert found["b"].dtype == torch.float32 and torch.equal(found["b"], inputs - 1)
    assert engine.steps_back == steps


def test_a_window_that_does_not_fit_is_one_line() -> None:
    engine = Engine(device="cpu")
    with pytest.raises(InputError, match="one window does not fit"):
        engine.windows(Networks(0), torch.zeros(1, 3, 2, 2))
    with pytest.raises(InputError, match="a sample of 3 windows does not fit"):
        engine.frozen(Networks(2), torch.zeros(3, 3, 2, 2))
    assert engine.frozen(Networks(), torch.zeros(3, 3, 2, 2)).room == 3


def test_other_faults_are_no_lack_of_memory() -> None:
    engine = Engine(device="cpu")
    with pytest.raises(RuntimeError, match="shapes"):
        engine.windows(Networks(0, "shapes do not match"), torch.zeros(2, 3, 2, 2))
    with pytest.raises(RuntimeError, match="shapes"):
        engine.frozen(Networks(0, "shapes do not match"), torch.zeros(2, 3, 2, 2))


def test_networks_are_moved_to_the_device() -> None:
    networks = Networks()
    assert Engine(device="cpu").prepare_windows(networks) is networks
    assert networks.moved == [torch.device("cpu")]


def test_how_many_windows_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Engine(device="cpu").window_batch(512) == 1
    assert Engine(device="cpu", batch=5).window_batch(512) == 5
    engine = Engine(device="cpu")
    engine.torch_device = torch.device("cuda")
    for gigabytes, windows in ((140, 16), (8, 5), (1, 1)):
        memory: Any = SimpleNamespace(total_memory=gigabytes * 2**30)
        monkeypatch.setattr(engine_module.torch.cuda, "get_device_properties", lambda _, memory=memory: memory)
        assert engine.window_batch(512) == windows
