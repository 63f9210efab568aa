"""Which Zarr codecs are trusted. Some registered ones run code or read other files; a data folder may not choose those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mxbridge.errors import BrokenFile, Unsupported

PLAIN_CODECS = {
    "blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2", "delta", "shuffle", "bitround", "fixedscaleoffset",
    "packbits", "astype", "quantize", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3",
    "bytes", "endian", "transpose", "sharding_indexed",
}  # fmt: skip
"""Codecs that turn bytes into numbers and nothing else (``pickle`` and the object codecs are not among them)."""

NESTING_LIMIT = 5


def check_codecs(metadata: dict[str, Any], path: Path) -> None:
    """Raise Unsupported when array metadata (``.zarray`` or ``zarr.json``) ask for any other codec."""
    for codec in [metadata.get("compressor"), *_listed(metadata.get("filters"), path)]:
        if codec is not None:
            _check(codec.get("id") if isinstance(codec, dict) else codec, path)
    _check_chain(_listed(metadata.get("codecs"), path), path, NESTING_LIMIT)


def _check_chain(codecs: list[Any], path: Path, depth: int) -> None:
    if depth == 0:
        raise BrokenFile(path, "its codecs are nested too deeply")
    for codec in codecs:
        entry = codec if isinstance(codec, dict) else {"name": codec}
        _check(entry.get("name"), path)
        configuration = entry.get("configuration")
        for inner in ("codecs", "index_codecs"):
            if isinstance(configuration, dict) and inner in configuration:
                _check_chain(_listed(configuration[inner], path), path, depth - 1)


def _check(name: object, path: Path) -> None:
    if str(name).removeprefix("numcodecs.") not in PLAIN_CODECS:
        raise Unsupported(f"{path}: the Zarr codec {name!r} is not supported", hint="Save it with zstd or blosc")


def _listed(value: Any, path: Path) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BrokenFile(path, "its codecs are not a list")
    return value
