"""Ask a real QuPath what it reads from the images of a project: one after the other, each within a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxbridge.errors import MxbridgeError, SourceError
from mxbridge.workspaces.qupath import qupath_process
from mxbridge.workspaces.qupath.compare import ImageFacts, ObjectFacts

FAILURES = 3
"""Hangs and crashes after which nothing more is asked."""

BYTES_PER_SECOND = 1 << 20
"""Slowest reading of ``data.qpdata`` that counts as reading (a quiet machine reads 8 MB a second)."""


@dataclass(frozen=True)
class Question:
    """An entry to look at. uris: where its files are now, by the URI the project stores. size: bytes of its objects."""

    id: int
    uris: Mapping[str, str] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True)
class EntryFacts:
    """name: of the entry. image_type: FLUORESCENCE, UNSET, ... image: None where QuPath cannot open it, and why."""

    name: str | None
    image_type: str
    image: ImageFacts | None
    why_no_image: str = ""


Take = Callable[[int, EntryFacts, Iterator[ObjectFacts]], None]


def ask_about(project: Path, questions: Sequence[Question], take: Take) -> tuple[str, dict[int, str]]:
    """Start QuPath and hand what it reads of each entry to ``take``: its id, the entry, its objects (to be used up there).

    Returns the version of QuPath, and why entries could not be read: the error of QuPath, or that it hung or crashed;
    then the next entry is read by a new process. Raises SourceError when there is no QuPath or it does not start.
    """
    if reason := qupath_process.why_not():
        raise SourceError(f"no real QuPath to compare with: {reason}", hint=qupath_process.HOW_TO_GET)
    failed: dict[int, str] = {}
    waiting = list(questions)
    version, failures = "", 0
    while waiting and failures < FAILURES:
        with qupath_process.QuPathProcess() as process:
            version = process.version
            while waiting:
                question = waiting.pop(0)
                try:
                    _ask(process, project, question, take)
                except _Refused as refusal:
                    failed[question.id] = f"QuPath cannot read it: {refusal.message}"
                except SourceError as error:
                    failed[question.id] = error.message
                    failures += 1
                    break
    failed |= {q.id: f"not compared: QuPath failed on {failures} images before it" for q in waiting}
    return version, failed


class _Refused(MxbridgeError):
    """QuPath answers, and says no."""


def _ask(process: qupath_process.QuPathProcess, project: Path, question: Question, take: Take) -> None:
    uris = dict(question.uris)
    process.send({"ask": "entry", "project": str(project), "id": question.id, "uris": uris})
    answer = _answer(process, qupath_process.ANSWER_SECONDS + question.size / BYTES_PER_SECOND)
    with _Understood():
        told = answer["entry"]
        image = ImageFacts.of_json(told["server"]) if "server" in told else None
        entry = EntryFacts(
            told["name"], str(told["type"]), None if "error" in told else image, str(told.get("error", ""))
        )
    objects = _objects(process)
    take(question.id, entry, objects)
    for _ in objects:  # whatever is left would be taken for the next answer
        pass


def _objects(process: qupath_process.QuPathProcess) -> Iterator[ObjectFacts]:
    while True:
        answer = _answer(process, qupath_process.ANSWER_SECONDS)
        if "end" in answer:
            return
        with _Understood():
            found = [ObjectFacts.of_json(o) for o in answer["objects"]]
        yield from found


def _answer(process: qupath_process.QuPathProcess, seconds: float) -> dict[str, Any]:
    answer, _ = process.receive(seconds)
    if "error" in answer:
        raise _Refused(str(answer["error"]))
    return answer


class _Understood:
    """Turns what a malformed answer raises into an error of the process."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
            raise SourceError(f"QuPath's process sent an answer nobody understands ({error})") from error
