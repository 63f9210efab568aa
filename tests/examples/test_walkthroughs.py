"""The walk-throughs in ``examples/`` work as they are printed: their commands run in order, what they name is there afterwards."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from tests.qupath.playing_qupath import OpenProject

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
LARGEST_NOTEBOOK, LARGEST_PICTURE = 300_000, 400_000
SCORE = "NimbusDemo: CD3"

pytestmark = pytest.mark.slow


def blocks(name: str) -> list[str]:
    """The commands of a walk-through, block by block; what happens inside QuPath is a block that begins with ``in QuPath``."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    found = re.findall(r"^```bash\n(.*?)^```$|^<!-- (in QuPath: .*?) -->$", text, flags=re.DOTALL | re.MULTILINE)
    return [commands or inside for commands, inside in found]


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMERO_", "MXBRIDGE_"))}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def call(words: Sequence[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def bash(commands: str, folder: Path) -> str:
    """What the commands say; the first that fails ends them, and the test."""
    return call(["bash", "-euo", "pipefail", "-c", commands], folder)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first block of the walk-through for QuPath makes."""
    folder = tmp_path_factory.mktemp("walk")
    first = blocks("qupath.md")[0]
    assert first == "mxbridge demo demo\n"
    bash(first, folder)
    return folder / "demo"


def scored(project: Path, image: str) -> np.ndarray:
    """Which cells of an image carry a score."""
    path = project.parent / "data" / image / "data.qpdata"
    cells = [
        o for o in ImageDataFile(path.read_bytes(), path, packed=False).objects() if o.kind in ("cell", "detection")
    ]
    return np.array([SCORE in o.measurements for o in cells])


def test_qupath(demo: Path, tmp_path: Path) -> None:
    """A user of QuPath: buttons, a run, its results applied to the open image and saved there, report, region, undo."""
    project = Path(shutil.copytree(demo, tmp_path / "demo")) / "project.qpproj"
    opened = OpenProject(project.parent).open(1)  # and it stays open, as in front of a user
    told = ""
    for block in blocks("qupath.md")[1:]:
        if not block.startswith("in QuPath"):
            told += bash(block, tmp_path)
            continue
        assert not scored(project, "1").any()  # nothing is written while QuPath has the image open
        (exchange,) = tmp_path.glob("demo/mxbridge-runs/2*/images/*/exchange.jsonl.gz")
        assert opened.apply(exchange).gone == ()
        opened.save()
        assert scored(project, "1").all()
    assert "only cells inside 1 annotation (Tumor)" in told
    assert not scored(project, "1").any()
    assert not list((project.parent / "scripts").glob("*.groovy"))
    for picture in (tmp_path / "pictures").iterdir():
        assert_alike(picture, EXAMPLES / picture.name)


def assert_alike(made: Path, stored: Path) -> None:
    """The same picture but for what fonts and browsers do: its size, and what is seen from afar."""
    assert stored.stat().st_size <= LARGEST_PICTURE
    with Image.open(made) as one, Image.open(stored) as two:
        assert one.size == two.size
        far = [np.asarray(p.convert("L").resize((64, 48), Image.Resampling.BOX), float) for p in (one, two)]
    assert np.corrcoef(far[0].ravel(), far[1].ravel())[0, 1] > 0.8, made.name


@pytest.mark.omero
@pytest.mark.skipif(importlib.util.find_spec("omero") is None, reason="needs omero-py: mxbridge doctor --fix omero")
def test_omero(tmp_path: Path) -> None:
    script = tmp_path / "walk.sh"
    parts = [f"echo '=== {number}'\n{block}" for number, block in enumerate(blocks("omero.md"))]
    script.write_text("".join(parts), encoding="utf-8")
    words = [sys.executable, "-m", "examples.omero_server", "bash", "-euo", "pipefail", str(script)]
    told = call(words, tmp_path)
    assert told.count("=== ") == len(parts) == 5
    assert "Nothing to do" in told.split("=== 2")[1].split("=== 3")[0]
    assert "taken out" in told.split("=== 4")[1]


def test_notebook(demo: Path, tmp_path: Path) -> None:
    """Runs as it is, and shows what is stored."""
    import nbformat

    shutil.copytree(demo, tmp_path / "demo")
    call([sys.executable, "-m", "examples.run_notebook", str(tmp_path)], tmp_path)
    assert (EXAMPLES / "notebook.ipynb").stat().st_size <= LARGEST_NOTEBOOK
    new, stored = (nbformat.read(folder / "notebook.ipynb", as_version=4) for folder in (tmp_path, EXAMPLES))
    assert [texts(cell) for cell in new.cells] == [texts(cell) for cell in stored.cells]
    assert (
        sum("image/png" in output.get("data", {}) for cell in stored.cells for output in cell.get("outputs", ())) == 1
    )
    assert str(ROOT) not in (EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8")


def texts(cell: object) -> list[str]:
    """What a cell says, numbers rounded: other processors round otherwise."""
    said = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", ())]
    return [re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.2g}", text) for text in said]


def test_pages_name_what_is_there() -> None:
    for page in EXAMPLES.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
        assert page.name == "imputation.md" or "```bash" in text
