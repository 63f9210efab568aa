"""The tasks a job may ask for, and how each is made for one image: the options are those of the commands of the same names.

An option of a task is a field of its option class; what is not one is refused. Models are opened once for all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from mxbridge.errors import ModelError
from mxbridge.models import catalogue
from mxbridge.models.maxim import Maxim
from mxbridge.models.nimbus import Nimbus
from mxbridge.runs import digest
from mxbridge.stream.engine import Engine
from mxbridge.tasks.impute import ImputeOptions, ImputeTask
from mxbridge.tasks.imputing.open_models import open_imputation_models
from mxbridge.tasks.over_images import ImageTask
from mxbridge.tasks.qc import QcOptions, QcTask
from mxbridge.tasks.score import ScoreOptions, ScoreTask
from mxbridge.tasks.translate import TranslateTask
from mxbridge.tasks.translating import opening
from mxbridge.tasks.translating.options import TranslateOptions
from mxbridge.workspaces.base import Workspace


def _names(value: Any) -> Any:
    """``"CD3, CD8"`` and ``["CD3", "CD8"]`` are the same."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _some(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if value is not None and not (value and all(name.strip() for name in value)):
        raise ValueError("names nothing; leave it out for what is usual")
    return value


Names = Annotated[tuple[str, ...] | None, BeforeValidator(_names), AfterValidator(_some)]
NeededNames = Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)]
Before = Annotated[tuple[str, ...] | None, BeforeValidator(_names)]
Statistics = Annotated[
    Literal["tile", "slide"] | None, AfterValidator(lambda word: "window" if word == "tile" else word)
]
"""In the command's words."""


