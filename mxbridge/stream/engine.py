"""The one place that chooses device, threads, precision, tile and batch for inference, and steps back when memory ends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mxbridge.errors import InputError, UsageError
from mxbridge.image import Box
from mxbridge.stream.grid import Grid, round_up
from mxbridge.stream.views import IDENTITY, View

log = logging.getLogger(__name__)

CPU_LAYER_BYTES = 200 * 1024**2
CUDA_LAYER_BYTES = 1024**3
"""Largest activation of one sample that the default tile may make (float32, widest layer at full size); a network holds three
or four of them. Larger tiles spend less on their halos: on CPUs the rest of the program and four such layers stay below 1.4 GB."""
LARGEST_LABELS = 4096**2
"""Full-resolution pixels under a default tile: each costs a reading thread about 20 bytes."""
CPU_QUEUE_BYTES = 128 * 1024**2
CUDA_QUEUE_BYTES = 1024**3
"""Decoded tiles waiting for the model take no more than this (but one is always read ahead)."""
LAYERS_ALIVE = 12
"""Activations of the largest size that a U-Net keeps at once, for the batch on a GPU (measured: 8 to 11)."""
LARGEST_TILE = 2048
CPU_TILE = 1024
CPU_TILE_OF_PARTS, CPU_LAYER_BYTES_OF_PARTS = 1536, 300 * 1024**2
"""For networks that compute only the wanted part of a tile on CPUs: they hold fewer layers at once, and can take larger tiles.
Measured with MAXIM's, width 32, 6 inputs, one thread of a busy machine: CPU µs per pixel of a core and peak memory in MB are
4.3 and 620 at 1024, 3.7 and 770 at 1280, 3.6 and 990 at 1536, 3.7 and 1520 at 2048."""
CUDA_WINDOWS, WINDOW_PLANES = 16, 64
"""Windows of fixed size per forward pass on a GPU, and how many planes of a window's size the widest layer of such networks has."""
ONE_TILE = 1.3
"""An image with this many times the pixels of a default tile is one tile: no halo, for as much more memory."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TiledNetwork(Protocol):
    """What the engine must know of a network; ``networks/`` provide it.

    A network with ``takes_core = True`` is called with the wanted part of its output (y0, x0, y1, x1) and returns that alone.
    """

    @property
    def stride(self) -> int: ...
    @property
    def halo(self) -> int: ...
    @property
    def minimum(self) -> int: ...

    width: int
    in_channels: int
    memory_format: torch.memory_format

    def __call__(self, x: Tensor, /) -> Tensor: ...
    def to(self, *args: Any, **options: Any) -> Any: ...


class WindowNetworks(Protocol):
    """Networks that look at windows of one size, each on its own, and make several images of them."""

    def to(self, device: torch.device) -> Any: ...
    def __call__(self, windows: Tensor) -> dict[str, Tensor]: ...


@dataclass
class Engine:
    """Runs networks over tiles.

    device: ``auto`` (CUDA where there is one, else CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    precision: ``auto`` (float32, no TF32), ``fp32``, ``bf16``, ``fp16`` (not on CPU).
    tile: side of the outer box at the model's scale. workers: reading threads. batch: samples per forward pass.
    Raises UsageError for what this machine does not have. ``steps_back`` lists what was reduced for lack of memory.
    """

    device: str = "auto"
    precision: str = "auto"
    tile: int | None = None
    workers: int | None = None
    batch: int | None = None
    steps_back: list[str] = field(default_factory=list, init=False)
    torch_device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        for name in ("tile", "workers", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value} is not possible", hint="Give a positive number")
        self.torch_device = choose_device(self.device)
        self.dtype = choose_precision(self.precision, self.torch_device)
        self.readers = self.workers or min(4, os.cpu_count() or 1)
        self._batch_limit: int | None = None
        self._core_limit: int | None = None

    @property
    def queue_bytes(self) -> int:
        """What tiles that wait for the network may take: a CPU is never faster than one or two readers."""
        return CUDA_QUEUE_BYTES if self.torch_device.type == "cuda" else CPU_QUEUE_BYTES

    def prepare(self, network: TiledNetwork) -> None:
        """Move the network to the device, once per run."""
        self._settle()
        network.to(device=self.torch_device, memory_format=network.memory_format)

    def _settle(self) -> None:
        """Make a GPU repeat its numbers."""
        if self.torch_device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True  # a resumed run must end bit for bit as one that was not stopped
            if self.precision in ("auto", "fp32"):
                torch.backends.cuda.matmul.allow_tf32 = False
                torch.backends.cudnn.allow_tf32 = False

    def grid(self, network: TiledNetwork, shape: tuple[int, int], full_pixels: float = 1.0, *, padded: int = 1) -> Grid:
        """The tiles of an image of ``shape`` (y, x) at the model's scale. Raises UsageError when --tile is too small.

        full_pixels: full-resolution pixels per model pixel; the labels of a tile are held at full resolution.
        padded: side up to which the image is padded in any case.
        """
        settings = {"stride": network.stride, "halo": network.halo, "minimum": max(network.minimum, padded)}
        tile = self.tile or self.default_tile(network, full_pixels)
        if self.tile is None and takes_core(network):
            whole = Grid.of_tiles(shape, **settings, tile=max(*shape, padded) + 2 * network.stride + 2 * network.halo)
            height, width = whole[0].outer.shape
            if height * width <= ONE_TILE * tile**2:
                return whole
        return Grid.of_tiles(shape, **settings, tile=tile)

    def default_tile(self, network: TiledNetwork, full_pixels: float = 1.0) -> int:
        """Large enough that the halo is the smaller part, small enough for caches and memory."""
        budget, largest = CPU_LAYER_BYTES, CPU_TILE
        if self.torch_device.type == "cuda":
            budget, largest = CUDA_LAYER_BYTES, LARGEST_TILE
        elif takes_core(network):
            budget, largest = CPU_LAYER_BYTES_OF_PARTS, CPU_TILE_OF_PARTS
        planes = max(network.width, network.in_channels)
        side = int(min((budget / (4 * planes)) ** 0.5, (LARGEST_LABELS / full_pixels) ** 0.5))
        return max(2 * network.halo + 4 * network.stride, min(largest, side) // network.stride * network.stride)

    def samples(self, network: TiledNetwork, grid: Grid) -> int:
        """Samples per forward pass; depends on the machine, not on what is free just now, so that runs repeat."""
        if self.batch:
            return self.batch
        if self.torch_device.type != "cuda":
            return 1
        side = min(grid.core + 2 * grid.halo, max(grid.padded))
        need = LAYERS_ALIVE * 4 * max(network.width, network.in_channels) * side**2
        total = torch.cuda.get_device_properties(self.torch_device).total_memory
        return int(max(1, min(64, 0.5 * total // need)))

    def prepare_windows(self, networks: WindowNetworks) -> Any:
        """The same networks on the device, once per run."""
        self._settle()
        return networks.to(self.torch_device)

    def window_batch(self, side: int) -> int:
        """Windows of ``side`` pixels per forward pass; depends on the machine, not on what is free just now."""
        if self.batch:
            return self.batch
        if self.torch_device.type != "cuda":
            return 1
        total = torch.cuda.get_device_properties(self.torch_device).total_memory
        return int(max(1, min(CUDA_WINDOWS, 0.5 * total // (LAYERS_ALIVE * 4 * WINDOW_PLANES * side**2))))

    def windows(self, networks: WindowNetworks, inputs: Tensor) -> dict[str, Tensor]:
        """``(n, c, side, side)`` windows on the device -> every image of them, ``(n, 3, side, side)`` float32.

        A batch that does not fit the memory is halved; raises InputError when one window does not fit.
        """
        parts: list[dict[str, Tensor]] = []
        first = 0
        while first < len(inputs):
            count = min(len(inputs) - first, self._batch_limit or len(inputs))
            try:
                with torch.inference_mode(), self._autocast():
                    found = networks(inputs[first : first + count])
                parts.append({name: image.to(torch.float32) for name, image in found.items()})
                first += count
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if count == 1:
                    raise InputError(
                        "one window does not fit into the memory", hint="Close other programs or use another --device"
                    ) from error
                self._batch_limit = count // 2
                self.step_back(f"batch {count} -> {self._batch_limit}")
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def frozen(self, networks: Any, sample: Tensor) -> Any:
        """Networks whose statistics are those of a ``sample`` ``(n, c, side, side)``; they are used up. Raises InputError."""
        try:
            with torch.inference_mode():
                return networks.frozen(sample.to(self.torch_device))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"a sample of {len(sample)} windows does not fit into the memory",
                hint="Use another --device, or --statistics window",
            ) from error

    def predict(self, network: TiledNetwork, inputs: Tensor, core: Box, views: Sequence[View] = (IDENTITY,)) -> Tensor:
        """``(n, c, y, x)`` tiles on the device -> ``(n, view, out, y, x)`` float32 of their cores, turned back.

        core: in pixels of the tile. A batch that does not fit the memory is halved, then the tile; raises InputError when
        even the smallest does not fit.
        """
        parts: list[Tensor] = []
        first = 0
        while first < len(inputs):
            count = min(len(inputs) - first, self._batch_limit or len(inputs))
            try:
                parts.append(self._predict_cut(network, inputs[first : first + count], core, views))
                first += count
            except (MemoryError, RuntimeError) as error:
                if count == 1 or not is_out_of_memory(error):
                    raise
                self._batch_limit = count // 2
                self.step_back(f"batch {count} -> {self._batch_limit}")
        return torch.cat(parts)

    def _predict_cut(self, network: TiledNetwork, inputs: Tensor, core: Box, views: Sequence[View]) -> Tensor:
        """Predict a batch, cutting the core along its longer side while it is larger than what fits."""
        height, width = core.shape
        longer = max(height, width)
        if self._core_limit is None or longer <= self._core_limit:
            try:
                return self._predict_views(network, inputs, core, views)
            except (MemoryError, RuntimeError) as error:
                if len(inputs) > 1 or not is_out_of_memory(error):
                    raise
                if longer <= network.stride:
                    raise InputError(
                        "one tile of the smallest size does not fit into the memory",
                        hint="Close other programs or use another --device",
                    ) from error
                self._core_limit = max(network.stride, round_up(longer // 2, network.stride))
                self.step_back(f"tile core {longer} -> {self._core_limit} px")
        middle = round_up(longer // 2, network.stride)
        axis = 0 if height == longer else 1
        cut = (core.y0, core.x0)[axis] + middle
        if axis == 0:
            halves = Box(core.y0, core.x0, cut, core.x1), Box(cut, core.x0, core.y1, core.x1)
        else:
            halves = Box(core.y0, core.x0, core.y1, cut), Box(core.y0, cut, core.y1, core.x1)
        done = []
        for half in halves:
            outer = _outer(half, network, (int(inputs.shape[-2]), int(inputs.shape[-1])))
            inner = Box(half.y0 - outer.y0, half.x0 - outer.x0, half.y1 - outer.y0, half.x1 - outer.x0)
            crop = inputs[..., outer.y0 : outer.y1, outer.x0 : outer.x1]
            done.append(self._predict_cut(network, crop, inner, views))
        return torch.cat(done, dim=-2 + axis)

    def _predict_views(self, network: TiledNetwork, inputs: Tensor, core: Box, views: Sequence[View]) -> Tensor:
        outputs = []
        with torch.inference_mode(), self._autocast():
            for view in views:
                turned = view.apply(inputs).contiguous(memory_format=network.memory_format)
                wanted = view.box(core, (int(inputs.shape[-2]), int(inputs.shape[-1])))
                outputs.append(view.invert(_part(network, turned, wanted)).to(torch.float32))
                del turned
            return torch.stack(outputs, dim=1)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.torch_device.type, dtype=self.dtype)

    def step_back(self, what: str) -> None:
        """Record, and say, that something was reduced for lack of memory."""
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        self.steps_back.append(what)
        log.warning("not enough memory: %s", what)

    def describe(self) -> dict[str, Any]:
        """For run.json: what was chosen and what was reduced."""
        kind = self.torch_device.type
        name = torch.cuda.get_device_name(self.torch_device) if kind == "cuda" else kind
        return {
            "device": str(self.torch_device),
            "device_name": name,
            "precision": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "readers": self.readers,
            "torch": torch.__version__,
            "steps_back": list(self.steps_back),
        }


def takes_core(network: TiledNetwork) -> bool:
    """Whether a network can be told which part of its output is wanted."""
    return bool(getattr(network, "takes_core", False))


def _part(network: Any, inputs: Tensor, wanted: Box) -> Tensor:
    """The wanted part of the output; networks that can are told which that is, and compute no more than they must."""
    if takes_core(network):
        part: Tensor = network(inputs, tuple(wanted))
    else:
        part = network(inputs)[..., wanted.y0 : wanted.y1, wanted.x0 : wanted.x1]
    return part


def choose_device(wanted: str) -> torch.device:
    """The torch device for ``--device``. Raises UsageError for one that is not there."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = wanted.partition(":")
    if kind == "cpu" and not number:
        return torch.device("cpu")
    if kind == "cuda" and (not number or number.isdigit()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) < count:
            return torch.device(wanted)
        raise UsageError(
            f"no device {wanted}: {count} CUDA devices found", hint="Use --device cpu, or install torch for CUDA"
        )
    if wanted == "mps":
        if torch.backends.mps.is_available():
            return torch.device("mps")
        raise UsageError("no device mps on this machine", hint="Use --device cpu")
    raise UsageError(f"unknown device {wanted!r}", hint="There is: auto, cpu, cuda, cuda:<number>, mps")


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The floating point type for ``--precision``. Raises UsageError where the device cannot do it."""
    if wanted == "auto":
        return torch.float32
    if wanted not in PRECISIONS:
        raise UsageError(f"unknown precision {wanted!r}", hint="There is: auto, fp32, bf16, fp16")
    if device.type == "cpu" and wanted == "fp16":
        raise UsageError("fp16 is not for CPUs", hint="Use --precision fp32")
    if device.type == "cpu" and wanted == "bf16" and not bf16_works_on_cpu():
        raise UsageError("this CPU ends programs that use bf16 convolutions", hint="Use --precision fp32")
    return PRECISIONS[wanted]


def bf16_works_on_cpu() -> bool:
    """Try a bf16 convolution in a child process: some virtual CPUs announce instructions that end the process."""
    code = (
        "import torch\n"
        "with torch.inference_mode(), torch.autocast('cpu', dtype=torch.bfloat16):\n"
        "    torch.nn.Conv2d(64, 64, 3)(torch.ones(1, 64, 64, 64)).float().sum().item()\n"
    )
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)  # noqa: S603 (our own code above)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch could help."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")
    )


def _outer(core: Box, network: TiledNetwork, shape: tuple[int, int]) -> Box:
    """What a part of a core must see, within a tile of ``shape``."""
    stride = network.stride
    y0, x0 = core.y0 // stride * stride, core.x0 // stride * stride
    grown = Box(y0, x0, round_up(core.y1, stride), round_up(core.x1, stride)).grow(network.halo)
    return grown.clip(shape)
