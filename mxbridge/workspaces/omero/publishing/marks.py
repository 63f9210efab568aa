"""How mxbridge knows its own things on an OMERO server: namespaces, and what stands in their descriptions.

Before a publication is complete everything of it bears ``mxbridge:pending:<image id>:<token>`` and is linked to nothing, so
that nobody sees it and the next publication on that image can sweep what a killed one left.
"""

from __future__ import annotations

import secrets

OWN_NAMESPACES = "mxbridge/"
"""How the namespaces of ours begin."""

DERIVED = "mxbridge/derived"
"""Namespace of the key-values that every image made by mxbridge carries: it is never an input."""

RESULT = "mxbridge/result"
"""Namespace of the marker: what was published on an image, by which run and model, and of what parts it consists."""

REPLACED = "mxbridge/replaced"
"""Namespace of a marker whose results went into another one and that is about to be deleted."""

TABLE = "mxbridge/table"
"""Namespace of per-cell tables as Parquet files."""

LABELS = "mxbridge/labels"
"""Namespace of objects as zipped OME-Zarr label images."""

VALUES = "mxbridge/values"
"""Namespace of values of the image as a whole."""

PENDING = "mxbridge/pending"
"""Namespace of annotations of a publication that is not complete."""

BULK = "openmicroscopy.org/omero/bulk_annotations"
"""Namespace under which OMERO's clients look for tables."""

CLIENT = "openmicroscopy.org/omero/client/mapAnnotation"
"""Namespace of key-values that people edit; ours get it when somebody has edited them, and are people's from then on."""

OWN = "mxbridge:"
"""How descriptions of ours begin."""

LONGEST_NAME = 255
"""Characters that OMERO's database keeps of a name."""


def new_token() -> str:
    return secrets.token_hex(4)


def pending_text(image_id: int, token: str = "") -> str:
    """Description of what is not yet published; without a token, how those of one image begin."""
    return f"{OWN}pending:{image_id}:{token}"


def own_path(image_id: int, token: str = "") -> str:
    """Folder, on the server, of the files of one publication; without a token, how those of one image begin."""
    return f"mxbridge/{image_id}/{token}/" if token else f"mxbridge/{image_id}/"


def derived_text(image_id: int, made: int, result_key: str) -> str:
    """Description of the mark of a derived image: which image it marks, and of what. A copy that somebody makes of that image
    bears the same text and another id, and is theirs."""
    return f"{derived_prefix(image_id)}{made}:{result_key}"


def derived_prefix(image_id: int) -> str:
    """How descriptions of the marks of images derived from this one begin."""
    return f"{OWN}derived:{image_id}:"


def short_name(name: str) -> str:
    """A name that fits into OMERO's database."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
