"""From agreements to verdicts: all markers of all images of a run are tested at once, and p-values corrected for that."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mxbridge.errors import BrokenFile
from mxbridge.formats.atomic import write_atomically
from mxbridge.metrics.agreement import ALPHA, BLOCK, FEWEST_BLOCKS, Range, corrected
from mxbridge.tasks.judging.causes import Cause

OK, FLAGGED, LOW_SIGNAL, NOT_JUDGED = "ok", "flagged", "low signal", "not judged"
SUSPECT = "suspect input"
"""Followed by the channels that are to blame."""
PART_FLAGGED = 0.2
"""Share of bad blocks from which a marker is flagged although the image as a whole agrees."""
CORRECTION = "Benjamini-Hochberg"
FOUND = "qc.json"


@dataclass(frozen=True)
class Found:
    """What was seen of one marker with one model in one image; NaN where there is nothing to say.

    agreement: median over blocks. pearson: over all pixels of the blocks used. bad_blocks: called bad among them.
    why_not: why it cannot be judged. dead: why the channel can hold no stain. broken: because it holds no numbers.
    odd: how its brightness is unlike training.
    cause: the channels without which it agrees. hangs_on: channels that are bad or suspicious themselves and without which the
    model cannot tell.
    """

    model: str
    weights: str
    marker: str
    agreement: float = math.nan
    pearson: float = math.nan
    used: int = 0
    skipped: int = 0
    bad_blocks: int = 0
    why_not: str = ""
    dead: str = ""
    odd: str = ""
    cause: Cause | None = None
    hangs_on: tuple[str, ...] = ()
    broken: bool = False


def is_patchy(found: Found) -> bool:
    """Whether so much of a stain does not agree that it is flagged whatever the rest of the image says."""
    return found.bad_blocks >= FEWEST_BLOCKS and found.bad_blocks >= PART_FLAGGED * found.used


def save_found(found: Sequence[Found], folder: Path) -> None:
    rows = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(f).items()} for f in found]
    with write_atomically(folder / FOUND) as part:
        part.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8", errors="backslashreplace")


def load_found(folder: Path) -> list[Found]:
    """Raises BrokenFile."""
    path = folder / FOUND
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_found(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BrokenFile(path, f"is no result of qc ({error})", hint="Run again with --restart") from error


def _found(row: dict[str, Any]) -> Found:
    """Raises ValueError, TypeError, KeyError."""
    cause = row.pop("cause")
    if cause is not None:
        cause = Cause(tuple(cause["channels"]), float(cause["before"]), float(cause["after"]))
    numbers = {name: math.nan if row[name] is None else float(row[name]) for name in ("agreement", "pearson")}
    return Found(**{**row, **numbers, "hangs_on": tuple(row["hangs_on"]), "cause": cause})


class Tested(NamedTuple):
    """Everything about one marker of one image. image: its position in the run. p, q: before and after correction."""

    image: int
    found: Found
    range: Range | None
    p: float
    q: float
    rank: bool
    """Whether p is a rank among the validation's windows; else it comes from a normal distribution fitted to them."""

    @property
    def bad(self) -> bool:
        of = self.range
        return of is not None and bool(of.bad(np.array(self.found.agreement), np.array(self.q), of.windows))

    @property
    def fails(self) -> bool:
        """As a whole or in places."""
        return self.bad or (self.range is not None and is_patchy(self.found))


@dataclass(frozen=True)
class Row:
    """One line of the table: how one marker of one image was judged. agreement_without: without the suspect input."""

    image: str
    image_id: str
    marker: str
    model: str
    verdict: str
    reason: str
    agreement: float
    expected_low: float
    expected_high: float
    p: float
    p_corrected: float
    p_from: str
    pearson: float
    agreement_without: float
    blocks_used: int
    blocks_skipped: int
    blocks_bad: int

    @property
    def is_flag(self) -> bool:
        return self.verdict == FLAGGED or self.verdict.startswith(SUSPECT)


def judge(
    images: Sequence[tuple[str, str]],
    found: Sequence[Sequence[Found]],
    ranges: Mapping[tuple[str, str], Range],
) -> list[Row]:
    """images: (name, id). found: per image. ranges: by sha256 of the weights and marker."""
    rows = []
    tested: list[list[Tested]] = [[] for _ in images]
    for t in _tested(found, ranges):
        tested[t.image].append(t)
    for (name, image_id), own in zip(images, tested, strict=True):
        blamed: dict[str, dict[str, None]] = {}  # a marker that two models judge is named once
        for t in own:
            for channel in t.found.cause.channels if t.fails and t.found.cause else ():
                blamed.setdefault(channel, {})[t.found.marker] = None
        wrong = {t.found.marker for t in own if t.found.dead or t.found.odd} | set(blamed)
        rows += [_row(name, image_id, t, list(blamed.get(t.found.marker, ())), wrong) for t in own]
    return rows


