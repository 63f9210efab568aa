"""Installing the OMERO client: which wheel is taken, what is changed in the source, and what people are told when it fails.

Nothing is built here; `mxbridge doctor --fix omero` was run for real on Python 3.11.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mxbridge.errors import InputError, SourceError
from mxbridge.progress import Progress
from mxbridge.tasks import omero_client as client
from mxbridge.tasks.zeroc_ice_source import CHANGES, apply_changes

ROOT = Path(__file__).resolve().parents[2]
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source in which every change has its place."""
    folder = tmp_path / "zeroc-ice-3.6.5"
    for change in CHANGES:
        path = folder / change.file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes().decode() if path.is_file() else "// first\r\n"
        path.write_bytes((before + f"before\n{change.old}after\n" * change.times).encode())
    return folder


@pytest.mark.parametrize("python", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_a_python_gets_the_changes_it_needs(source: Path, python: tuple[int, int]) -> None:
    changed = apply_changes(source, python)
    for change in CHANGES:
        text = (source / change.file).read_text()
        needed = python >= change.since
        assert text.count(change.old) == (0 if needed and change.old not in change.new else change.times)
        assert not needed or change.new.strip() in text
    assert ("lib/Ice.py" in changed, "src/Init.cpp" in changed) == (python >= (3, 12), python >= (3, 13))
    assert "requires" in (source / "pyproject.toml").read_text()


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_another_source_is_left_alone(source: Path, number: int) -> None:
    change = CHANGES[number]
    path = source / change.file
    path.write_text(path.read_text().replace(change.old, "something else", 1))
    before = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=f"{change.file} of the source of zeroc-ice is not that of version"):
        apply_changes(source, (3, 13))
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == before
    path.unlink()
    with pytest.raises(InputError, match=r"is not that of version"):
        apply_changes(source, (3, 13))


def test_the_build_script_stays_python(source: Path) -> None:
    (source / "setup.py").write_text("import os\nfrom setuptools import setup\n\nsetup(\n    name='zeroc-ice',\n)\n")
    apply_changes(source, (3, 11))
    code = compile((source / "setup.py").read_text(), "setup.py", "exec")
    assert "CCompiler" in code.co_names


def test_the_extra_is_what_is_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sorted(client.REQUIREMENTS) == sorted(extras["omero"])


