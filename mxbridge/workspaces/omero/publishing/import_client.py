"""Large derived images by the ``omero import`` command: a pyramidal OME-TIFF that Bio-Formats reads on the server.

The command (of omero-py) starts a Java program, so ``java`` must be there as well. It never gets a password or a key as an
argument: it logs in from a store of sessions of its own, a folder that only this user can read and that is removed afterwards
(the Java program that it starts is given the key of the session as an argument by omero-py itself, though, not a password).

**What was seen and what not**: how the command is put together and how its output is read is tested; nothing of this has been
run against a real OMERO server, and the test server does not import.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mxbridge.errors import OutputError
from mxbridge.formats.ome_tiff import write_ome_tiff
from mxbridge.image import LocalImage
from mxbridge.workspaces.omero.publishing.marks import short_name

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

HOURS = 6
_IMAGE = re.compile(r"^\s*Image:(\d+(?:,\d+)*)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Client:
    """The command. program: how it is started."""

    program: tuple[str, ...]

    def command(self, file: Path, *, name: str, description: str) -> list[str]:
        """The arguments that import ``file`` into no dataset yet. Nothing in them is secret."""
        return [
            *self.program,
            "import",
            "--output=ids",
            "--no-upgrade-check",
            "--name",
            short_name(name),
            "--description",
            description,
            str(file),
        ]


def find_client() -> Client | None:
    """The ``omero`` command and Java, where both are installed; None where one is missing."""
    beside = Path(sys.executable).with_name("omero.exe" if os.name == "nt" else "omero")
    program = str(beside) if beside.is_file() else shutil.which("omero")
    return Client((program,)) if program and shutil.which("java") else None


def imported_image(output: str) -> int | None:
    """The id of the one image that the command says it has imported; None where it says anything else."""
    found = [number for line in _IMAGE.findall(output) for number in line.split(",")]
    return int(found[0]) if len(found) == 1 else None


def import_image(
    session: Session,
    client: Client,
    image: LocalImage,
    *,
    name: str,
    description: str,
    group_id: int,
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
) -> int:
    """Write ``image`` as OME-TIFF into a temporary folder and import it; the id of the new image, which is in no dataset.

    run: what starts programs. Raises OutputError, with the last lines that the command said.
    """
    with tempfile.TemporaryDirectory(prefix="mxbridge-import-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "derived.ome.tiff"
        write_ome_tiff(file, image.levels[0], image.channels, image.pixel_size_um, rgb=image.rgb)
        store = Path(folder) / "sessions"
        store.mkdir(mode=0o700)
        _remember_session(store, session, group_id)
        command = client.command(file, name=name, description=description)
        try:
            done = run(
                command,
                env=environment(store),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=HOURS * 3600,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise OutputError(f"{name}: the omero command cannot be run ({error})", hint=_OTHER_WAYS) from error
    image_id = imported_image(done.stdout) if done.returncode == 0 else None
    if image_id is None:
        raise OutputError(f"{name}: omero import failed ({_last(done.stderr) or _last(done.stdout)})", hint=_OTHER_WAYS)
    return image_id


_OTHER_WAYS = "The results stay in the run folder; --large-images tiles sends them without that command"


def environment(store: Path) -> dict[str, str]:
    """This process's, without anything by which the command might log in as somebody else."""
    kept = {k: v for k, v in os.environ.items() if k not in ("OMERO_PASSWORD", "OMERO_SESSION_KEY")}
    return {**kept, "OMERO_SESSIONDIR": str(store)}


def _remember_session(store: Path, session: Session, group_id: int) -> None:
    """Put the session into a store of the omero command, as the one that was used last."""
    from omero.util.sessions import SessionsStore

    server = session.server
    group = session.rows("select g.name from ExperimenterGroup g where g.id = :id", id=group_id)
    properties = {
        "omero.host": server.host,
        "omero.port": str(server.port),
        "omero.user": session.user_name,
        "omero.sess": session.key,
        "omero.group": group[0][0] if group else "",
    }
    kept = SessionsStore(str(store))
    kept.add(server.host, session.user_name, session.key, properties)
    kept.set_current(server.host, session.user_name, session.key, properties)
    with suppress(OSError):
        for path in store.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)


def _last(text: str) -> str:
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-2:])[:300]
