"""The unmodified `omero` command against the test server: login and its session store, hql, obj, tag, metadata, zarr."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.omero_server.running import RunningServer
from tests.omero_workspace import omero_client as client

pytestmark = pytest.mark.omero
PROGRAM = """
import contextlib, io, json, sys
from omero.cli import CLI
cli = CLI()
cli.loadplugins()
for line in json.loads(sys.stdin.read()):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.invoke(line)
    print(json.dumps([cli.rv, out.getvalue().strip()]))
cli.close()
"""


def run_cli(folder: Path, *lines: list[str]) -> list[str]:
    """What each line printed; all in one process, as the user of that folder's session store."""
    environment = {
        **os.environ,
        "OMERO_USERDIR": str(folder),
        "OMERO_SESSIONDIR": str(folder / "sessions"),
        "OMERODIR": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        input=json.dumps(lines),
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(answers) == len(lines), done.stderr[-2000:]
    for line, (code, _) in zip(lines, answers, strict=True):
        assert code == 0, f"omero {' '.join(line)}: {done.stderr[-2000:]}"
    return [text for _, text in answers]


def login(server: RunningServer) -> list[str]:
    return ["login", "-s", "127.0.0.1", "-p", str(server.port), "-u", "alice", "-w", "secret"]


def test_sessions_objects_questions_and_tags(server: RunningServer, tmp_path: Path) -> None:
    image = server.add_image("slide", np.zeros((1, 4, 4), np.uint8))
    said = run_cli(
        tmp_path,
        login(server),
        ["sessions", "key"],
        ["sessions", "who"],
        ["hql", "-q", "--style", "plain", "select i.id, i.name from Image i"],
        ["obj", "new", "Dataset", "name=from the command"],
        ["obj", "update", "Dataset:2", "description=changed"],
        ["obj", "new", "DatasetImageLink", "parent=Dataset:2", f"child=Image:{image}"],
        ["tag", "create", "--name", "checked", "--desc", "by hand"],
        ["tag", "link", f"Image:{image}", "1"],
        ["tag", "list"],
        ["delete", "Dataset:1", "--report"],
        ["logout"],
    )
    assert len(said[1]) == 36
    assert "alice" in said[2]
    assert said[3].endswith(f"{image},slide")
    assert said[4] == "Dataset:2"
    assert "checked" in said[9]
    (found,) = server.state()["images"]
    assert found["datasets"] == ["from the command"]
    assert found["annotations"][0]["value"] == "checked"
    assert server.sessions() == 0


def test_its_session_store_is_good_for_others(server: RunningServer, tmp_path: Path) -> None:
    from omero.gateway import BlitzGateway

    _, key = run_cli(tmp_path, login(server), ["sessions", "key"])
    joined = BlitzGateway(host=server.host, port=server.port, secure=True)
    assert joined.connect(sUuid=key)
    assert joined.getUser().getName() == "alice"
    joined.close(hard=False)
    assert server.sessions() == 1


@pytest.mark.skipif(
    importlib.util.find_spec("omero_metadata") is None, reason="needs omero-metadata, a plug-in of the omero command"
)
def test_metadata(server: RunningServer, tmp_path: Path) -> None:
    image = server.add_image("slide", np.zeros((1, 4, 4), np.uint8), um_per_px=0.5)
    (tmp_path / "table.csv").write_text(f"# header image,d\nImage,score\n{image},0.25\n")
    said = run_cli(
        tmp_path,
        login(server),
        ["metadata", "summary", f"Image:{image}"],
        ["metadata", "populate", "--report", "--file", str(tmp_path / "table.csv"), "Dataset:1"],
        ["metadata", "measures", "Dataset:1"],
        ["metadata", "bulkanns", "Dataset:1"],
        ["logout"],
    )
    assert "slide" in said[1]
    (annotation,) = server.state()["datasets"][0]["annotations"]
    assert annotation["ns"] == "openmicroscopy.org/omero/bulk_annotations"
    assert annotation["file"]["rows"] == [[image, 0.25, "slide"]]


@pytest.mark.skipif(
    importlib.util.find_spec("omero_zarr") is None, reason="needs omero-cli-zarr, a plug-in of the omero command"
)
def test_zarr(server: RunningServer, tmp_path: Path) -> None:
    import zarr
    from omero.model import MaskI, RoiI
    from omero.rtypes import rdouble, rint

    pixels = np.random.default_rng(0).integers(0, 9999, (2, 40, 50)).astype(np.uint16)
    image = server.add_image("slide", pixels, channels=["DAPI", "CD3"])
    with client.logged_in(server.host, server.port) as conn:
        mask, roi = MaskI(), RoiI()
        mask.x, mask.y, mask.width, mask.height = rdouble(3), rdouble(4), rdouble(8), rdouble(8)
        mask.theZ, mask.theT, mask.theC = rint(0), rint(0), rint(0)
        mask.setBytes(np.packbits(np.eye(8, dtype=np.uint8)).tobytes())
        roi.setImage(client.image(image))
        roi.addShape(mask)
        client.save(conn, roi)
    run_cli(tmp_path, login(server), ["zarr", "--output", str(tmp_path), "export", f"Image:{image}"], ["zarr", "--output", str(tmp_path), "masks", f"Image:{image}"], ["logout"])  # fmt: skip
    exported = zarr.open_group(tmp_path / f"{image}.ome.zarr", mode="r")
    np.testing.assert_array_equal(np.squeeze(np.asarray(exported["0"])), pixels)
    labels = np.squeeze(np.asarray(exported["labels/0/s0"]))
    assert set(zip(*np.nonzero(labels), strict=True)) == {(4 + n, 3 + n) for n in range(8)}
