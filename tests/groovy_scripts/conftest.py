"""Scripts for QuPath, run by the very Groovy that QuPath has, on stand-ins for its classes: one JVM for all cases of a module."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent.parent / "groovy"
SHARED = SCRIPTS / "shared" / "Mxbridge.groovy"
ALL = [*sorted(SCRIPTS.glob("mxbridge_*.groovy")), *sorted(SHARED.parent.glob("*.groovy"))]
COMPILED = HERE / "compiled" / "Mxbridge.groovy"
"""What most cases load instead of the shared logic: the same class, but not parsed anew for each of them."""

JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-Dsun.jnu.encoding=UTF-8")


@dataclass(frozen=True)
class Groovy:
    """java: the program. classpath: of Groovy and whatever it is to find."""

    java: str
    classpath: str

    def run(self, *words: str, seconds: float = 240) -> None:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONHOME": "/nowhere"}
        done = subprocess.run(
            [self.java, *JVM, "-cp", self.classpath, *words],
            env=environment, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="session")
def groovy() -> Groovy:
    """Java and Groovy's jars: MXBRIDGE_TEST_GROOVY, or where ``make test`` puts them."""
    folder = Path(os.environ.get("MXBRIDGE_TEST_GROOVY", SCRIPTS.parent / ".venv/groovy/package/lib/java/groovy/lib"))
    jars = sorted(folder.glob("groovy-4*.jar")) + sorted(folder.glob("groovy-json-4*.jar"))
    if len(jars) < 2:
        pytest.skip(f"no Groovy 4 in {folder.name} (set MXBRIDGE_TEST_GROOVY to a folder with groovy-*.jar)")
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java") or (home and shutil.which(str(Path(home, "bin/java"))))
    if not java:
        pytest.skip("no Java (17 or later)")
    return Groovy(java, os.pathsep.join(map(str, jars)))


@pytest.fixture(scope="session")
def doubles(groovy: Groovy, tmp_path_factory: pytest.TempPathFactory) -> Groovy:
    """The same with the stand-ins for QuPath's classes, and the shared logic, compiled."""
    out = tmp_path_factory.mktemp("doubles")
    sources = [
        *sorted(map(str, (HERE / "doubles").rglob("*.groovy"))),
        *sorted(map(str, SHARED.parent.glob("*.groovy"))),
    ]
    groovy.run("org.codehaus.groovy.tools.FileSystemCompiler", "--encoding", "UTF-8", "-d", str(out), *sources)
    return Groovy(groovy.java, os.pathsep.join([groovy.classpath, str(out)]))


def literal(value: Any) -> str:
    """As it stands in the settings of a script."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return "'" + "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in escaped) + "'"


def button(folder: Path, name: str, **settings: Any) -> str:
    """A copy of a script with other settings; every one of them must be there. Returns its path."""
    text = (SCRIPTS / f"mxbridge_{name}.groovy").read_text(encoding="utf-8")
    for key, value in {"shared": str(COMPILED), **settings}.items():
        text, count = re.subn(rf"(?m)^def {key} = .*$", lambda _, k=key, v=value: f"def {k} = {literal(v)}", text)
        assert count == 1, f"{name} has no setting {key}"
    path = folder / f"mxbridge_{name}.groovy"
    path.write_text(text, encoding="utf-8")
    return str(path)


@dataclass
class Place:
    """A folder with a project, a program that stands in for mxbridge, and what that program is to do."""

    folder: Path
    behaviour: dict[str, Any] = field(default_factory=dict)
    entry: str = "2"

    @property
    def project(self) -> Path:
        return self.folder / "Projekt µ ü" / "project.qpproj"

    @property
    def data(self) -> Path:
        return self.project.parent / "data" / self.entry / "data.qpdata"

    def make(self, *, data: str | None = "there", project: bool = True) -> Place:
        """data: content of the entry's data.qpdata, None for none."""
        self.project.parent.mkdir(parents=True)
        if project:
            self.project.write_text("{}")
        if data is not None:
            self.data.parent.mkdir(parents=True)
            self.data.write_text(data)
        return self

    @property
    def python(self) -> str:
        """The program, with its behaviour as it is now."""
        path = self.folder / "behaviour.json"
        path.write_text(json.dumps(self.behaviour), encoding="utf-8")
        program = self.folder / "python of mine"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -E -S "{HERE / "fake_mxbridge.py"}" "{path}" "$@"\n')
        program.chmod(0o755)
        return str(program)

    @property
    def asked(self) -> list[dict[str, Any]]:
        log = self.folder / "asked.jsonl"
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []

    def case(self, name: str, script: dict[str, Any] | None = None, **told: Any) -> dict[str, Any]:
        """One case for the driver: a script with these settings on what is told of the image."""
        settings = {"python": self.python, **(script or {})}
        return {
            "project": str(self.project),
            "id": self.entry,
            "button": button(self.folder, name, **settings),
            **told,
        }


Play = Callable[[dict[str, dict[str, Any]]], dict[str, dict[str, Any]]]


@pytest.fixture(scope="session")
def play(doubles: Groovy, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Run cases, all in one JVM: what became of each."""

    def run(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("cases")
        (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
        doubles.run("Driver", str(folder / "cases.json"), str(folder / "results.json"))
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))

    return run


def lines_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write_exchange(path: Path, lines: list[dict[str, Any]], **header: Any) -> Path:
    """lines: from the header to the end. header: what is to be another."""
    lines = [{**lines[0], **header}, *lines[1:]]
    with gzip.open(path, "wt", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def handed_over(place: Place, file: Path | None, run: Path | str = "/run", **more: Any) -> dict[str, Any]:
    """What ``mxbridge qupath hand-over`` answers for the one image of a place."""
    image = {
        "id": place.entry,
        "name": "image µ",
        "file": file and str(file),
        "cells_gone": 0,
        "notes": [],
        "error": None,
    }
    return {"answer": {"run": Path(run).name, "images": [{**image, **more}]}}


def scored(run: Path | str = "/run", **more: Any) -> dict[str, Any]:
    """What a task answers. more: of its image."""
    return {
        "answer": {
            "run": Path(run).name,
            "folder": str(run),
            "images": [{"id": "2", "status": "computed", "error": None, **more}],
        }
    }
