"""A lack of memory in the middle of a run: smaller steps, the same scores, and it is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from nimbus_fields import assert_same, cells_of, image_of, labels_of, narrow_model, noise

from mxbridge.errors import InputError
from mxbridge.models.nimbus import VIEWS, CellScores, Nimbus
from mxbridge.stream.engine import Engine
from mxbridge.stream.reader import TileReader

KINDS: dict[str, Callable[[], BaseException]] = {
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "torch on the CPU": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "numpy and Python": MemoryError,
}
LARGEST_OUTER = 40
"""Side of the largest tile of the field below, which ends at the field's border on one side."""
LABELS, RAW = labels_of(90, 100, seed=3), noise(3, 90, 100, seed=3)


class Room:
    """Lets a network see so many pixels (of all samples together) at once; more raises ``error``."""

    def __init__(self, model: Nimbus, pixels: int, error: Callable[[], BaseException]) -> None:
        self.model, self.pixels, self.error = model, pixels, error

    def __enter__(self) -> None:
        def check(_: object, inputs: tuple[torch.Tensor]) -> None:
            if inputs[0].shape[0] * inputs[0].shape[-1] * inputs[0].shape[-2] > self.pixels:
                raise self.error()

        self.hook = self.model.network.register_forward_pre_hook(check)

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def run(model: Nimbus, engine: Engine) -> CellScores:
    return model.score(image_of(RAW), cells_of(LABELS), [0, 1, 2], [2000.0] * 3, engine, views=VIEWS["six"][:2])


def assert_close(found: CellScores, expected: CellScores) -> None:
    for name in ("score", "view_sd", "intensity", "area_px", "eroded_px"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_then_tiles_get_smaller_and_scores_stay(kind: str) -> None:
    """Room for a batch of three, of two, for one tile, and for parts of a tile, down to the smallest."""
    model = narrow_model(depth=2)
    expected = run(model, Engine(device="cpu", tile=48, batch=3))
    smallest, tile = (model.stride + 2 * model.halo) ** 2, LARGEST_OUTER**2
    for pixels, first, then in (
        (3 * tile, "", ""),
        (2 * tile, "batch 3 -> 1", ""),
        (tile, "batch 3 -> 1", ""),
        (tile - 1, "batch 3 -> 1", "tile core"),
        (smallest, "batch 3 -> 1", "tile core"),
    ):
        engine = Engine(device="cpu", tile=48, batch=3)
        with Room(model, pixels, KINDS[kind]):
            found = run(model, engine)
        assert_close(found, expected)
        said = "; ".join(engine.steps_back)
        assert said.startswith(first)
        assert (then in said) if then else ("tile" not in said), said
        assert bool(said) == bool(first)
        if pixels == smallest:
            with Room(model, smallest - 1, KINDS[kind]), pytest.raises(InputError, match="smallest size does not fit"):
                run(model, Engine(device="cpu", tile=48, batch=3))


def test_memory_that_ends_in_the_middle_of_a_run() -> None:
    """Another program takes it after a few tiles: those done stay as they are, the rest is done in smaller steps."""
    model = narrow_model(depth=2)
    expected = run(model, Engine(device="cpu", tile=48, batch=3))
    engine, calls = Engine(device="cpu", tile=48, batch=3), 0

    def check(_: object, inputs: tuple[torch.Tensor]) -> None:
        nonlocal calls
        calls += 1
        if calls > 6 and inputs[0].shape[0] > 1:
            raise MemoryError

    hook = model.network.register_forward_pre_hook(check)
    try:
        found = run(model, engine)
    finally:
        hook.remove()
    assert engine.steps_back == ["batch 3 -> 1"]
    assert_close(found, expected)


def test_a_reader_without_memory_reads_less_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fails = narrow_model(depth=2), [2, 5]
    expected = run(model, Engine(device="cpu", tile=48))
    pixels = TileReader.pixels

    def read(reader: TileReader, box: object) -> object:
        fails[0] -= 1
        if fails[0] == 0:
            fails.pop(0)
            raise MemoryError("Unable to allocate 2.00 GiB for an array")
        return pixels(reader, box)

    monkeypatch.setattr(TileReader, "pixels", read)
    engine = Engine(device="cpu", tile=48, workers=3)
    assert_same(run(model, engine), expected)
    assert engine.steps_back


def test_a_tile_that_never_fits_while_it_is_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> object:
        raise MemoryError("Unable to allocate 2.00 TiB for an array")

    monkeypatch.setattr(TileReader, "pixels", read)
    with pytest.raises(InputError, match="memory"):
        run(narrow_model(depth=2), Engine(device="cpu", tile=48, workers=3))
