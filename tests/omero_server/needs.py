"""Why the test server, or the client for a real one, cannot run here. Imports nothing of omero."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

CLIENT = (("Ice", "zeroc-ice"), ("omero", "omero-py"))
SERVER = (*CLIENT, ("tables", "tables"))


def missing_client() -> str:
    """Why nothing can talk to OMERO; empty when it can."""
    return _missing(CLIENT)


def missing_server() -> str:
    """Why there can be no test server; empty when there can."""
    if reason := _missing(SERVER):
        return reason
    if shutil.which("openssl") is None:
        return "needs the openssl command, which makes the test server's certificate"
    return ""


def _missing(modules: tuple[tuple[str, str], ...]) -> str:
    for module, package in modules:
        if importlib.util.find_spec(module) is None:
            return (
                f"needs {package}: `make test` installs it where it can, or run `mxbridge doctor --fix omero`{_told()}"
            )
    return ""


def _told() -> str:
    """What became of `make test`'s own attempt to install the client."""
    note = Path(sys.prefix, ".omero")
    return f" ({note.read_text().strip()[:200]})" if note.is_file() else ""
