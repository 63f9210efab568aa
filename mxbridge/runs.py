"""Runs: three names that are not to be mixed, the record of what was done, and how a killed run goes on.

- the **result key** = hash(task, model name, target, source image), without options or weights: what a rerun replaces;
- the **fingerprint** = hash(result keys, options, weights, pixels, cell geometry, channels, normalisation, algorithm):
  whether something is already done;
- the **run id** = time + random: names a folder, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from mxbridge.errors import BrokenFile, Locked, SourceError, UsageError
from mxbridge.formats.atomic import output_error, write_atomically

Status = Literal["waiting", "computed", "published", "failed"]

RECORD = "run.json"


def digest(document: Any) -> str:
    """Hash of anything JSON can say, independent of the order of keys. 32 hexadecimal digits."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def result_key(*, task: str, model: str, target: str, source: str) -> str:
    """What a rerun replaces: the same task of the same model for the same target (a marker) on the same image."""
    return digest(["result", task, model, target, source])


def fingerprint(
    *,
    result_keys: Sequence[str],
    options: Mapping[str, Any],
    weights_sha256: str,
    pixels: str,
    geometry: str,
    channels: Mapping[str, int],
    normalization: Any,
    algorithm: str,
) -> str:
    """Whether something is already done: changes with anything that can change a number."""
    return digest(
        [
            "fingerprint",
            list(result_keys),
            options,
            weights_sha256,
            pixels,
            geometry,
            channels,
            normalization,
            algorithm,
        ]
    )


def new_run_id() -> str:
    """Time (UTC) and randomness, sortable: ``20261121-083000-1a2b3c``."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


@dataclass
class ImageRecord:
    """One image of a run. folder: where its results lie inside the run folder."""

    id: str
    name: str
    fingerprint: str
    folder: str
    status: Status = "waiting"
    counts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    error_code: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None


@dataclass
class Run:
    """A run folder and its ``run.json``, rewritten atomically whenever something is finished."""

    path: Path
    run_id: str
    task: str
    address: str
    request: str
    """Hash of all fingerprints: the same request is the same work."""
    started: str
    images: list[ImageRecord]
    command: list[str] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    published: bool = True
    """Whether this run is meant to be published (False with --no-publish until ``mxbridge publish``)."""
    finished: str | None = None

    @classmethod
    def create(cls, path: Path, *, task: str, address: str, images: list[ImageRecord], **more: Any) -> Run:
        """Make the folder and its first record. Raises OutputError."""
        run = cls(
            path=path,
            run_id=path.name if _is_run_id(path.name) else new_run_id(),
            task=task,
            address=address,
            request=request_of(images),
            started=now(),
            images=images,
            command=list(sys.argv),
            versions=versions(),
            **more,
        )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(path, error) from error
        run.save()
        return run

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a run folder. Raises SourceError (not there) and BrokenFile."""
        record = path / RECORD
        if not record.is_file():
            raise SourceError(f"no run at {path}", hint=f"A run is a folder with a {RECORD}, see mxbridge-runs")
        try:
            document = json.loads(record.read_text(encoding="utf-8"))
            document.pop("mxbridge")
            images = [ImageRecord(**image) for image in document.pop("images")]
            return cls(path=path, images=images, **document)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrokenFile(record, f"is not the record of a run ({error})") from error

    def save(self) -> None:
        document = {"mxbridge": 1, **{k: v for k, v in asdict(self).items() if k != "path"}}
        with write_atomically(self.path / RECORD) as part:
            part.write_text(json.dumps(document, indent=1, ensure_ascii=False, default=str), encoding="utf-8")

    def folder_of(self, image: ImageRecord) -> Path:
        return self.path / "images" / image.folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this run folder. Raises Locked when a live process works in it."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise Locked(
                f"{self.path} is being worked on by another mxbridge",
                hint="Wait until it has ended, or give another folder with --out",
            ) from error
        try:
            yield
        finally:
            lock.release()


def all_runs(home: Path) -> Iterator[Run]:
    """The runs under ``home``, newest first; folders without a readable record are passed over."""
    if not home.is_dir():
        return
    for folder in sorted((f for f in home.iterdir() if _is_run_id(f.name)), reverse=True):
        try:
            yield Run.load(folder)
        except (SourceError, BrokenFile):
            continue  # a folder whose first record was never written, or a user's own folder


def find_same(home: Path, request: str) -> Run | None:
    """The newest run under ``home`` for the same request, finished or not."""
    return next((run for run in all_runs(home) if run.request == request), None)


def find_image(home: Path, fingerprint: str) -> tuple[Path, dict[str, Any]] | None:
    """Folder and counts of an image that some run under ``home`` has finished with exactly this fingerprint."""
    for run in all_runs(home):
        for image in run.images:
            folder = run.folder_of(image)
            if image.fingerprint == fingerprint and (folder / "results.json").is_file():
                return folder, image.counts
    return None


def open_run(home: Path, out: Path | None, images: list[ImageRecord], *, resume: bool, **more: Any) -> tuple[Run, bool]:
    """The run to work in, and whether it goes on with an earlier one.

    With ``resume`` the newest run of the same request goes on. A folder given with --out that holds another run is refused.
    """
    request = request_of(images)
    if out is not None:
        if (out / RECORD).exists():
            run = Run.load(out)
            if resume and run.request == request:
                return run, True
            if resume:
                raise UsageError(
                    f"{out} holds another run ({run.task}, started {run.started})",
                    hint="Give another folder with --out, or --restart to replace it",
                )
            # before the new record: a kill in between must not leave old results under it
            shutil.rmtree(out / "images", ignore_errors=True)
            for left in ("normalization.json", "cells.parquet", "cells.csv", "cells.h5ad"):
                (out / left).unlink(missing_ok=True)
        return Run.create(out, images=images, **more), False
    found = find_same(home, request) if resume else None
    return (found, True) if found else (Run.create(home / new_run_id(), images=images, **more), False)


def request_of(images: Sequence[ImageRecord]) -> str:
    return digest(["request", *(image.fingerprint for image in images)])


def folder_name(number: int, name: str) -> str:
    """A short folder name for an image: its number in the run and what its name allows on every system."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in Path(name).name)[:40]
    return f"{number:04d}-{plain}"


def versions() -> dict[str, str]:
    """What computed this: Python, system and the libraries that touch numbers."""
    out = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in ("mxbridge", "torch", "numpy", "scipy", "zarr", "tifffile", "rasterio", "dask"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "not installed"
    return out


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _is_run_id(name: str) -> bool:
    parts = name.split("-")
    return len(parts) == 3 and len(parts[0]) == 8 and len(parts[1]) == 6 and "".join(parts[:2]).isdigit()
