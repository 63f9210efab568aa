"""In which dataset derived images go: an own one beside the source's, unless they are wanted in the source's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mxbridge.workspaces.omero.publishing.marks import OWN, short_name

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

SUFFIX = " (mxbridge)"


@dataclass(frozen=True)
class Home:
    """A dataset. id: None for one that is to be made with this name and description and put into these projects.
    note: what people should know of the choice."""

    id: int | None
    name: str
    description: str = ""
    projects: tuple[int, ...] = ()
    note: str = ""


def find_home(session: Session, info: ImageInfo, *, beside: bool) -> Home:
    """Where images derived from this one go. beside: the source's own dataset, where the user may link to it."""
    note = ""
    if beside:
        there = _linkable(session, "Dataset", [d.id for d in info.datasets])
        chosen = next((d for d in info.datasets if d.id in there), None)
        if chosen is not None:
            return Home(chosen.id, chosen.name)
        note = f"{info}: no dataset of it that you may put images into; derived images go into one of your own"
    name, description = _own(info)
    found = own_datasets(session, description, info.group_id)
    if found:
        return Home(found[0][0], found[0][1], description, note=note)
    return Home(None, name, description, _projects(session, info), note)


def new_dataset(home: Home, images: Iterable[int]) -> Any:
    """The dataset with its images as one object, to be saved as a whole."""
    from omero.model import DatasetI, ImageI, ProjectDatasetLinkI, ProjectI
    from omero.rtypes import rstring

    dataset = DatasetI()
    dataset.setName(rstring(home.name))
    dataset.setDescription(rstring(home.description))
    for image in images:
        dataset.linkImage(ImageI(image, False))
    for project in home.projects:
        link = ProjectDatasetLinkI()
        link.setParent(ProjectI(project, False))
        dataset.addProjectDatasetLink(link, True)
    return dataset


def own_datasets(session: Session, description: str, group_id: int) -> list[tuple[int, str]]:
    """Datasets of the user with this description, oldest first: whoever renamed one still gets the next images there."""
    rows = session.rows(
        "select d.id, d.name from Dataset d where d.description = :text and d.details.owner.id = :me order by d.id",
        text=description,
        me=session.user_id,
        group=group_id,
    )
    return [(int(i), str(name)) for i, name in rows]


def make_one(session: Session, home: Home, group_id: int) -> None:
    """After a commit that made a dataset: where another process made the same one at that moment, move into the older."""
    found = [i for i, _ in own_datasets(session, home.description, group_id)]
    if len(found) < 2:
        return
    from omero.model import DatasetI

    for spare in found[1:]:
        links = session.objects("select l from DatasetImageLink l where l.parent.id = :id", id=spare)
        for link in links:
            link.setParent(DatasetI(found[0], False))
        session.save_all(links, group_id)
        session.delete("Dataset", [spare], group_id, keep=("Image",))


def remove_empty(session: Session, info: ImageInfo) -> None:
    """Delete the user's own datasets for images derived from this one, where they hold nothing any more and nobody has annotated
    them."""
    for dataset, _ in own_datasets(session, _own(info)[1], info.group_id):
        links = ("DatasetImageLink", "DatasetAnnotationLink")
        hqls = [f"select l.id from {link} l where l.parent.id = :id" for link in links]  # noqa: S608 - fixed names
        if not any(session.rows(hql, id=dataset, limit=1) for hql in hqls):
            session.delete("Dataset", [dataset], info.group_id, keep=("Image",))


def _own(info: ImageInfo) -> tuple[str, str]:
    """Name and description of the user's own dataset for images derived from this one."""
    if info.datasets:
        dataset = info.datasets[0]
        return short_name(dataset.name + SUFFIX), f"{OWN}derived from images of dataset {dataset.id}"
    if info.wells:
        well = info.wells[0]
        return short_name(well.plate_name + SUFFIX), f"{OWN}derived from images of plate {well.plate_id}"
    return "mxbridge", f"{OWN}derived from images in no dataset"


def _projects(session: Session, info: ImageInfo) -> tuple[int, ...]:
    """Projects of the source's dataset that the user may put datasets into."""
    if not info.datasets:
        return ()
    rows = session.rows("select l.parent.id from ProjectDatasetLink l where l.child.id = :id", id=info.datasets[0].id)
    return tuple(sorted(_linkable(session, "Project", [int(row[0]) for row in rows])))


def _linkable(session: Session, kind: str, ids: Sequence[int]) -> set[int]:
    """Those of these containers that the user may link things to."""
    if not ids:
        return set()
    found = session.objects(f"select o from {kind} o where o.id in (:ids)", ids=list(ids))  # noqa: S608 - one of two names
    return {int(o.getId().getValue()) for o in found if o.getDetails().getPermissions().canLink()}