class TaskFields(BaseModel):
    """What every task has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    do: str
    name: str | None = None
    model: Any = None
    after: Before = None
    publish: bool | None = None
    device: str | None = None
    precision: str | None = None
    tile: int | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Verb:
    """One kind of task. options: its class. also: other names of settings. makes_channels: whether later tasks see what it made.

    several: takes several models. makes: of ``workspaces.base.MADE``. needs: names that must be there. more: settings that are no
    options, or are not written as the option is.
    """

    do: str
    options: type[Any]
    also: Mapping[str, str] = field(default_factory=dict)
    several: bool = False
    needs: tuple[str, ...] = ()
    makes_channels: bool = False
    makes: tuple[str, ...] = ("values",)
    more: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fields(self) -> type[TaskFields]:
        """What a ``[[task]]`` may say."""
        hints = get_type_hints(self.options)
        found: dict[str, Any] = {"model": (Names if self.several else str | None, None), **self.more}
        for one in (one for one in fields(self.options) if one.name not in self.more):
            kind = Names if get_origin(hints[one.name]) is tuple else hints[one.name] | None
            found[one.name] = (kind, None)
        found |= dict.fromkeys(self.needs, (NeededNames, ...))
        return create_model(f"task {self.do}", __base__=TaskFields, **found)


VERBS: dict[str, Verb] = {
    verb.do: verb
    for verb in (
        Verb("score", ScoreOptions, {"marker": "markers"}),
        Verb(
            "impute",
            ImputeOptions,
            {"marker": "markers"},
            several=True,
            needs=("markers", "model"),
            makes_channels=True,
            makes=("channels", "values"),
            more={"inputs": (Names, None)},
        ),
        Verb(
            "translate",
            TranslateOptions,
            {
                "noise_threshold": "noise",
                "large_noise_threshold": "large_noise",
                "size_threshold": "size",
            },
            makes=("channels", "objects"),
            more={"statistics": (Statistics, None)},
        ),
        Verb("qc", QcOptions, {"marker": "markers"}, several=True, needs=("model",)),
    )
}


@dataclass(frozen=True)
class TaskSpec:
    """One ``[[task]]``. options: made of its settings. model: names or paths. after: tasks that must be done before."""

    name: str
    verb: Verb
    options: Any
    model: tuple[str, ...]
    after: tuple[str, ...]
    publish: bool
    given: frozenset[str]
    """Names of the options that the job file sets."""
    inputs: tuple[str, ...]
    engine: Mapping[str, Any]

    @property
    def publishes(self) -> bool:
        """qc writes nothing beside its images."""
        return self.publish and self.verb.do != "qc"

    @property
    def freezes(self) -> bool:
        """Whether factors of a cohort of images are needed, and not given by the user."""
        return self.verb.do == "score" and self.options.normalization is None and self.options.normalize == "pooled"


def options_of(verb: Verb, given: TaskFields, folder: Path) -> tuple[Any, tuple[str, ...], frozenset[str]]:
    """The options and the models that a ``[[task]]`` names, and which options it sets; paths are relative to ``folder``.

    Raises UsageError.
    """
    chosen = {one.name: value for one in fields(verb.options) if (value := getattr(given, one.name)) is not None}
    for name, value in chosen.items():
        if isinstance(value, Path):
            chosen[name] = folder / value.expanduser()
    named = given.model
    models = () if named is None else (named,) if isinstance(named, str) else named
    return verb.options(**chosen), tuple(_placed(name, folder) for name in models), frozenset(chosen)


def _placed(model: str, folder: Path) -> str:
    """A model given by path is relative to the job file; anything else is a name."""
    beside = folder / Path(model).expanduser()
    return str(beside) if beside.exists() else model


@dataclass
class OpenTask:
    """A task of a job whose models are open. ``made_for`` gives it for one workspace."""

    spec: TaskSpec
    engine: Engine
    _scoring: dict[str, tuple[catalogue.ModelFile, Nimbus]] = field(default_factory=dict, init=False)
    _imputing: tuple[Maxim, ...] | None = field(default=None, init=False)

    @classmethod
    def of(cls, spec: TaskSpec) -> OpenTask:
        """Raises UsageError for settings of the engine that this machine does not have."""
        return cls(spec, Engine(**spec.engine))

    @property
    def name(self) -> str:
        return self.spec.name

    def cohort(self, workspace: Workspace) -> str:
        """Images with the same one share frozen factors: this task with these weights and this quantile."""
        model, quantile = self.scoring_model(workspace)
        return digest(["cohort", self.name, model.weights_sha256, quantile])

    def quantile(self, workspace: Workspace) -> float:
        return self.scoring_model(workspace)[1]

    def made_for(
        self, workspace: Workspace, seen: Workspace | None = None, normalization: Path | None = None
    ) -> ImageTask:
        """A fresh task, as the command makes it. seen: the workspace with what earlier tasks made, where a task looks into it
        by itself. normalization: of score tasks, the frozen factors. Raises MxbridgeError."""
        options, do = self.spec.options, self.spec.verb.do
        if do == "score":
            model, quantile = self.scoring_model(workspace)
            chosen = replace(options, quantile=quantile, normalization=normalization or options.normalization)
            return ScoreTask.for_workspace(workspace, model, self.engine, chosen)
        if do == "impute":
            models = self._imputation_models(options.compat, options.markers)
            return ImputeTask(models, self.engine, options)
        if do == "qc":
            return QcTask(self._imputation_models(None, ()), self.engine, options)
        name = self.spec.model[0] if self.spec.model else None
        return TranslateTask(opening.networks(seen or workspace, name, self.engine, options), options)

    def scoring_model(self, workspace: Workspace) -> tuple[Nimbus, float]:
        """The scoring model of a workspace and the quantile that counts."""
        name = self.spec.model[0] if self.spec.model else workspace.default_model or catalogue.OFFICIAL
        if name not in self._scoring:
            found = catalogue.resolve(name)
            if found.card.system != "nimbus":
                raise ModelError(f"{found.path}: a model of the system {found.card.system} scores no cells")
            self._scoring[name] = found, catalogue.open_model(found)
        found, model = self._scoring[name]
        set_by_user = "quantile" in self.spec.given
        return model, self.spec.options.quantile if set_by_user else found.card.normalization_quantile

    def _imputation_models(self, compat: str | None, outputs: tuple[str, ...]) -> tuple[Maxim, ...]:
        if self._imputing is None:
            opened = open_imputation_models(self.spec.model, compat=compat, inputs=self.spec.inputs, outputs=outputs)
            self._imputing = tuple(model for _, model in opened)
        return self._imputing
