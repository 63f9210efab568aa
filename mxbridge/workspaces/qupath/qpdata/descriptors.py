"""The classes QuPath and the JDK write into data.qpdata, as they describe themselves in the stream.

Identical in QuPath 0.4.4 to 0.7.0 (measured). A file that has a class already uses its own description of it, and one
whose description differs from this table is read, but nothing of that class is written.
"""

from __future__ import annotations

from mxbridge.errors import Unsupported
from mxbridge.workspaces.qupath.javastream import ClassDesc, Field, JavaString

Q = "qupath.lib."

OBJECT, ROOT, ROI_OBJECT = f"{Q}objects.PathObject", f"{Q}objects.PathRootObject", f"{Q}objects.PathROIObject"
ANNOTATION, DETECTION = f"{Q}objects.PathAnnotationObject", f"{Q}objects.PathDetectionObject"
CELL, TILE, TMA_CORE = f"{Q}objects.PathCellObject", f"{Q}objects.PathTileObject", f"{Q}objects.TMACoreObject"
METADATA, PATH_CLASS = f"{Q}objects.MetadataMap", f"{Q}objects.classes.PathClass"
HIERARCHY, IMAGE_TYPE = f"{Q}objects.hierarchy.PathObjectHierarchy", f"{Q}images.ImageData$ImageType"
STAINS, WORKFLOW = f"{Q}color.ColorDeconvolutionStains", f"{Q}plugins.workflow.Workflow"
WORKFLOW_STEP = f"{Q}plugins.workflow.DefaultScriptableWorkflowStep"
NUMERIC_LIST = f"{Q}measurements.NumericMeasurementList$AbstractNumericMeasurementList"
FLOAT_LIST = f"{Q}measurements.NumericMeasurementList$FloatList"
DOUBLE_LIST = f"{Q}measurements.NumericMeasurementList$DoubleList"
DEFAULT_LIST = f"{Q}measurements.DefaultMeasurementList"
DOUBLE_MEASUREMENT = f"{Q}measurements.DoubleMeasurement"
RECTANGLE, ELLIPSE = f"{Q}roi.RectangleROI$SerializationProxy", f"{Q}roi.EllipseROI$SerializationProxy"
LINE, POLYGON = f"{Q}roi.LineROI$SerializationProxy", f"{Q}roi.PolygonROI$SerializationProxy"
POLYLINE, POINTS = f"{Q}roi.PolylineROI$SerializationProxy", f"{Q}roi.PointsROI$SerializationProxy"
GEOMETRY = f"{Q}roi.GeometryROI$WKBSerializationProxy"

_WRITES, _SERIALIZABLE, _EXTERNALIZABLE, _ENUM = 0x03, 0x02, 0x0C, 0x12

_BOX = "I c, I t, D x, D x2, D y, D y2, I z, L name java/lang/String"
_VERTICES = "I c, I t, I z, L name java/lang/String, [ x F, [ y F"

