"""A fresh server: vocabularies, users and groups."""

from __future__ import annotations

from omero.rtypes import rbool, rint, rlong

from .caller import USER_GROUP, now
from .pixel_data import BITS, TYPES
from .store import Row
from .world import World

VOCABULARIES = {
    "DimensionOrder": "XYZCT XYCZT XYCTZ XYZTC XYTCZ XYTZC",
    "Format": "Companion/OME-TIFF OMEXML TIFF text/plain OMERO.tables",
    "ChecksumAlgorithm": "SHA1-160 MD5-128 Adler-32 CRC-32 Murmur3-32 Murmur3-128 File-Size-64",
    "EventType": "Bootstrap User Internal",
    "RenderingModel": "rgb greyscale",
    "Family": "linear polynomial exponential logarithmic",
    "PhotometricInterpretation": "RGB Monochrome",
    "AcquisitionMode": "WideField BrightField Other",
    "ContrastMethod": "Fluorescence Brightfield",
    "Illumination": "Transmitted Epifluorescence",
    "Immersion": "Oil Other",
    "Correction": "Other",
    "AdminPrivilege": "Sudo ReadSession WriteOwned WriteFile DeleteOwned DeleteFile Chown Chgrp ModifyUser ModifyGroup",
}
GROUPS = {
    "system": "rw----", "user": "rwr-r-", "guest": "rw----", "lab": "rwr---", "private": "rw----", "notes": "rwra--", "team": "rwrw--",
}  # fmt: skip
USERS = {
    "root": ("omero", "Root", "Root", ("system", "user")),
    "guest": ("guest", "Guest", "Account", ("guest",)),
    "alice": ("secret", "Alice", "Adams", ("lab", "private", "notes", "team", "user")),
    "bob": ("secret", "Bob", "Brown", ("lab", "notes", "team", "user")),
    "sudo": ("secret", "Sue", "Doe", ("lab", "system", "user")),
}


def seeded(world: World) -> World:
    """Fill a new world."""
    store = world.store
    for name, bits in ((name, BITS.get(name, 8 * int(code[2:]))) for name, code in TYPES.items()):
        store.insert("PixelsType", value=name, bitSize=rint(bits))
    for vocabulary, words in VOCABULARIES.items():
        for word in words.split():
            store.insert(vocabulary, value=word)
    groups = {
        name: store.insert("ExperimenterGroup", name=name, description=None, ldap=rbool(False)) for name in GROUPS
    }
    world.modes = {groups[name]: mode for name, mode in GROUPS.items()}
    for name, (password, first, last, member_of) in USERS.items():
        user = store.insert("Experimenter", omeName=name, firstName=first, lastName=last, ldap=rbool(False))
        world.passwords[name] = password
        world.home_groups[user] = groups[member_of[0]]
        for group in member_of:
            store.insert("GroupExperimenterMap", parent=groups[group], child=user, owner=rbool(False))
    root, sudo = world.user("root"), world.user("sudo")
    assert root is not None and sudo is not None
    world.admins = {root, sudo}
    world.light = {sudo: ("Sudo",)}
    event = store.insert(
        "Event",
        time=now(),
        type=store.word("EventType", "Bootstrap"),
        experimenter=root,
        experimenterGroup=groups["system"],
    )
    world.repository = store.insert(
        "OriginalFile", name="ManagedRepository", path="/OMERO", hash="repository", mimetype="Repository", size=rlong(0)
    )
    _place(world, root, groups, event)
    return world


def _place(world: World, root: Row, groups: dict[str, Row], event: Row) -> None:
    for table in world.store.tables.values():
        for row in table.values():
            row.created = row.updated = event
            row.owner, row.group = root, groups["system"]
    assert world.repository is not None and groups["user"].id == USER_GROUP
    world.repository.group = groups["user"]
