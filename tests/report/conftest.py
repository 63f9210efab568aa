"""A run with a report of every kind of block, made once, and a browser to look at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxbridge.cli.app import run
from mxbridge.report import build
from mxbridge.workspaces.qupath.new import create_project, open_new_image
from tests.cli.conftest import write_field
from tests.report.showcase import make_run

ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


@pytest.fixture
def showcase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the tasks ``showcase`` and ``light`` have the sections of tests/report/showcase.py."""
    for task in ("showcase", "light"):
        monkeypatch.setitem(build.KINDS, task, "tests.report.showcase")


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with every kind of block, as one file."""
    folder = tmp_path_factory.mktemp("report") / "run"
    make_run(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.KINDS, "showcase", "tests.report.showcase")
        return build.build_report(folder)


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report that ``score --report`` makes of a small project with a name that is none of a file."""
    folder = tmp_path_factory.mktemp("scored")
    images = [open_new_image(*write_field(folder, name, seed)) for seed, name in enumerate(("north", "süd"))]
    create_project(folder / "project", images)
    project = folder / "project" / "project.qpproj"
    assert run(["score", "--project", str(project), "--model", "demo", "--no-tta", "--report", "--quiet"]) == 0
    return next((folder / "project" / "mxbridge-runs").glob("*/report.html"))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, started once."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.get("about:blank")  # what the browser's own first page asks for is over then
    yield started
    started.quit()
