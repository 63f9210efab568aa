"""mxbridge: marker models for whole slides, from and to QuPath, OMERO and OME files.

In a notebook or script::

    import mxbridge

    workspace = mxbridge.open_workspace("slides/project.qpproj")
    finished = mxbridge.score(workspace, mxbridge.load_model("demo"), markers=["CD3", "CD8"])
    finished.run.path  # the run folder: cells.parquet, cells.csv, run.json

Everything is imported when it is first used, so ``import mxbridge`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxbridge.api import impute, load_model, make_report, open_workspace, rescore, score, translate

__all__ = ["impute", "load_model", "make_report", "open_workspace", "rescore", "score", "translate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("mxbridge.api"), name)
    raise AttributeError(f"module 'mxbridge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