_TABLE: dict[str, tuple[int, int, str, str]] = {
    # name: (serialVersionUID, flags, fields in stream order, class above)
    "java.lang.Number": (-8742448824652078965, _SERIALIZABLE, "", ""),
    "java.lang.Integer": (1360826667806852920, _SERIALIZABLE, "I value", "java.lang.Number"),
    "java.lang.Double": (-9172774392245257468, _SERIALIZABLE, "D value", "java.lang.Number"),
    "java.lang.Boolean": (-3665804199014368530, _SERIALIZABLE, "Z value", ""),
    "java.lang.Enum": (0, _ENUM, "", ""),
    "[B": (-5984413125824719648, _SERIALIZABLE, "", ""),
    "[D": (4514449696888150558, _SERIALIZABLE, "", ""),
    "[F": (836686056779680834, _SERIALIZABLE, "", ""),
    "[Ljava.lang.Object;": (-8012369246846506644, _SERIALIZABLE, "", ""),
    "java.util.ArrayList": (8683452581122892189, _WRITES, "I size", ""),
    "java.util.HashMap": (362498820763181265, _WRITES, "F loadFactor, I threshold", ""),
    "java.util.LinkedHashMap": (3801124242820219131, _SERIALIZABLE, "Z accessOrder", "java.util.HashMap"),
    "java.util.Locale": (
        9149081749638150636,
        _WRITES,
        "I hashcode, L country java/lang/String, L extensions java/lang/String, L language java/lang/String, "
        "L script java/lang/String, L variant java/lang/String",
        "",
    ),
    IMAGE_TYPE: (0, _ENUM, "", "java.lang.Enum"),
    STAINS: (1, _EXTERNALIZABLE, "", ""),
    WORKFLOW: (1, _EXTERNALIZABLE, "", ""),
    WORKFLOW_STEP: (
        1,
        _SERIALIZABLE,
        "L map java/util/Map, L name java/lang/String, L script java/lang/String",
        "",
    ),
    METADATA: (1, _EXTERNALIZABLE, "", ""),
    OBJECT: (1, _EXTERNALIZABLE, "", ""),
    ROOT: (1, _EXTERNALIZABLE, "", OBJECT),
    ROI_OBJECT: (1, _EXTERNALIZABLE, "", OBJECT),
    ANNOTATION: (1, _EXTERNALIZABLE, "", ROI_OBJECT),
    DETECTION: (1, _EXTERNALIZABLE, "", ROI_OBJECT),
    CELL: (1, _EXTERNALIZABLE, "", DETECTION),
    TILE: (1, _EXTERNALIZABLE, "", DETECTION),
    PATH_CLASS: (
        1,
        _SERIALIZABLE,
        "L colorRGB java/lang/Integer, L name java/lang/String, L parentClass qupath/lib/objects/classes/PathClass",
        "",
    ),
    HIERARCHY: (
        1,
        _SERIALIZABLE,
        "L rootObject qupath/lib/objects/PathObject, L tmaGrid qupath/lib/objects/hierarchy/TMAGrid",
        "",
    ),
    NUMERIC_LIST: (1, _SERIALIZABLE, "Z isClosed, L map java/util/Map, L names java/util/List", ""),
    FLOAT_LIST: (1, _SERIALIZABLE, "[ values F", NUMERIC_LIST),
    DOUBLE_LIST: (1, _SERIALIZABLE, "[ values D", NUMERIC_LIST),
    DEFAULT_LIST: (1, _SERIALIZABLE, "L list java/util/ArrayList", ""),
    DOUBLE_MEASUREMENT: (1, _SERIALIZABLE, "D value, L name java/lang/String", ""),
    RECTANGLE: (1, _SERIALIZABLE, _BOX, ""),
    ELLIPSE: (1, _SERIALIZABLE, _BOX, ""),
    LINE: (1, _SERIALIZABLE, _BOX, ""),
    POLYGON: (
        1,
        _SERIALIZABLE,
        "I c, I t, I z, L name java/lang/String, L stats qupath/lib/roi/ClosedShapeStatistics, [ x F, [ y F",
        "",
    ),
    POLYLINE: (1, _SERIALIZABLE, "I c, I t, I z, [ x F, [ y F", ""),
    POINTS: (1, _SERIALIZABLE, _VERTICES, ""),
    GEOMETRY: (1, _SERIALIZABLE, "I c, I t, I z, L stats qupath/lib/roi/GeometryROI$GeometryStats, [ wkb B", ""),
}


class ClassTable:
    """Class descriptions for what is written into one file: the file's own where it has them, else those of the table."""

    def __init__(self, in_file: dict[str, ClassDesc]) -> None:
        self._in_file = in_file
        self._checked: dict[str, ClassDesc] = {}
        self._signatures: dict[str, JavaString] = {}

    def desc(self, name: str) -> ClassDesc:
        """Raises Unsupported when the file stores this class in another layout than any QuPath we know."""
        found = self._checked.get(name)
        if found is None:
            found = self._checked[name] = self._check(name) if name in self._in_file else self._make(name)
        return found

    def _make(self, name: str) -> ClassDesc:
        uid, flags, _, base = _TABLE[name]
        desc = ClassDesc(name, uid, flags)
        fields = tuple(
            Field(letter, field, None if signature is None else self._signature(signature))
            for letter, field, signature in _fields(name)
        )
        desc.complete(fields, [], self.desc(base) if base else None)
        return desc

    def _signature(self, text: str) -> JavaString:
        if text not in self._signatures:
            self._signatures[text] = JavaString.of(text)
        return self._signatures[text]

    def _check(self, name: str) -> ClassDesc:
        desc = self._in_file[name]
        _, flags, _, base = _TABLE[name]
        above = desc.base.name if desc.base else ""
        if desc.flags != flags or [f.key for f in desc.fields] != _fields(name) or above != base:
            raise Unsupported(
                f"class {name} is stored in a layout that no known QuPath writes",
                hint="It can be read, but not written; open and save it once in a released QuPath",
            )
        if base:
            self.desc(base)
        return desc


def _fields(name: str) -> list[tuple[str, str, str | None]]:
    """Letter, name and signature of each field of a class of the table."""
    fields: list[tuple[str, str, str | None]] = []
    for text in filter(None, _TABLE[name][2].split(", ")):
        letter, field, *signature = text.split(" ")
        if letter == "L":
            fields.append((letter, field, f"L{signature[0]};"))
        elif letter == "[":
            fields.append((letter, field, f"[{signature[0]}"))
        else:
            fields.append((letter, field, None))
    return fields
