"""How large a ``data.qpdata`` this machine can take: refused before it is read, rather than found out by a dead machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mxbridge.errors import SourceError, Unsupported

MAX_BYTES = 2 * 1024**3
"""Larger files are refused on any machine: about 3.3 million cells with ten measurements each."""

PER_BYTE = 7
"""Bytes of memory that publishing takes for each byte of a file whose objects are kept as bytes (measured: 6 with a
million cells; 4 for editing alone)."""

PER_NODE = 1000
"""Bytes of memory for each thing that has to be kept as a node, read twice for verification (measured: 900)."""

_PER_CELL = 626
"""Bytes of a cell with 30 and 16 corners and ten measurements, as QuPath writes it."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory() -> int | None:
    """Bytes that this process may use: the machine's, or what its container is allowed; None where nobody says."""
    found = []
    with suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for place in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            found.append(int(Path(place).read_text(encoding="ascii")))
    return min(found, default=None)


def check_size(path: Path, size: int) -> None:
    """Raise Unsupported for a file that is too large to be read, edited and verified here."""
    about = f"{path}: {size:,} bytes (about {size // _PER_CELL:,} cells)"
    if size > MAX_BYTES:
        raise Unsupported(
            f"{about} are more than mxbridge handles, {MAX_BYTES:,}",
            hint="Divide the image into several entries of the project, e.g. one per annotation (in QuPath: crop)",
        )
    there = memory()
    if there is not None and size * PER_BYTE > there:
        raise Unsupported(
            f"{about} need about {size * PER_BYTE / 1e9:.1f} GB of memory, and there are {there / 1e9:.1f} GB",
            hint="Run on a machine (or in a container) with more memory, or divide the image into several entries",
        )


def check_file(path: Path) -> None:
    """As :func:`check_size`, for a file that is not read yet. Raises SourceError when it is not there."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
    check_size(path, size)


def most_nodes(size: int) -> int | None:
    """How many nodes there is room for beside a file of ``size`` bytes; None where nobody knows."""
    there = memory()
    return None if there is None else max(0, there - size * PER_BYTE) // PER_NODE
