"""Open every image of a project in a real QuPath and save it there: ``python qupath_saves.py project.qpproj``."""

from __future__ import annotations

import sys

from mxbridge.workspaces.qupath.builders import files_of
from mxbridge.workspaces.qupath.paquo import QuPath
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.uris import uri_of

path = sys.argv[1]
project = Project.open(path)
qupath = QuPath()
for entry in project.entries:
    places = {uri: uri_of(project.locate(uri)) for uri in files_of(entry.builder)}
    opened = qupath.entry(path, entry.id, places)
    opened.saveImageData(opened.readImageData())
qupath.project(path).syncChanges()
print(qupath.version)
