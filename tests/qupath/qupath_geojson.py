"""Let a real QuPath read a GeoJSON file and write one: ``python qupath_geojson.py project.qpproj ENTRY OURS THEIRS``.

Prints a JSON object: its version, and what it makes of each object in OURS, by id. THEIRS becomes its own export of the entry's objects.
"""

from __future__ import annotations

import json
import os
import sys

from mxbridge.workspaces.qupath.builders import files_of
from mxbridge.workspaces.qupath.paquo import QuPath
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.uris import uri_of

path, number, ours, theirs = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
answer = os.fdopen(os.dup(1), "w", encoding="ascii")
os.dup2(2, 1)  # QuPath logs to standard output
project = Project.open(path)
places = {uri: uri_of(project.locate(uri)) for uri in files_of(project.entry(number).builder)}
qupath = QuPath()

import jpype  # noqa: E402 - once the JVM is there

io = jpype.JClass("qupath.lib.io.PathIO")
file = jpype.JClass("java.nio.file.Paths").get
told = {}
for item in io.readObjects(file(ours)):
    cell = item.getClass().getSimpleName() == "PathCellObject"
    told[str(item.getID())] = {
        "kind": str(item.getClass().getSimpleName()),
        "class": None if item.getPathClass() is None else str(item.getPathClass().toString()),
        "name": None if item.getName() is None else str(item.getName()),
        "nucleus": bool(cell and item.getNucleusROI() is not None),
        "measurements": int(item.getMeasurementList().size()),
    }
hierarchy = qupath.entry(path, number, places).readImageData().getHierarchy()
io.exportObjectsAsGeoJSON(file(theirs), hierarchy.getAllObjects(False))
answer.write(json.dumps({"version": str(qupath.version), "objects": told}))
answer.close()
