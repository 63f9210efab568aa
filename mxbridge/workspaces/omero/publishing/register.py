"""A derived OME-Zarr that the server reads where it lies: registered by its path instead of sent.

The image gets an ExternalInfo whose ``lsid`` is the path and whose type is that of omero-cli-zarr; a server with the ZarrReader
pixel buffer then takes pixels from there. The folder must be seen by client and server under one path and must stay.

**What was seen and what not**: that the test server keeps what is written here, and that mxbridge finds the file again by it. Whether
a real server shows such pixels depends on its pixel buffer, and was not seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mxbridge.errors import OutputError

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

ENTITY_TYPE = "com.glencoesoftware.ngff:multiscales"
ENTITY_ID = 3


def register(session: Session, image_id: int, folder: Path, group_id: int) -> None:
    """Tell the server that the pixels of an image are in the OME-Zarr ``folder``. Raises OutputError where the image is gone."""
    from omero.model import ExternalInfoI
    from omero.rtypes import rlong, rstring

    found = session.objects("select i from Image i where i.id = :id", id=image_id)
    if not found:
        raise OutputError(f"image {image_id} that was just made is not there", hint="Run the same command again")
    told = ExternalInfoI()
    told.setEntityType(rstring(ENTITY_TYPE))
    told.setEntityId(rlong(ENTITY_ID))
    told.setLsid(rstring(str(folder.resolve())))
    found[0].getDetails().setExternalInfo(told)
    session.save_all([found[0]], group_id)
