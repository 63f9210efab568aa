"""The commands on images of the test server: a dry run, a run, the same again, undo and publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxbridge.cli import app
from tests.omero_server.running import RunningServer
from tests.omero_workspace.toy_results import asking

pytestmark = pytest.mark.omero


class Bench:
    """Two small images with a rectangle each, and the commands run in this process."""

    def __init__(self, server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
        self.server, self._capsys = server, capsys
        pixels = np.random.default_rng(7).integers(0, 4000, (2, 64, 64)).astype(np.uint16)
        for name in ("first", "second"):
            image = server.add_image(name, pixels, channels=("CD3", "CD8"), um_per_px=0.5)
            _rectangle(server, image)
        self.clean = server.state()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        code = app.run(list(arguments))
        told = self._capsys.readouterr()
        return code, told.out, told.err

    def score(self, *more: str) -> tuple[int, str, str]:
        server = f"alice@{self.server.host}:{self.server.port}"
        return self.run(
            "score", "--omero", "dataset:1", "--server", server, "--model", "demo", "--cache", "cache", *more
        )

    def names(self) -> list[str]:
        return sorted(image["name"] for image in self.server.state()["images"])


@pytest.fixture
def bench(
    server: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Bench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMERO_PASSWORD", "secret")
    return Bench(server, capsys)


@pytest.mark.slow
def test_score_publish_undo(bench: Bench, tmp_path: Path) -> None:
    code, out, _ = bench.score("--dry-run")
    assert code == 0
    assert "first: 1 cells" in out
    assert "values per cell: OMERO.table" in out and "(mxbridge)" not in out  # scores make no new images
    assert "openmicroscopy.org/omero/bulk_annotations" in out
    code, out, _ = bench.score("--dry-run", "--no-publish", "--json")
    assert code == 0
    assert all("publishing" not in image for image in json.loads(out)["images"])
    assert bench.server.state() == bench.clean

    code, out, _ = bench.score("--maps")
    assert code == 0
    assert f"The measurements are on {bench.server.host}:{bench.server.port} (dataset:1)" in out
    made = [f"{image} ({marker} (NimbusDemo))" for image in ("first", "second") for marker in ("CD3", "CD8")]
    assert bench.names() == sorted(["first", "second", *made])
    published = bench.server.state()
    code, out, _ = bench.score("--maps")
    assert code == 0
    assert "Nothing to do" in out
    assert bench.server.state() == published

    (run,) = (tmp_path / "mxbridge-runs").iterdir()
    assert bench.run("undo", str(run))[0] == 0
    assert bench.server.state() == bench.clean
    assert bench.run("publish", str(run))[0] == 0
    assert bench.server.state() == published


def test_a_password_that_is_wrong(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMERO_PASSWORD", "wrong")
    code, _, err = bench.score()
    assert code == 4
    assert "does not accept the password of alice" in " ".join(err.split())
    assert "wrong" not in err.replace("OMERO_PASSWORD", "")


def _rectangle(server: RunningServer, image: int) -> None:
    from omero.model import ImageI, RectangleI, RoiI
    from omero.rtypes import rdouble

    roi, shape = RoiI(), RectangleI()
    values: Any = (4.0, 5.0, 20.0, 16.0)
    shape.x, shape.y, shape.width, shape.height = (rdouble(v) for v in values)
    roi.addShape(shape)
    roi.setImage(ImageI(image, False))
    with asking(server) as session:
        session.save_return(roi, 3)
