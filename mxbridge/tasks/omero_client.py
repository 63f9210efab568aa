"""``mxbridge doctor --fix omero``: the OMERO client into this environment.

omero-py itself comes from the package index. Its zeroc-ice has no wheel there, and its source does not build on Python 3.11 and
newer as it stands: a ready-made wheel is taken where there is one, else one is built, once for each Python of a computer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from mxbridge.errors import InputError, SourceError
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.progress import SILENT, Progress
from mxbridge.tasks.zeroc_ice_source import NEWEST, SHA256, TOLD, VERSION, apply_changes

REQUIREMENTS = ("omero-py>=5.23", "tenacity>=9.0", "keyring>=25.0")
"""The extra ``omero``; omero-py brings zeroc-ice along."""

READY_MADE = "A ready-made wheel can be given with --wheels FOLDER (README: Installing OMERO)"
SHOWN_OF_LOG = 25
FETCHING_TAKES = 900

NEEDED = {
    "Python.h": ("headers of Python", "python3-dev", "python3-devel", "python"),
    "openssl/ssl.h": ("headers of OpenSSL", "libssl-dev", "openssl-devel", "openssl"),
    "bzlib.h": ("headers of bzip2", "libbz2-dev", "bzip2-devel", "bzip2"),
}
"""By header: what it is, and the packages of Debian, Fedora and conda that hold it."""


def what_is_missing() -> list[str]:
    """Packages of the extra that are not here."""
    called = {"Ice": "zeroc-ice", "omero": "omero-py", "tenacity": "tenacity", "keyring": "keyring"}
    return [package for module, package in called.items() if find_spec(module) is None]


def install_client(wheels: Path | None = None, progress: Progress = SILENT) -> list[str]:
    """Make ``--omero`` work in this environment; what was done, in words.

    wheels: folder with ready-made wheels of zeroc-ice (or with its source). Raises SourceError where something cannot be
    fetched, InputError where it cannot be built, each with what to do.
    """
    if wheels is not None and not wheels.is_dir():
        raise SourceError(f"no folder {wheels}", hint="--wheels is a folder with wheels of zeroc-ice")
    missing = what_is_missing()
    if not missing and _imports() is None:
        return ["the OMERO client is here already"]
    _check_pip()
    done = []
    if _imports("Ice") is not None:
        done.append(_install_ice(wheels, progress))
    progress.note(f"installing {', '.join(REQUIREMENTS)}")
    _pip("install", *REQUIREMENTS, f"zeroc-ice=={VERSION}", *_constraints(), takes=FETCHING_TAKES)
    if (why := _imports()) is not None:
        raise InputError(f"the OMERO client was installed, but does not work ({why})", hint=READY_MADE)
    return [*done, "the OMERO client is installed and can be imported"]


def _install_ice(wheels: Path | None, progress: Progress) -> str:
    """zeroc-ice from a ready-made wheel, one that was built earlier, or one that is built now; which it was."""
    home = build_home()
    for wheel in (*_fitting(wheels), *_fitting(home)):
        progress.note(f"trying {wheel.name}")
        if (why := _put_in(wheel)) is None:
            return f"zeroc-ice installed from {wheel}"
        progress.warning(f"{wheel} does not work here ({why})")
        if wheel.parent == home:
            wheel.unlink(missing_ok=True)
    make_folder(home)
    with FileLock(home / ".lock"):  # whoever waits finds what the other one has built
        wheel = next(iter(_fitting(home)), None) or _build(home, wheels, progress)
    if (why := _put_in(wheel)) is not None:
        wheel.unlink(missing_ok=True)
        raise InputError(f"zeroc-ice was built, but does not work ({why})", hint=READY_MADE)
    return f"zeroc-ice built and installed; kept as {wheel}"


def build_home() -> Path:
    """Where wheels that were built here are kept, for other environments of this computer."""
    from platformdirs import user_cache_path

    return user_cache_path("mxbridge", appauthor=False) / "wheels"


def _fitting(folder: Path | None) -> list[Path]:
    """Wheels for this Python; whether they are for this system as well is seen when they are tried."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return sorted(folder.glob(f"zeroc_ice-{VERSION}-*{tag}-{tag}-*.whl")) if folder is not None else []


