"""Run the notebook of the examples, and keep what it shows.

    python -m examples.run_notebook FOLDER [--keep]

FOLDER is where it works (it makes ``demo/`` there unless that is there). --keep: write the outputs into ``examples/notebook.ipynb``,
as they are stored there; else ``FOLDER/notebook.ipynb`` gets them.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

STORED = Path(__file__).with_name("notebook.ipynb")
LIMIT_S = 300


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs. Raises CellExecutionError."""
    notebook = nbformat.read(STORED, as_version=4)
    client = NotebookClient(
        notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    return notebook


def main(folder: str, *, keep: bool) -> None:
    place = Path(folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())  # the kernel's sockets need it
    notebook = executed(place)
    target = STORED if keep else place / STORED.name
    nbformat.write(notebook, target)
    print(f"ran {len(notebook.cells)} cells: {target}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or set(sys.argv[2:]) - {"--keep"}:
        sys.exit(__doc__)
    main(sys.argv[1], keep="--keep" in sys.argv)
