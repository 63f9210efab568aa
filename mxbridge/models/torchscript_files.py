"""Named tensors out of TorchScript archives, without running or compiling the program that lies beside them.

``torch.jit.load`` compiles that program; its weights need none of it. The archive's ``data.pkl`` is a tree of modules with
their tensors. It is read with a fixed list of pickle opcodes, and every name in it that is neither a tensor's nor that of a
module (which becomes an empty holder) is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mxbridge.errors import ModelError

TREE_LIMIT = 2 * 1024**2
"""Bytes of ``data.pkl``; the largest published ones have some 40 kB."""
MOST_PARTS = 100_000
DEEPEST = 200
OPCODES = frozenset({
    *("APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPERSID", "BINPUT", "BINUNICODE", "BUILD"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "GLOBAL", "LONG1", "LONG_BINGET", "LONG_BINPUT", "MARK", "NEWFALSE", "NEWOBJ"),
    *("NEWTRUE", "NONE", "PROTO", "REDUCE", "SETITEM", "SETITEMS", "STOP", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
})  # fmt: skip
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
}


def is_torchscript(path: Path) -> bool:
    """Whether a zip archive is one of TorchScript."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Tensors by key, as ``state_dict`` would name them. Raises ModelError for what is no such archive, or is more than that."""
    try:
        with zipfile.ZipFile(path) as archive:
            tree = next((n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")), None)
            if tree is None or archive.getinfo(tree).file_size > TREE_LIMIT:
                raise ModelError(f"{path}: not a TorchScript archive of a network")
            stem = tree.removesuffix("data.pkl")
            if f"{stem}byteorder" in archive.namelist() and archive.read(f"{stem}byteorder").strip() != b"little":
                raise ModelError(
                    f"{path}: written on a machine of another byte order", hint="Save the state dict instead"
                )
            raw = archive.read(tree)
            _check_opcodes(raw, path)
            root = _TreeReader(raw, archive, f"{stem}data/").load()
    except (
        pickle.UnpicklingError,
        AttributeError,
        TypeError,
        ValueError,
        LookupError,
        EOFError,
        RuntimeError,
        RecursionError,
    ) as error:
        raise ModelError(f"{path}: its tree of weights cannot be read ({str(error)[:120]})") from error
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path}: not a whole file ({error})", hint="Copy or download it again") from error
    if type(root).__name__ != "Holder":
        raise ModelError(f"{path}: its tree of weights is no network")
    found: dict[str, Tensor] = {}
    _collect(root, "", found, [0], path)
    return found


def _check_opcodes(raw: bytes, path: Path) -> None:
    """Raise ModelError unless only the opcodes of a tree of tensors are used, with a table no longer than the tree."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        beyond = opcode.name.endswith("PUT") and isinstance(argument, int) and argument > count
        if opcode.name not in OPCODES or beyond:
            raise ModelError(f"{path}: refused, because it holds more than tensors ({opcode.name})")


class _TreeReader(pickle.Unpickler):
    """Rebuilds modules as empty holders and tensors as tensors; knows no other name."""

    def __init__(self, raw: bytes, archive: zipfile.ZipFile, data: str) -> None:
        super().__init__(io.BytesIO(raw))
        self._archive, self._data = archive, data
        self._holder = type(
            "Holder", (), {}
        )  # one of its own per file: nothing that a file does to it outlives the file

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return self._holder
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return partial(_tensor)
        if (module, name) == ("collections", "OrderedDict"):
            return partial(OrderedDict)
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a set of tensors")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, storage, key, _, count = pid
        dtype = DTYPES[storage]
        info = self._archive.getinfo(self._data + str(key))
        if kind != "storage" or info.file_size != count * dtype.itemsize:
            raise ValueError(f"storage {str(key)[:20]} has another size than it says")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self._archive.read(info)), dtype=dtype)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """A tensor on numbers that are there. Raises ValueError where it would reach beyond them."""
    numbers = (offset, *shape, *strides)
    if (
        not isinstance(storage, Tensor)
        or not all(type(n) is int and n >= 0 for n in numbers)
        or len(shape) != len(strides)
    ):
        raise ValueError("a tensor of no possible shape")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.numel():
        raise ValueError("a tensor beyond its storage")
    return storage.as_strided(shape, strides, offset)


def _collect(part: Any, prefix: str, found: dict[str, Tensor], seen: list[int], path: Path) -> None:
    """Tensors of a module and of those inside it, named as they are reached."""
    seen[0] += 1
    if seen[0] > MOST_PARTS or prefix.count(".") > DEEPEST:
        raise ModelError(f"{path}: its modules are more or deeper than those of any network")
    for name, value in vars(part).items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif type(value).__name__ == "Holder":
            _collect(value, f"{prefix}{name}.", found, seen, path)