def tests_of(found: Sequence[Sequence[Found]]) -> int:
    """How many agreements are tested."""
    return sum(math.isfinite(f.agreement) and not f.why_not for one in found for f in one)


def _tested(found: Sequence[Sequence[Found]], ranges: Mapping[tuple[str, str], Range]) -> list[Tested]:
    tests = tests_of(found)
    rows: list[Tested] = []
    for number, one in enumerate(found):
        for f in one:
            known = ranges.get((f.weights, f.marker)) if not f.why_not else None
            p = float(known.windows.p_values(np.array(f.agreement), tests)) if known else math.nan
            rank = known.windows.ranks_reach(tests) if known else False
            rows.append(Tested(number, f, known, p, math.nan, rank))
    q = corrected(np.array([row.p for row in rows]))
    return [row._replace(q=float(value)) for row, value in zip(rows, q, strict=True)]


def _row(image: str, image_id: str, t: Tested, victims: Sequence[str], wrong: Collection[str]) -> Row:
    f = t.found
    verdict, reason = _verdict(t, victims, wrong)
    low, high = t.range.expected if t.range else (math.nan, math.nan)
    source = "" if not math.isfinite(t.p) or t.range is None else f"{t.range.windows.count} windows"
    return Row(
        image=image,
        image_id=image_id,
        marker=f.marker,
        model=f.model,
        verdict=verdict,
        reason=reason,
        agreement=f.agreement,
        expected_low=low,
        expected_high=high,
        p=t.p,
        p_corrected=t.q,
        p_from=source and f"{'rank among' if t.rank else 'normal fit to'} {source}",
        pearson=f.pearson,
        agreement_without=f.cause.after if f.cause and verdict.startswith(SUSPECT) else math.nan,
        blocks_used=f.used,
        blocks_skipped=f.skipped,
        blocks_bad=f.bad_blocks,
    )


def _verdict(t: Tested, victims: Sequence[str], wrong: Collection[str]) -> tuple[str, str]:
    """Verdict and why. A channel that holds nothing is bad whatever else; then agreement, and inputs before the target."""
    f = t.found
    if f.dead and (t.range is None or f.broken or f.used >= FEWEST_BLOCKS):
        return FLAGGED, f.dead
    if t.range is None:
        return (FLAGGED, _blame(victims)) if victims else (NOT_JUDGED, "; ".join(w for w in (f.why_not, f.odd) if w))
    if f.used < FEWEST_BLOCKS:
        return LOW_SIGNAL, _little_signal(f)
    if t.fails:
        return _whose_fault(t, victims, wrong)
    if victims:
        return FLAGGED, _blame(victims)
    return OK, f.odd or ("low, but not for so many tests" if t.p <= ALPHA < t.q else "")


def _little_signal(f: Found) -> str:
    some = f"{f.used} of {f.used + f.skipped} blocks have signal"
    return (some if f.used + f.skipped else f"no block of {BLOCK} px has enough pixels") + (
        f"; {f.dead}" if f.dead else ""
    )


def _whose_fault(t: Tested, victims: Sequence[str], wrong: Collection[str]) -> tuple[str, str]:
    """Of a marker that does not agree. victims: that agree without it. wrong: channels that are bad whatever this one is."""
    f = t.found
    if f.cause:
        what = f"agrees again without it: {f.cause.before:.2f} -> {f.cause.after:.2f} where that was tried"
        if not t.bad:
            what = f"{f.bad_blocks} of {f.used} blocks do not agree, most of them again without it"
        return f"{SUSPECT} {', '.join(f.cause.channels)}", what
    inputs = [channel for channel in f.hangs_on if channel in wrong]
    if inputs and not victims and not f.odd:
        return f"{SUSPECT} {', '.join(inputs)}", "without it the model cannot tell"
    expected = t.range.expected[0] if t.range else math.nan
    whole = f"agreement {f.agreement:.2f}, expected {expected:.2f} or more"
    reasons = [whole if t.bad else f"{f.bad_blocks} of {f.used} blocks do not agree"]
    reasons += [f.odd] if f.odd else []
    reasons += [_blame(victims)] if victims else []
    if f.hangs_on and not victims and not f.odd:
        reasons.append(f"or {', '.join(f.hangs_on)} failed: the model hardly tells it without")
    return FLAGGED, "; ".join(reasons)


def _blame(victims: Sequence[str]) -> str:
    return f"{', '.join(victims)} agree{'s' if len(victims) == 1 else ''} again without it"
