"""Thresholds that people's own calls gave (``mxbridge calibrate``), kept until the scores they were made for change.

A file holds one entry per model, marker and scoring rule. A later run uses an entry only when its scores come about the same
way: other weights, another normalisation or another augmentation make other scores, and their thresholds mean nothing then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mxbridge.errors import BrokenFile, OutputError, SourceError, UsageError
from mxbridge.formats.atomic import make_folder
from mxbridge.formats.exchange import Seen, read_seen, replace_seen
from mxbridge.formats.json_files import parse_json
from mxbridge.models.normalization import Normalization
from mxbridge.runs import Run, digest
from mxbridge.tasks.threshold_fit import Interval

if TYPE_CHECKING:
    from mxbridge.workspaces.base import Workspace

MARK = "mxbridge_thresholds"
FORMAT = 1
NAME = "thresholds.json"
LIMIT = 16 * 1024**2
DEFAULT = 0.5
"""Where nothing else is said: Nimbus was trained to part cells there."""


@dataclass(frozen=True)
class ScoringRule:
    """What has to be the same for two runs to score alike.

    quantile: None where factors were given that do not say how they came about; ``normalize`` then says which they are.
    """

    weights_sha256: str
    tta: bool
    compat: str | None
    normalize: str
    quantile: float | None

    @classmethod
    def of_run(cls, run: Run) -> ScoringRule:
        """The rule of a finished run, from its record. Raises BrokenFile."""
        try:
            weights, tta, compat = run.model["weights_sha256"], run.options["tta"], run.options["compat"]
            if not isinstance(weights, str) or not isinstance(tta, bool) or not isinstance(compat, str | None):
                raise ValueError("weights, augmentation or compat of another kind")
        except (KeyError, ValueError) as error:
            raise BrokenFile(run.path / "run.json", f"is not the record of a scoring run ({error})") from error
        factors = Normalization.load(run.path / "normalization.json")
        return cls(weights, tta, compat, cls.kind_of(factors), factors.quantile)

    @staticmethod
    def kind_of(factors: Normalization) -> str:
        """How factors are shared by images, and, where nothing says how they were measured, their numbers."""
        if factors.quantile is not None:
            return factors.mode
        return f"{factors.mode} {digest([sorted(factors.factors.items()), factors.per_image])[:16]}"

    def unlike(self, other: ScoringRule) -> str:
        """What differs, for people; empty when nothing does."""
        words = {
            "weights_sha256": "other weights",
            "tta": "another augmentation (--tta)",
            "compat": "another --compat",
            "normalize": "another kind of normalisation",
            "quantile": "another normalisation quantile",
        }
        return ", ".join(words[f.name] for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))


@dataclass(frozen=True)
class Calibrated:
    """One threshold and where it comes from. runs: ids of the runs whose scores were used; images: names of the images.

    before: the threshold until then. f1_before, f1_after: at both, on the cells the threshold was fitted on.
    """

    model: str
    marker: str
    threshold: float
    interval: Interval
    rule: ScoringRule
    auroc: float
    auroc_interval: Interval
    balanced_accuracy: float
    before: float
    f1_before: float
    f1_after: float
    positive: int
    negative: int
    conflicts: int
    unscored: int
    images: tuple[str, ...]
    runs: tuple[str, ...]
    made: str

    @property
    def words(self) -> str:
        return f"{self.threshold:.4g} ({self.made[:10]}, {self.positive} + {self.negative} cells)"


@dataclass(frozen=True)
class ThresholdsFile:
    """A file of calibrated thresholds as it was read; unknown keys in it survive."""

    path: Path
    entries: tuple[Calibrated, ...] = ()
    document: dict[str, Any] = field(default_factory=lambda: {MARK: FORMAT, "thresholds": []})
    seen: Seen | None = None
    before: bytes | None = None

    @classmethod
    def read(cls, path: Path, *, missing: bool = False) -> ThresholdsFile:
        """missing: a file that is not there is an empty one. Raises SourceError, BrokenFile."""
        if missing and not path.exists():
            return cls(path)
        data, seen = read_seen(path, LIMIT)
        document = parse_json(data, path)
        if document.get(MARK) != FORMAT:
            what = "written by another version of mxbridge" if MARK in document else "is no file of thresholds"
            raise BrokenFile(path, what, hint="mxbridge calibrate makes one")
        try:
            entries = tuple(_entry(raw) for raw in document["thresholds"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BrokenFile(
                path, f"holds a threshold that makes no sense ({error})", hint="Mend or remove it"
            ) from error
        return cls(path, entries, document, seen, data)

    def put(self, new: Iterable[Calibrated]) -> ThresholdsFile:
        """Write the new entries in place of those for the same model, marker and rule; all others stay.

        Raises ChangedMeanwhile, OutputError.
        """
        new = list(new)
        replaced = {(e.model, e.marker, e.rule) for e in new}
        kept = [
            raw
            for raw, e in zip(self.document["thresholds"], self.entries, strict=True)
            if (e.model, e.marker, e.rule) not in replaced
        ]
        document = {**self.document, "thresholds": [*kept, *(asdict(e) for e in new)]}
        data = (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        make_folder(self.path.parent)
        seen = replace_seen(self.path, data, self.seen, verify=self._verify, backup=self.before)
        return replace(
            self,
            entries=tuple(_entry(raw) for raw in document["thresholds"]),
            document=document,
            seen=seen,
            before=data,
        )

    def of(self, model: str, rule: ScoringRule) -> dict[str, Calibrated]:
        """The entries by marker that hold for a model and a way of scoring."""
        return {e.marker: e for e in self.entries if e.model == model and e.rule == rule}

    def stale(self, model: str, rule: ScoringRule, markers: Sequence[str]) -> list[str]:
        """One line for every marker that has only thresholds made for other scores."""
        valid = self.of(model, rule)
        return [
            f"the calibrated threshold of {e.marker}, {e.words}, is not used: it was made for {e.rule.unlike(rule)}"
            for e in {e.marker: e for e in self.entries if e.model == model}.values()
            if e.marker in markers and e.marker not in valid
        ]

    def _verify(self, data: bytes) -> None:
        try:
            for raw in parse_json(data, self.path)["thresholds"]:
                _entry(raw)
        except (BrokenFile, KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{self.path}: what was written does not read back ({error})") from error


def project_thresholds(workspace: Workspace) -> Path | None:
    """Where a project keeps its thresholds; None where there is no project."""
    from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

    return workspace.own_folder / NAME if isinstance(workspace, QuPathWorkspace) else None


def stored_thresholds(workspace: Workspace, given: Path | None, threshold: float | None) -> ThresholdsFile | None:
    """The thresholds a run should use: those given, else the project's, none where ``threshold`` says it outright.

    Raises UsageError, SourceError, BrokenFile.
    """
    if threshold is not None:
        if given is not None:
            raise UsageError("--threshold and --thresholds say two things", hint="Leave one out")
        return None
    if given is not None:
        if not given.exists():
            raise SourceError(f"no thresholds at {given}", hint="mxbridge calibrate makes them")
        return ThresholdsFile.read(given)
    own = project_thresholds(workspace)
    return ThresholdsFile.read(own) if own is not None and own.is_file() else None


def _entry(raw: Any) -> Calibrated:
    """One entry from JSON. Raises KeyError, TypeError, ValueError, OverflowError."""
    known = {f.name: raw[f.name] for f in fields(Calibrated)}
    rule = {f.name: known["rule"][f.name] for f in fields(ScoringRule)}
    if not all(isinstance(known[k], str) for k in ("model", "marker", "made")):
        raise ValueError("model, marker or time is no text")
    if not isinstance(rule["weights_sha256"], str) or not isinstance(rule["tta"], bool):
        raise ValueError(f"{known['marker']}: the rule of scoring is none")
    numbers = {k: float(known[k]) for k in ("auroc", "balanced_accuracy", "before", "f1_before", "f1_after")}
    counts = {k: int(known[k]) for k in ("positive", "negative", "conflicts", "unscored")}
    intervals = {k: _interval(known[k]) for k in ("interval", "auroc_interval")}
    names = {k: tuple(str(n) for n in known[k]) for k in ("images", "runs")}
    threshold = float(np.float32(known["threshold"]))
    if not 0 < threshold < 1:
        raise ValueError(f"{known['marker']}: {threshold:g} is not between 0 and 1")
    return Calibrated(
        **{**known, **numbers, **counts, **intervals, **names, "threshold": threshold, "rule": ScoringRule(**rule)}
    )


def _interval(raw: Any) -> Interval:
    low, high = raw
    return float(low), float(high)
