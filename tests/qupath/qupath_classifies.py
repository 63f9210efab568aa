"""Let a real QuPath apply an object classifier of a project: ``python qupath_classifies.py project.qpproj ENTRY NAME``.

Prints a JSON object, the class of each object by its id (null for none). Nothing is saved.
"""

from __future__ import annotations

import json
import os
import sys

from mxbridge.workspaces.qupath.builders import files_of
from mxbridge.workspaces.qupath.paquo import QuPath, object_facts
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.uris import uri_of

path, number, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
answer = os.fdopen(os.dup(1), "w", encoding="ascii")
os.dup2(2, 1)  # QuPath logs to standard output
project = Project.open(path)
places = {uri: uri_of(project.locate(uri)) for uri in files_of(project.entry(number).builder)}
qupath = QuPath()

import jpype  # noqa: E402 - once the JVM is there

known = jpype.JClass("qupath.lib.classifiers.object.ObjectClassifiers").getTypeAdapterFactory()
jpype.JClass("qupath.lib.io.GsonTools").getDefaultBuilder().registerTypeAdapterFactory(known)  # as QuPath's window does
data = qupath.entry(path, number, places).readImageData()
classifier = qupath.project(path).getObjectClassifiers().get(name)
classifier.classifyObjects(data, classifier.getCompatibleObjects(data), True)
found = [object_facts(o) for o in data.getHierarchy().getFlattenedObjectList(None) if not o.isRootObject()]
answer.write(json.dumps({o["id"]: o["class_name"] for o in found}))
answer.close()
