"""QuPath's data.qpdata in pure Python: every object of an image, read, edited and written without a JVM."""

from mxbridge.workspaces.qupath.qpdata.classes import default_color
from mxbridge.workspaces.qupath.qpdata.create import new_image_data
from mxbridge.workspaces.qupath.qpdata.image_data import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.many_objects import ManyObjects
from mxbridge.workspaces.qupath.qpdata.new_objects import NewPathObject
from mxbridge.workspaces.qupath.qpdata.object_table import ObjectTable
from mxbridge.workspaces.qupath.qpdata.path_objects import PathObject
from mxbridge.workspaces.qupath.qpdata.rois import ROI, NewROI

__all__ = [
    "ROI",
    "ImageDataFile",
    "ManyObjects",
    "NewPathObject",
    "NewROI",
    "ObjectTable",
    "PathObject",
    "default_color",
    "new_image_data",
]