class Ear(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def warning(self, text: str) -> None:
        self.told.append(f"warning: {text}")

    def step(self, name: str, done: int, total: int) -> None:
        self.told.append(f"{name} {done}/{total}")


class Environment:
    """Stands in for pip and for the Python that imports what pip installed. works: wheels that can be imported."""

    def __init__(self, works: Sequence[str] = (), pip: str | None = None) -> None:
        self.works, self.pip = works, pip
        self.installed: str | None = None
        self.commands: list[list[str]] = []

    def run(
        self, command: Sequence[str], *, takes: float, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        del takes, given
        words = [str(w) for w in command]
        self.commands.append(words)
        code, said = 0, ""
        if words[-1].startswith("import"):
            code = 0 if self.installed in self.works else 1
            said = "" if code == 0 else "ImportError: libssl.so.9 not found"
        elif "install" in words and words[-1].endswith(".whl"):
            self.installed = Path(words[-1]).name
        elif "pip" in words and self.pip is not None and "--version" not in words:
            code, said = 1, f"Traceback\nERROR: {self.pip}\n"
        return subprocess.CompletedProcess(words, code, said, "")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Environment]:
    """An environment without the client, whose wheels are kept in a temporary folder."""

    def make(**more: object) -> Environment:
        found = Environment(**more)  # type: ignore[arg-type]
        monkeypatch.setattr(client, "_run", found.run)
        monkeypatch.setattr(client, "what_is_missing", lambda: ["zeroc-ice", "omero-py"])
        monkeypatch.setattr(client, "build_home", lambda: tmp_path / "kept")
        return found

    return make


def wheel(folder: Path, build: str = "", tag: str = TAG) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"zeroc_ice-3.6.5-{build}{tag}-{tag}-linux_x86_64.whl"
    path.write_bytes(b"")
    return path


def test_a_ready_made_wheel_is_taken(environment: Callable[..., Environment], tmp_path: Path) -> None:
    bad, good = wheel(tmp_path / "wheels", "1-"), wheel(tmp_path / "wheels", "2-")
    wheel(tmp_path / "wheels", tag="cp39")
    here, ear = environment(works=[good.name]), Ear()
    done = client.install_client(tmp_path / "wheels", ear)
    assert done == [f"zeroc-ice installed from {good}", "the OMERO client is installed and can be imported"]
    assert f"warning: {bad} does not work here (ImportError: libssl.so.9 not found)" in ear.told
    last = next(words for words in reversed(here.commands) if "install" in words)
    assert set(client.REQUIREMENTS) < set(last) and str(ROOT / "constraints.txt") in last
    assert bad.exists(), "a folder of the user stays as it is"


def test_what_was_built_once_is_taken_again(
    environment: Callable[..., Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = wheel(tmp_path / "kept", "0-")
    built: list[Path] = []

    def build(home: Path, wheels: Path | None, progress: Progress) -> Path:
        built.append(wheel(home, "1-"))
        return built[-1]

    monkeypatch.setattr(client, "_build", build)
    environment(works=[f"zeroc_ice-3.6.5-1-{TAG}-{TAG}-linux_x86_64.whl"])
    assert "zeroc-ice built and installed" in client.install_client()[0]
    assert not stale.exists() and len(built) == 1
    environment(works=[built[0].name])
    assert client.install_client()[0] == f"zeroc-ice installed from {built[0]}"
    assert len(built) == 1


def test_nothing_to_do_and_nothing_to_do_it_with(
    environment: Callable[..., Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match=r"no folder .*nowhere"):
        client.install_client(tmp_path / "nowhere")
    environment(pip="No matching distribution found for zeroc-ice")
    monkeypatch.setattr(client, "check_tools", lambda: None)
    with pytest.raises(
        SourceError, match=r"source of zeroc-ice cannot be fetched .*No matching distribution"
    ) as caught:
        client.install_client()
    assert caught.value.exit_code == 4 and "--wheels" in caught.value.hint
    here = environment(works=[None])  # type: ignore[list-item]
    monkeypatch.setattr(client, "what_is_missing", list)
    assert client.install_client() == ["the OMERO client is here already"]
    assert all("pip" not in words for words in here.commands)


def test_an_archive_that_is_another_one(tmp_path: Path) -> None:
    name = "zeroc-ice-3.6.5.tar.gz"
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(InputError, match=r"is not the source of zeroc-ice 3.6.5 that is known"):
        client._source(tmp_path / "work", tmp_path, Progress())
    with pytest.raises(InputError, match=r"cannot be unpacked"):
        client.unpack(tmp_path / name, tmp_path / "to")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("../escaped")
        tar.addfile(member, io.BytesIO())
    with pytest.raises(InputError, match=r"cannot be unpacked"):
        client.unpack(tmp_path / "evil.tar.gz", tmp_path / "safe" / "to")
    assert not (tmp_path / "safe" / "escaped").exists()


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(client, "_can_include", lambda compiler, header: header == "Python.h")
    monkeypatch.setattr(client.shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(InputError, match=r"headers of OpenSSL and headers of bzip2 are missing") as caught:
        client.check_tools()
    for command in (
        "apt install libssl-dev libbz2-dev",
        "dnf install openssl-devel bzip2-devel",
        "conda install openssl bzip2",
    ):
        assert command in caught.value.hint
    monkeypatch.setattr(client.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"no C\+\+ compiler .* is here.*apt install g\+\+"):
        client.check_tools()
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InputError, match=r"not built on Windows.*--wheels"):
        client.check_tools()


def test_headers_are_really_looked_for(tmp_path: Path) -> None:
    compiler = client._compiler()
    if client.shutil.which(compiler[0]) is None:
        pytest.skip("needs a C++ compiler")
    assert client._can_include(compiler, "cstdio") and not client._can_include(compiler, "no/such/header.h")


def fake_pip(folder: Path, text: str) -> list[str]:
    program = folder / "pip.py"
    program.write_text(text)
    return [sys.executable, str(program)]


def test_a_build_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import pathlib, sys
for k in range(1, 4):
    print(f"  building: mxbridge-compiled {k} 3", flush=True)
folder = pathlib.Path(sys.argv[sys.argv.index("--wheel-dir") + 1])
folder.mkdir()
(folder / "zeroc_ice-3.6.5-x-x-x.whl").write_text("wheel")
"""
    monkeypatch.setattr(client, "_PIP", fake_pip(tmp_path, program))
    ear = Ear()
    built = client._compile(tmp_path, tmp_path / "built", tmp_path / "log", ear)
    assert built.name == "zeroc_ice-3.6.5-x-x-x.whl"
    assert ear.told[1:] == ["compiling 1/3", "compiling 2/3", "compiling 3/3"]


def test_a_build_that_fails_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "for k in range(5000): print(f'line {k} ' + 'x' * 5000)\nraise SystemExit(1)\n"
    monkeypatch.setattr(client, "_PIP", fake_pip(tmp_path, program))
    ear = Ear()
    with pytest.raises(InputError, match=r"could not be built; all that was said is in .*log") as caught:
        client._compile(tmp_path, tmp_path / "built", tmp_path / "log", ear)
    assert caught.value.exit_code == 6 and "--wheels" in caught.value.hint
    assert len(ear.told) == 1 + client.SHOWN_OF_LOG and ear.told[-1].startswith("line 4999")
    assert max(map(len, ear.told)) <= 200 and (tmp_path / "log").stat().st_size > 5000 * 5000


def test_a_program_that_hangs_or_is_not_there_has_failed() -> None:
    assert client._run(["/no/such/program"], takes=5).returncode == 1
    slow = client._run([sys.executable, "-c", "import time; time.sleep(60)"], takes=0.3)
    assert slow.returncode == 1 and "timed out" in slow.stderr
