"""Files of named tensors, ``.pt`` or ``.safetensors``, read without running anything that is inside."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mxbridge.errors import ModelError
from mxbridge.models.torchscript_files import is_torchscript, read_torchscript

LARGEST_WEIGHTS = 4 * 1024**3
TRUNCATED = "It may be truncated; fetch or copy it again"


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors by key and the file's sha256. Raises as :func:`read_tensors` does."""
    tensors = read_tensors(path)
    try:
        with path.open("rb") as stream:
            return tensors, hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by key. Raises ModelError for what is no file of tensors; never runs what is inside."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights", hint="List what there is with: mxbridge models list")
    try:
        weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})", hint=TRUNCATED) from error
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ModelError(f"{path}: holds no plain set of named tensors", hint="Save model.state_dict(), not the model")
    return {str(key): value for key, value in weights.items()}


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    import pickle

    archive = zipfile.is_zipfile(path)
    try:
        if archive:
            with zipfile.ZipFile(path) as entries:
                if sum(entry.file_size for entry in entries.infolist()) > LARGEST_WEIGHTS:
                    raise ModelError(f"{path}: would unpack to more than {LARGEST_WEIGHTS >> 30} GiB")
            if is_torchscript(path):
                return read_torchscript(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as stream:
            pickled = archive or stream.read(1) == pickle.PROTO
        if not pickled:
            raise ModelError(f"{path}: not a file of weights", hint=TRUNCATED) from error
        raise ModelError(
            f"{path}: refused, because it holds more than tensors and loading it could run code",
            hint="Save model.state_dict() or a .safetensors file",
        ) from error
    except (RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        said = f" ({str(error)[:120]})" if str(error) else ""
        raise ModelError(f"{path}: not a file of weights{said}", hint=TRUNCATED) from error
