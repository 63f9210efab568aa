"""One file per family of services. Importing this package registers all of them."""

from . import (
    admin,
    configuration,
    containers,
    factory,
    pixels,
    queries,
    raw_files,
    raw_pixels,
    rendering,
    rois,
    tables,
    updates,
)

__all__ = [
    "admin", "configuration", "containers", "factory", "pixels", "queries", "raw_files", "raw_pixels", "rendering", "rois", "tables",
    "updates",
]  # fmt: skip
