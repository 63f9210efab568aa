"""What a job is: sources of images, tasks in a row, limits. Read from a TOML file; every complaint names the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from mxbridge.batch import toml_lines
from mxbridge.batch.job_text import JobText, as_written, read_job_text
from mxbridge.batch.limits import Window, parse_time
from mxbridge.batch.verbs import VERBS, TaskSpec, Verb, options_of
from mxbridge.errors import UsageError
from mxbridge.workspaces.omero.objects.cell_sources import CellSource
from mxbridge.workspaces.omero.sessions.address import Place, Server

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
"""Of jobs, sources and tasks: they become names of folders and files."""


def _listed(value: Any) -> Any:
    """One text stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def _not_blank(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not all(text.strip() for text in value):
        raise ValueError("names nothing")
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Paths = Annotated[Texts, AfterValidator(_not_blank)]
Plane = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Strict):
    """When and how much. images: at most this many images are begun in one run. retry_after: seconds before the second try,
    doubled before each further one."""

    window: str | None = None
    until: str | None = None
    images: Annotated[int | None, Field(ge=1)] = None
    tries: Annotated[int, Field(ge=1, le=100)] = 3
    retry_after: Annotated[float, Field(ge=0, le=86400)] = 60.0
    group: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Images that go through all tasks together."""

    @field_validator("window")
    @classmethod
    def _is_window(cls, value: str | None) -> str | None:
        if value is not None:
            Window.parse(value)
        return value

    @field_validator("until")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        if value is not None:
            parse_time(value)
        return value


class Freezing(Strict):
    """How scores are normalised: factors are fitted on the first ``images`` images of a cohort and kept; an image whose own
    factor differs by more than ``drift`` times is reported (``drift = false``: is not even looked at)."""

    frozen: bool = True
    images: Annotated[int, Field(ge=1, le=100_000)] = 50
    drift: float | Literal[False] = 2.0

    @field_validator("drift")
    @classmethod
    def _is_ratio(cls, value: float | Literal[False]) -> float | Literal[False]:
        if value is not False and not 1 < value < 1e6:
            raise ValueError("must be a ratio above 1, or false")
        return value


class SourceBase(Strict):
    name: str | None = None
    images: Texts = ()
    um_per_px: Annotated[float | None, Field(gt=0)] = None


class ProjectSource(SourceBase):
    project: Paths
    path_map: Texts = ()


class FilesSource(SourceBase):
    files: Paths
    labels: Texts = ()
    stretched_labels: bool = False
    plane: Plane | None = None


def _understood(text: str, read: Callable[[str], object]) -> None:
    try:
        read(text)
    except UsageError as error:
        raise ValueError(str(error)) from error


class OmeroSource(SourceBase):
    """The options are those of the commands with ``--omero``."""

    omero: str
    server: str | None = None
    user: str | None = None
    group: str | None = None
    labels: Texts = ()
    plane: Plane | None = None
    cache: str | None = None
    cache_size: ByteSize | None = None
    repository: str | None = None
    beside: bool = False
    rois: Annotated[int | None, Field(ge=1)] = None
    rois_as: Literal["masks", "polygons"] = "masks"
    large_images: Literal["auto", "tiles", "import", "zarr"] = "auto"
    as_owner: bool = False
    verify_server: bool = False
    ca_file: str | None = None

    @field_validator("omero")
    @classmethod
    def _names_images(cls, value: str) -> str:
        _understood(value, lambda text: Place.parse(text, Server("named elsewhere")))
        return value

    @field_validator("labels")
    @classmethod
    def _names_cells(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            _understood(text, CellSource.parse)
        return value

    @field_validator("rois_as")
    @classmethod
    def _goes_with_rois(cls, value: str, told: ValidationInfo) -> str:
        if told.data.get("rois") is None:
            raise ValueError("goes with rois, the number of outlines that may be written")
        return value

    @field_validator("cache_size", mode="before")
    @classmethod
    def _has_unit(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, str) and value.strip()[-1:].isalpha()):
            raise ValueError("needs a unit, as in 50GB")
        return value


Source = ProjectSource | FilesSource | OmeroSource
SOURCES: dict[str, type[Source]] = {"project": ProjectSource, "files": FilesSource, "omero": OmeroSource}


class _Top(Strict):
    """The job file as a whole; sources and tasks are read by their own kind."""

    name: str | None = None
    runs: str = "runs"
    ledger: str | None = None
    publish: bool = True
    on_error: Literal["go on", "stop"] = "go on"
    limits: Limits = Limits()
    normalization: Freezing = Freezing()
    source: list[dict[str, Any]] = []
    task: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Job:
    """A checked job. path: of its file; runs, ledger: folders. sources: by name, tasks: in their order."""

    path: Path
    name: str
    runs: Path
    ledger: Path
    publish: bool
    stop_on_error: bool
    limits: Limits
    normalization: Freezing
    sources: dict[str, Source]
    tasks: tuple[TaskSpec, ...]

    @property
    def folder(self) -> Path:
        return self.path.parent


def load_job(path: Path, environment: Mapping[str, str] | None = None) -> Job:
    """Read and check a job file. Raises SourceError, JobError; models and images are not looked at."""
    text = read_job_text(path, environment)
    for key in ("source", "task"):
        if isinstance(text.document.get(key), dict):
            raise text.error((key,), "there may be several", hint=f"Write [[{key}]] instead of [{key}]")
    top = _checked(_Top, text.document, text, ())
    if not top.source:
        raise text.error((), "names no images", hint="Add a [[source]] with project, files or omero")
    if not top.task:
        raise text.error(
            (), "asks for nothing", hint=f'Add a [[task]] with do = "score" (there is: {", ".join(VERBS)})'
        )
    name = top.name or text.path.stem
    _check_name(text, ("name",), name)
    return Job(
        path=text.path,
        name=name,
        runs=text.folder / Path(top.runs).expanduser(),
        ledger=text.folder / Path(top.ledger or f"{text.path.stem}.ledger").expanduser(),
        publish=top.publish,
        stop_on_error=top.on_error == "stop",
        limits=top.limits,
        normalization=top.normalization,
        sources=dict(_sources(text, top.source)),
        tasks=tuple(_tasks(text, top)),
    )


def _sources(text: JobText, tables: list[dict[str, Any]]) -> Iterator[tuple[str, Source]]:
    taken: set[str] = set()
    for number, table in enumerate(tables):
        at: toml_lines.Path = ("source", number)
        kinds = [kind for kind in SOURCES if kind in table]
        if len(kinds) != 1:
            said = " and ".join(kinds) if kinds else "none of them"
            raise text.error(at, f"needs one of {', '.join(SOURCES)}, has {said}")
        source = _checked(SOURCES[kinds[0]], table, text, at)
        name = source.name or (kinds[0] if len(tables) == 1 else f"{kinds[0]} {number + 1}")
        _check_name(text, (*at, "name"), name)
        if name in taken:
            raise text.error((*at, "name"), f"another source is called {name!r}")
        taken.add(name)
        yield name, source


def _tasks(text: JobText, top: _Top) -> Iterator[TaskSpec]:
    before: dict[str, TaskSpec] = {}
    for number, table in enumerate(top.task):
        at: toml_lines.Path = ("task", number)
        do = table.get("do")
        if do is None:
            raise text.error((*at, "do"), "is missing", hint=f"There is: {', '.join(VERBS)}")
        if not isinstance(do, str) or do not in VERBS:
            raise text.error((*at, "do"), f"there is no task {do!r}", hint=f"There is: {', '.join(VERBS)}")
        spec = _task(text, at, VERBS[do], table, before, top)
        if spec.name.casefold() in (name.casefold() for name in before):
            raise text.error((*at, "name"), f"another task is called {spec.name!r}", hint="Give each its own name")
        before[spec.name] = spec
        yield spec


def _task(
    text: JobText, at: toml_lines.Path, verb: Verb, table: dict[str, Any], before: Mapping[str, TaskSpec], top: _Top
) -> TaskSpec:
    renamed = {verb.also.get(key, key): key for key in table}
    if len(renamed) < len(table):
        twice = next(key for key in table if key in verb.also and verb.also[key] in table)
        raise text.error((*at, twice), f"means the same as {as_written(verb.also[twice])}, which is there too")
    given = {field: table[key] for field, key in renamed.items()}
    fields = _checked(verb.fields, given, text, at, renamed)
    name = fields.name or verb.do
    _check_name(text, (*at, "name"), name)
    after = fields.after
    for earlier in after or ():
        if earlier not in before:
            there = ", ".join(before) or "nothing"
            raise text.error(
                (*at, "after"), f"no earlier task is called {earlier!r}", hint=f"Before it there is: {there}"
            )
    try:
        options, model, chosen = options_of(verb, fields, text.folder)
    except UsageError as error:
        key = re.search(r"--([a-z-]+)", error.message)
        where = (*at, key[1].replace("-", "_")) if key else at
        raise text.error(where, error.message, hint=error.hint) from error
    return TaskSpec(
        name=name,
        verb=verb,
        options=options,
        model=model,
        after=tuple(spec.name for spec in before.values() if spec.verb.makes_channels) if after is None else after,
        publish=top.publish if fields.publish is None else fields.publish,
        given=chosen,
        inputs=getattr(fields, "inputs", None) or (),
        engine={key: value for key in ("device", "precision", "tile", "workers") if (value := getattr(fields, key))},
    )


def _check_name(text: JobText, at: toml_lines.Path, name: str) -> None:
    if not NAME.fullmatch(name):
        raise text.error(at, f"{name!r} is no name", hint="Use letters, digits, spaces, . _ and -")


M = TypeVar("M", bound=BaseModel)


def _checked(
    kind: type[M], table: dict[str, Any], text: JobText, at: toml_lines.Path, renamed: Mapping[str, str] | None = None
) -> M:
    """Raises JobError for the first thing that is wrong, in the order of the lines."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        found = []
        for one in error.errors(include_url=False):
            path = tuple(part for part in one["loc"] if isinstance(part, int) or re.fullmatch(r"\w+", part))
            path = ((renamed or {}).get(str(path[0]), path[0]), *path[1:]) if path else ()
            found.append((toml_lines.line_of(text.lines, (*at, *path)) or 0, (*at, *path), one))
        _, where, one = min(found, key=lambda f: f[0])
        if one["type"] == "extra_forbidden":
            raise text.unknown(where, _known(kind, where[len(at) :])) from None
        if one["type"] == "missing":
            raise text.error(where, "is missing") from None
        raise text.error(where, _plainly(one)) from None


def _known(kind: type[BaseModel], path: toml_lines.Path) -> list[str]:
    """The keys that a table may have."""
    for part in path[:-1]:
        inside = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        if isinstance(inside, type) and issubclass(inside, BaseModel):
            kind = inside
    return list(kind.model_fields)


def _plainly(error: Any) -> str:
    """What pydantic says, as people say it."""
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (it is {given!r})" if isinstance(given, str | int | float) and repr(given) not in message else ""
    return f"{message[:1].lower()}{message[1:]}{shown}"
