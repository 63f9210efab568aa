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
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from filelock import FileLock, Timeout

from mxbridge.errors import BrokenFile, Locked, SourceError, UsageError
from mxbridge.formats.atomic import PART_SUFFIX, make_folder, output_error, write_atomically

Status = Literal["waiting", "computed", "published", "failed"]

RECORD, IMAGES = "run.json", "images"
RUNS = "mxbridge-runs"
"""Folder of run folders, beside a project or in the current folder."""


def digest(document: Any) -> str:
    """Hash of anything JSON can say, independent of the order of keys. 32 hexadecimal digits."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


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
    def load(cls, path: Path) -> Run:
        """Read a run folder. Raises SourceError (not there, not readable) and BrokenFile."""
        record = path / RECORD
        try:
            text = record.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise SourceError(
                f"no run at {path}", hint=f"A run is a folder with a {RECORD}, see mxbridge-runs"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{record}: cannot be read ({error})") from error
        try:
            document = json.loads(text)
            if document.pop("mxbridge") != 1:
                raise ValueError("made by another version")
            images = [_checked(ImageRecord, **image) for image in document.pop("images")]
            if len({image.folder for image in images}) < len(images):
                raise ValueError("two images in one folder")
            return _checked(cls, path=path, images=images, **document)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise BrokenFile(record, f"is not the record of a run ({error})", hint="Use another folder") from error

    @property
    def is_of_project(self) -> bool:
        """Whether its images are those of a QuPath project."""
        return self.address.endswith(".qpproj") and not self.is_of_server

    @property
    def is_of_server(self) -> bool:
        """Whether its images are those of an OMERO server."""
        return self.address.startswith("omero:")

    @property
    def place(self) -> str:
        """Address of the workspace: a run inside a project belongs to that project, wherever both have moved."""
        inside = self.path.resolve().parent.parent / Path(self.address).name
        is_inside = self.is_of_project and self.path.resolve().parent.name == RUNS
        return str(inside) if is_inside and inside.is_file() else self.address

    def save(self) -> None:
        document = {"mxbridge": 1, **{k: v for k, v in asdict(self).items() if k != "path"}}
        with write_atomically(self.path / RECORD) as part:
            text = json.dumps(document, indent=1, ensure_ascii=False, default=str)
            part.write_text(text, encoding="utf-8", errors="backslashreplace")  # undecodable file names stay valid JSON

    @property
    def made(self) -> tuple[str, ...]:
        """Names of what the run made beside its record and the images' folders: tables, pictures."""
        kept = self.details.get("made")
        names = kept if isinstance(kept, list) else []
        return (*_MADE_EARLY, *(n for n in names if isinstance(n, str) and _PLAIN_NAME.fullmatch(n) and n != IMAGES))

    @contextmanager
    def making(self) -> Iterator[None]:
        """Remember what comes into the folder while the block lasts, so that a restart removes it, and nothing else."""
        before = {p.name for p in self.path.iterdir()}
        yield
        new = {p.name for p in self.path.iterdir()} - before
        self.details["made"] = sorted(new.union(self.details.get("made", [])))

    def folder_of(self, image: ImageRecord) -> Path:
        return self.path / IMAGES / image.folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this run folder. Raises Locked when a live process works in it."""
        with folder_lock(self.path):
            yield


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep other runs out of a run folder; the system releases it when its holder dies. Raises Locked, OutputError."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Locked(
            f"{folder} is being worked on by another mxbridge",
            hint="Wait until it has ended, or give another folder with --out",
        ) from error
    except (OSError, NotImplementedError) as error:
        raise output_error(folder, error if isinstance(error, OSError) else OSError(str(error))) from error
    try:
        yield
    finally:
        lock.release()


def all_runs(home: Path) -> Iterator[Run]:
    """The runs under ``home``, newest first; folders without a readable record (other people's, too) are passed over."""
    try:
        names = sorted((f.name for f in home.iterdir() if _is_run_id(f.name)), reverse=True)
    except OSError:
        return
    for name in names:
        with suppress(SourceError, BrokenFile):
            yield Run.load(home / name)


def find_same(home: Path, request: str) -> Run | None:
    """The newest run under ``home`` for the same request, finished or not."""
    return next((run for run in all_runs(home) if run.request == request), None)


def finished_images(home: Path) -> dict[str, Path]:
    """Folders of saved results under ``home`` by fingerprint; of several the newest."""
    found: dict[str, Path] = {}
    for run in all_runs(home):
        for image in run.images:
            if image.status in ("computed", "published"):
                found.setdefault(image.fingerprint, run.folder_of(image))
    return found


@contextmanager
def open_run(
    home: Path, out: Path | None, images: list[ImageRecord], *, resume: bool, **more: Any
) -> Iterator[tuple[Run, bool]]:
    """The run to work in, held while the block lasts, and whether it goes on with an earlier one.

    With ``resume`` the newest run of the same request goes on. A folder given with --out must be empty, not there, or a run;
    another run in it is replaced only with --restart. Raises UsageError, Locked, OutputError.
    """
    request = request_of(images)
    if out is not None:
        _check_out(out)
        path = out
    else:
        same = find_same(home, request) if resume else None
        path = same.path if same else home / new_run_id()
    make_folder(path)
    with folder_lock(path):
        there = Run.load(path) if (path / RECORD).exists() else None
        if there is not None and resume and there.request == request:
            _sweep(path)
            yield there, True
            return
        if there is not None and resume:
            raise UsageError(
                f"{path} holds another run ({there.task}, started {there.started})",
                hint="Give another folder with --out, or --restart to replace it",
            )
        if there is not None:
            _clear(there)
        run = Run(
            path=path,
            run_id=path.name if _is_run_id(path.name) else new_run_id(),
            request=request,
            started=now(),
            images=images,
            command=list(sys.argv),
            versions=versions(),
            **more,
        )
        run.save()
        yield run, False


def _check_out(out: Path) -> None:
    """Raise UsageError for a folder that is somebody's: a run folder holds nothing but the run."""
    try:
        strange = out.exists() and (not out.is_dir() or (not (out / RECORD).exists() and _holds_files(out)))
    except OSError as error:
        raise output_error(out, error) from error
    if strange:
        raise UsageError(
            f"{out} is there already and holds no run", hint="Give a folder with --out that is not there yet"
        )


def _holds_files(folder: Path) -> bool:
    return any(p.name != ".lock" and not p.name.endswith(PART_SUFFIX) for p in folder.iterdir())


def _sweep(folder: Path) -> None:
    """Remove the parts of files that a killed run left in its folder. Call it while holding the folder. Raises OutputError."""
    try:
        for place in ("*", "images/*", "images/*/*", "images/*/prediction/*"):
            for left in list(folder.glob(place + PART_SUFFIX)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    except OSError as error:
        raise output_error(folder, error) from error


def _clear(run: Run) -> None:
    """Remove what a run made, and nothing else in its folder; its record goes last."""
    try:
        for image in run.images:
            if run.folder_of(image).exists():
                shutil.rmtree(run.folder_of(image))
        for made in (run.path / name for name in run.made):
            shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
        (run.path / RECORD).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(run.path, error) from error


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


T = TypeVar("T")
_MADE_EARLY = ("normalization.json", "cells.parquet", "cells.csv", "cells.h5ad")
"""Of runs that were made before runs kept a list."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][^/\\:]{0,120}")
_PLAIN_FOLDER = re.compile(r"\d{4}-[A-Za-z0-9_-]{0,40}")
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("run_id", "task", "address", "request", "started", "id", "name", "fingerprint", "folder"), (str,)),
    **dict.fromkeys(("model", "options", "details", "versions", "counts"), (dict,)),
    **dict.fromkeys(("command", "warnings", "images"), (list,)),
    **dict.fromkeys(("finished", "error"), (str, type(None))),
    **dict.fromkeys(("seconds", "cpu_seconds"), (int, float, type(None))),
    "error_code": (int, type(None)),
    "published": (bool,),
    "status": (str,),
    "path": (Path,),
}


def _checked(kind: type[T], **fields: Any) -> T:
    """A record from JSON whose fields have the types they should. Raises ValueError, TypeError."""
    for name, value in fields.items():
        if not isinstance(value, _KINDS.get(name, ())):
            raise ValueError(f"{name} is {type(value).__name__}")
    if "folder" in fields and not _PLAIN_FOLDER.fullmatch(fields["folder"]):
        raise ValueError(f"{fields['folder']!r} is no folder of a run")
    if fields.get("status", "waiting") not in get_args(Status):
        raise ValueError(f"status {fields['status']!r}")
    return kind(**fields)


def _is_run_id(name: str) -> bool:
    parts = name.split("-")
    return len(parts) == 3 and len(parts[0]) == 8 and len(parts[1]) == 6 and "".join(parts[:2]).isdigit()