def _put_in(wheel: Path) -> str | None:
    """Install a wheel and import it; why that failed, or None."""
    done = _run_pip(
        "install", "--quiet", "--force-reinstall", "--no-deps", "--no-index", str(wheel), takes=FETCHING_TAKES
    )
    return _imports("Ice") if done.returncode == 0 else _last_line(done)


def _build(home: Path, wheels: Path | None, progress: Progress) -> Path:
    """Build a wheel from the source; it appears in ``home`` when it is whole."""
    if sys.version_info[:2] > NEWEST:
        progress.warning(f"Python {sys.version_info.major}.{sys.version_info.minor} is newer than what was ever tried")
    check_tools()
    with tempfile.TemporaryDirectory(prefix="mxbridge-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = unpack(_source(folder, wheels, progress), folder / "source")
        changed = apply_changes(source, sys.version_info[:2])
        progress.note(f"changed for this Python: {', '.join(changed)}")
        built = _compile(source, folder / "built", home / "zeroc-ice-build.log", progress)
        kept = home / built.name
        with write_atomically(kept) as part:
            shutil.copyfile(built, part)
    return kept


def _source(folder: Path, wheels: Path | None, progress: Progress) -> Path:
    """The source archive, from ``wheels`` or the package index. Raises SourceError, InputError where it is another one."""
    name = f"zeroc-ice-{VERSION}.tar.gz"
    archive = wheels / name if wheels is not None else folder / name
    if not archive.is_file():
        progress.note(f"fetching {name} from the package index")
        archive = folder / name
        got = _run_pip(
            "download", "--quiet", "--no-deps", "--no-binary", "zeroc-ice", "--dest", str(folder), f"zeroc-ice=={VERSION}",
            takes=FETCHING_TAKES,
        )  # fmt: skip
        if got.returncode != 0 or not archive.is_file():
            raise SourceError(
                f"the source of zeroc-ice cannot be fetched ({_last_line(got)})",
                hint=f"Look at the network, or put {name} into a folder and give it with --wheels",
            )
    if sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise InputError(f"{archive} is not the source of zeroc-ice {VERSION} that is known", hint=READY_MADE)
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """The one folder in an archive. Raises InputError for anything else."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{archive} cannot be unpacked ({error})") from error
    inside = [path for path in folder.iterdir() if path.is_dir()]
    if len(inside) != 1:
        raise InputError(f"{archive} does not hold one folder")
    return inside[0]


def check_tools() -> None:
    """Raise InputError where a compiler or headers are missing, with the names of what holds them."""
    if sys.platform == "win32":
        raise InputError("zeroc-ice is not built on Windows", hint=READY_MADE)
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise InputError(
            f"no C++ compiler ({compiler[0]}) is here",
            hint=f"Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; conda: conda install cxx-compiler. {READY_MADE}",
        )
    wanted = list(NEEDED) if sys.platform.startswith("linux") else ["Python.h"]
    missing = [header for header in wanted if not _can_include(compiler, header)]
    if missing:
        what, debian, fedora, conda = ([NEEDED[header][k] for header in missing] for k in range(4))
        raise InputError(
            f"to build zeroc-ice, {' and '.join(what)} are missing",
            hint=f"Debian, Ubuntu: apt install {' '.join(debian)}; Fedora: dnf install {' '.join(fedora)}; "
            f"conda: conda install {' '.join(conda)}. {READY_MADE}",
        )


def _compiler() -> list[str]:
    named = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    found = str(named).split()
    return found if shutil.which(found[0]) else ["c++"]


def _can_include(compiler: Sequence[str], header: str) -> bool:
    folders = [f"-I{sysconfig.get_path('include')}", f"-I{Path(sys.prefix) / 'include'}"]
    done = _run([*compiler, "-x", "c++", "-fsyntax-only", *folders, "-"], takes=60, given=f"#include <{header}>\n")
    return done.returncode == 0


def _compile(source: Path, folder: Path, log: Path, progress: Progress) -> Path:
    """Build the wheel with progress; what the compiler says goes into ``log``. Raises InputError with the end of it."""
    progress.note(f"building zeroc-ice {VERSION} on {os.cpu_count() or 1} cores: about five minutes of one core")
    flags = "-O2 -g0 -w"
    surroundings = {**os.environ, "CXXFLAGS": flags, "CFLAGS": flags, "PYTHONWARNINGS": "ignore"}
    if sys.platform == "darwin":
        surroundings.setdefault("ARCHFLAGS", f"-arch {os.uname().machine}")
    command = [*_PIP, "wheel", "--verbose", "--no-deps", "--wheel-dir", str(folder), str(source)]
    last: deque[str] = deque(maxlen=SHOWN_OF_LOG)
    with (
        log.open("w", encoding="utf-8", errors="replace") as kept,
        subprocess.Popen(  # noqa: S603 - pip of this environment
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=surroundings, text=True,
            encoding="utf-8", errors="replace",
        ) as build,
    ):  # fmt: skip
        assert build.stdout is not None  # noqa: S101 - it is a pipe
        try:
            for line in build.stdout:
                kept.write(line)
                if counted := re.search(rf"{TOLD} (\d+) (\d+)", line):
                    progress.step("compiling", int(counted[1]), int(counted[2]))
                elif line.strip():
                    last.append(line.strip()[:200])
        except BaseException:
            build.kill()
            raise
    built = list(folder.glob("*.whl")) if folder.is_dir() else []
    if build.returncode != 0 or len(built) != 1:
        for line in last:
            progress.note(line)
        raise InputError(f"zeroc-ice could not be built; all that was said is in {log}", hint=READY_MADE)
    return built[0]


_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def _check_pip() -> None:
    if _run([*_PIP, "--version"], takes=60).returncode != 0:
        raise InputError(
            f"the environment at {sys.prefix} has no pip",
            hint=f"{sys.executable} -m ensurepip, then the same command again",
        )


def _pip(*arguments: str, takes: float) -> None:
    done = _run_pip(*arguments, takes=takes)
    if done.returncode != 0:
        raise SourceError(
            f"pip could not install it ({_last_line(done)})", hint="Look at the network and the package index"
        )


def _run_pip(*arguments: str, takes: float) -> subprocess.CompletedProcess[str]:
    return _run([*_PIP, *arguments], takes=takes)


def _constraints() -> tuple[str, ...]:
    """Tested versions, where mxbridge runs from its repository."""
    beside = Path(__file__).resolve().parents[2] / "constraints.txt"
    return ("--constraint", str(beside)) if beside.is_file() else ()


def _imports(module: str = "omero.gateway, tenacity, keyring") -> str | None:
    """Why modules cannot be imported by a fresh Python of this environment, or None."""
    done = _run([sys.executable, "-W", "ignore", "-c", f"import {module}"], takes=300)
    return None if done.returncode == 0 else _last_line(done)


def _run(command: Sequence[str], *, takes: float, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; one that takes too long or cannot be started counts as failed."""
    try:
        return subprocess.run(  # noqa: S603 - compilers and the Python of this environment
            command, input=given, stdin=subprocess.DEVNULL if given is None else None, capture_output=True, text=True,
            encoding="utf-8", errors="replace", timeout=takes, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(command), 1, "", str(error))


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a program complained about: its last line that names an error, else its last line."""
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    named = [line for line in lines if re.search(r"error|not found", line, re.IGNORECASE)]
    return (named or lines or ["it said nothing"])[-1][:300]
