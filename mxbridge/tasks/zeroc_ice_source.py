"""Changes that let the source of zeroc-ice 3.6.5 build on Python 3.11 and newer, and on all cores.

Each change is looked for before anything is compiled: a source in which one cannot be found is not the one they were made for.
Built with them and tried: 3.11. Python 3.12 and 3.13 were seen to compile and import.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxbridge.errors import InputError

VERSION = "3.6.5"
SHA256 = "4235ffeb605bcd4e22e716577f7d61e4aa1bc82f65276bb542701a81b7933356"
"""Of the source archive in the package index."""

NEWEST = (3, 13)
"""Of Python, for which the changes are known."""

TOLD = "mxbridge-compiled"
"""What the build script says after each file, with how many are done of how many."""


@dataclass(frozen=True)
class Change:
    """Text that is replaced ``times`` times in a file, on Python ``since`` and newer."""

    file: str
    old: str
    new: str
    since: tuple[int, int]
    times: int = 1


_READ_BUFFER = """
static int
readBuffer(PyObject* p, const void** buf, Py_ssize_t* size)
{
    Py_buffer view;
    if(PyObject_GetBuffer(p, &view, PyBUF_SIMPLE) != 0)
    {
        return -1;
    }
    *buf = view.buf;
    *size = view.len;
    PyBuffer_Release(&view);
    return 0;
}
"""

_PARALLEL = f"""
def _compile_on_all_cores(self, sources, output_dir=None, macros=None, include_dirs=None, debug=0, extra_preargs=None,
                          extra_postargs=None, depends=None):
    from concurrent.futures import ThreadPoolExecutor
    macros, objects, extra_postargs, pp_opts, build = self._setup_compile(
        output_dir, macros, include_dirs, sources, depends, extra_postargs)
    cc_args = self._get_cc_args(pp_opts, debug, extra_preargs)
    waiting = [name for name in objects if name in build]
    def one(name):
        source, ext = build[name]
        self._compile(name, source, ext, cc_args, extra_postargs, pp_opts)
    with ThreadPoolExecutor(int(os.environ.get('MXBRIDGE_BUILD_JOBS') or os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.map(one, waiting), start=1):
            print('{TOLD} %d %d' % (done, len(waiting)), flush=True)
    return objects

from distutils.ccompiler import CCompiler
CCompiler.compile = _compile_on_all_cores

setup(
    name='zeroc-ice',"""

CHANGES = (
    Change("src/Slice.cpp", "#include <eval.h>\n", "", (3, 11)),
    Change("src/Util.cpp", "PyThreadState_GET()->frame;", "PyEval_GetFrame();", (3, 11)),
    Change("lib/Ice.py", "import sys, string, imp, os,", "import sys, string, types, os,", (3, 12)),
    Change("lib/Ice.py", "imp.new_module(curr)", "types.ModuleType(curr)", (3, 12)),
    Change("src/Util.cpp", "PyEval_CallObject(", "PyObject_CallObject(", (3, 13)),
    Change("src/Types.cpp", "PyEval_CallObject(", "PyObject_CallObject(", (3, 13), times=2),
    Change("src/Init.cpp", "    PyEval_InitThreads();\n", "", (3, 13)),
    Change("src/Types.cpp", "PyObject_AsReadBuffer(p, ", "readBuffer(p, ", (3, 13), times=2),
    Change(
        "src/Types.cpp",
        "using namespace IceUtilInternal;\n",
        f"using namespace IceUtilInternal;\n{_READ_BUFFER}",
        (3, 13),
    ),
    Change("setup.py", "\nsetup(\n    name='zeroc-ice',", _PARALLEL, (3, 11)),
)

BUILD_SYSTEM = '[build-system]\nrequires = ["setuptools>=64,<81"]\nbuild-backend = "setuptools.build_meta:__legacy__"\n'
"""Newer ones were never tried with a script that is this old."""


def apply_changes(source: Path, python: tuple[int, int]) -> list[str]:
    """Change an unpacked source for that Python; the names of the changed files. Raises InputError before anything is written
    where one place cannot be found."""
    texts: dict[Path, str] = {}
    for change in CHANGES:
        if python < change.since:
            continue
        path = source / change.file
        try:
            text = texts[path] if path in texts else path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise _unknown(change.file) from error
        if text.count(change.old) != change.times:
            raise _unknown(change.file)
        texts[path] = text.replace(change.old, change.new)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    (source / "pyproject.toml").write_text(BUILD_SYSTEM, encoding="utf-8")
    return sorted(path.relative_to(source).as_posix() for path in texts)


def _unknown(file: str) -> InputError:
    return InputError(
        f"{file} of the source of zeroc-ice is not that of version {VERSION}",
        hint="A ready-made wheel for this Python can be given with --wheels FOLDER",
    )
