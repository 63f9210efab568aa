"""What ``mxbridge doctor`` looks at. Nothing here changes anything but a temporary file in the run folder's place."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mxbridge.errors import MxbridgeError


@dataclass(frozen=True)
class Finding:
    subject: str
    state: Literal["ok", "optional", "broken"]
    finding: str
    hint: str = ""


REQUIRED = (
    "torch",
    "numpy",
    "scipy",
    "tifffile",
    "imagecodecs",
    "zarr",
    "ome_zarr",
    "dask",
    "rasterio",
    "pyarrow",
    "pandas",
    "matplotlib",
    "jinja2",
)
OPTIONAL = {
    "captum": ("train", "attribution"),
    "openslide": ("slides", "other slide formats"),
    "anndata": ("h5ad", "AnnData tables"),
    "paquo": ("paquo", "real QuPath as judge"),
    "distributed": ("cluster", "several machines"),
}


def examine() -> list[Finding]:
    """Everything, in the order in which a problem should be mended."""
    python = Finding("Python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    checks: list[Callable[[], Finding]] = [
        _omero_client,
        _device,
        _weights,
        _official,
        _score_something,
        _folder,
        _qupath,
    ]
    return [python, *map(_library, REQUIRED), *map(_extra, OPTIONAL), *(_checked(check) for check in checks)]


def _library(name: str) -> Finding:
    try:
        import_module(name)
        return Finding(name, "ok", version(name.replace("_", "-")))
    except Exception as error:  # a library that does not fit another one fails in ways of its own
        return Finding(name, "broken", f"does not import ({error})", "Install mxbridge again with its constraints.txt")


def _extra(name: str) -> Finding:
    extra, purpose = OPTIONAL[name]
    if find_spec(name) is None:
        return Finding(name, "optional", f"not installed ({purpose})", f'pip install "mxbridge[{extra}]"')
    return Finding(name, "ok", f"installed ({purpose})")


def _checked(check: Callable[[], Finding]) -> Finding:
    subject = check.__name__.strip("_").replace("_", " ")
    try:
        return check()
    except MxbridgeError as error:
        return Finding(subject, "broken", error.message, error.hint)
    except Exception as error:  # to find out what is broken is what this is for
        return Finding(subject, "broken", f"{type(error).__name__}: {error}", "Install mxbridge again")


def _omero_client() -> Finding:
    from mxbridge.tasks.omero_client import what_is_missing

    if missing := what_is_missing():
        return Finding(
            "OMERO client",
            "optional",
            f"not installed: {', '.join(missing)} (OMERO servers)",
            "mxbridge doctor --fix omero",
        )
    return Finding("OMERO client", "ok", f"omero-py {version('omero-py')}, zeroc-ice {version('zeroc-ice')}")


def _device() -> Finding:
    from mxbridge.stream.engine import Engine

    chosen = Engine().describe()
    return Finding("device", "ok", ", ".join(f"{key} {value}" for key, value in chosen.items()))


def _weights() -> Finding:
    from mxbridge.models import catalogue

    found = catalogue.resolve("demo")
    return Finding("embedded weights", "ok", f"{found.name}, sha256 {found.sha256[:12]}")


def _official() -> Finding:
    from mxbridge.models import catalogue

    try:
        found = catalogue.resolve("nimbus")
        return Finding("official Nimbus weights", "ok", f"{found.path.name}, sha256 {found.sha256[:12]}")
    except MxbridgeError as error:
        return Finding("official Nimbus weights", "optional", "not here", error.hint)


def _score_something() -> Finding:
    """One forward pass of the embedded network: the libraries work together."""
    import torch

    from mxbridge.models import catalogue

    model = catalogue.open_model(catalogue.resolve("demo"))
    with torch.inference_mode():
        score = model.network(torch.zeros(1, 2, 64, 64))
    fine = bool(torch.isfinite(score).all())
    return Finding(
        "a forward pass", "ok" if fine else "broken", "finite" if fine else "gave values that are no numbers"
    )


def _folder() -> Finding:
    home = Path.cwd()
    try:
        with tempfile.NamedTemporaryFile(dir=home, prefix=".mxbridge-"):
            free = shutil.disk_usage(home).free / 1e9
        return Finding("current folder", "ok", f"writable, {free:.0f} GB free")
    except OSError as error:
        return Finding("current folder", "optional", f"not writable ({error.strerror})", "Give a place with --out")


def _qupath() -> Finding:
    place = os.environ.get("PAQUO_QUPATH_DIR")
    if not place:
        return Finding(
            "QuPath", "optional", "not looked for", "Only `mxbridge qupath check` wants it: set PAQUO_QUPATH_DIR"
        )
    there = Path(place).is_dir()
    return Finding("QuPath", "ok" if there else "optional", f"{place}{'' if there else ' is not a folder'}")
