"""What a user may do with images, asked before hours of work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mxbridge.workspaces.omero.find import pages, rows_of

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session


def refused(session: Session, images: Sequence[int], *, as_owner: bool) -> str | None:
    """Why nothing at all could be published on these images; None where something can be, or there are none.

    Own images, and those that may be annotated, take everything; in a group that the user is in, derived images can be put
    into a dataset of the user's own.
    """
    if not images or as_owner or session.is_admin:
        return None
    groups: set[int] = set()
    for page in pages(list(images)):
        for image in session.objects("select i from Image i join fetch i.details.group where i.id in (:ids)", ids=page):
            if image.getDetails().getPermissions().canAnnotate():
                return None
            groups.add(int(image.getDetails().getGroup().getId().getValue()))
    mine = {
        int(row[0])
        for row in session.rows(
            "select m.parent.id from GroupExperimenterMap m where m.child.id = :me", me=session.user_id
        )
    }
    if groups & mine:
        return None
    return f"{session.user_name} may not annotate these images, and is not in their group"


def owners(session: Session, images: Sequence[int]) -> list[str]:
    """Names of all other users whose these images are."""
    hql = "select i.details.owner.omeName from Image i where i.id in (:ids)"
    names = {str(name) for (name,) in rows_of(session, hql, images)}
    return sorted(names - {session.user_name})
