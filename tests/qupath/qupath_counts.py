"""Let a real QuPath count: ``python qupath_counts.py project.qpproj ENTRY``.

Prints a JSON object: the image's type and the values of the image as a whole, and for every annotation (by id) its values and
how many detections QuPath finds within it, in all and of the classes that it calls positive and negative, from which its
tables make ``Positive %``. Nothing is saved.
"""

from __future__ import annotations

import json
import os
import sys

from mxbridge.workspaces.qupath.builders import files_of
from mxbridge.workspaces.qupath.paquo import QuPath
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.uris import uri_of

path, number = sys.argv[1], int(sys.argv[2])
answer = os.fdopen(os.dup(1), "w", encoding="ascii")
os.dup2(2, 1)  # QuPath logs to standard output
project = Project.open(path)
places = {uri: uri_of(project.locate(uri)) for uri in files_of(project.entry(number).builder)}
qupath = QuPath()

import jpype  # noqa: E402 - once the JVM is there


def values(item) -> dict[str, float]:
    kept = item.getMeasurementList()
    names = kept.getNames() if hasattr(kept, "getNames") else kept.getMeasurementNames()  # before 0.6
    return {str(name): float(kept.get(name)) for name in names}


told = jpype.JClass("qupath.lib.objects.classes.PathClassTools")
data = qupath.entry(path, number, places).readImageData()
hierarchy = data.getHierarchy()
annotations = {}
for item in hierarchy.getAnnotationObjects():
    within = [o.getPathClass() for o in hierarchy.getObjectsForROI(None, item.getROI()) if o.isDetection()]
    positive, negative = (
        sum(bool(told.isPositiveClass(c)) for c in within),
        sum(bool(told.isNegativeClass(c)) for c in within),
    )
    bases = sorted({str(told.getNonIntensityAncestorClass(c)) for c in within})
    annotations[str(item.getID())] = {
        "values": values(item), "all": len(within), "positive": positive, "negative": negative, "bases": bases,
    }  # fmt: skip
image = {"type": str(data.getImageType()), "values": values(hierarchy.getRootObject())}
answer.write(json.dumps({"image": image, "annotations": annotations}))
answer.close()
