// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// What mxbridge found, on the objects that QuPath shows.

import org.locationtech.jts.geom.Coordinate
import org.locationtech.jts.geom.GeometryFactory
import org.locationtech.jts.geom.LinearRing
import org.locationtech.jts.geom.Polygon
import qupath.lib.objects.PathObjects
import qupath.lib.objects.classes.PathClass
import qupath.lib.regions.ImagePlane
import qupath.lib.roi.GeometryTools
import qupath.lib.roi.ROIs

/** Applies an exchange file that was checked to a hierarchy: every object is looked up by its id, none is searched for. */
class MxbridgeObjects {
    /** Ids that are not in the image any more; ids of new objects that are there already, which stay as they are. */
    final List<UUID> gone = []
    final List<UUID> there = []
    final List<PathClass> classes

    private final Object hierarchy
    private final MxbridgeExchange exchange
    private final Map<UUID, Object> byId = [:]

    MxbridgeObjects(Object hierarchy, MxbridgeExchange exchange) {
        this.hierarchy = hierarchy
        this.exchange = exchange
        classes = exchange.header.classes.collect { PathClass.fromString(it.name, it.color as Integer) }
        for (object in hierarchy.getFlattenedObjectList(null)) byId[object.getID()] = object
    }

    /** Change, remove and add; what was done, in words. What may fail comes before anything is changed. */
    List<String> apply() {
        def stays = { id -> byId.containsKey(id) && !exchange.removed.contains(id) }
        there.addAll(exchange.objects.keySet().findAll(stays))
        def added = exchange.objects.findAll { id, told -> !stays(id) }.collect { id, told -> newObject(id, told) }
        exchange.cells.each { change(it) }
        def removed = exchange.removed.findAll { byId.containsKey(it) }.collect { byId.remove(it) }
        hierarchy.removeObjects(removed, true)
        hierarchy.addObjects(added)
        changeImageValues(hierarchy.getRootObject().getMeasurementList())
        def done = []
        if (exchange.cells) done << "${exchange.cells.size() - gone.size()} objects changed".toString()
        if (exchange.header.columns) done << "measurements ${exchange.header.columns.join(', ')}".toString()
        if (removed) done << "${removed.size()} removed".toString()
        if (added) done << "${added.size()} added".toString()
        done
    }

    private void change(MxbridgeChange change) {
        def object = byId[change.id]
        if (object == null) {
            gone << change.id
            return
        }
        def list = object.getMeasurementList()
        List<String> columns = exchange.header.columns
        for (int k = 0; change.values != null && k < columns.size(); k++) list.put(columns[k], change.values[k])
        if (change.without) list.removeMeasurements(change.without)
        list.close()
        if (change.classNumber >= 0) object.setPathClass(classes[change.classNumber])
        if (change.classNumber == MxbridgeChange.NO_CLASS) object.resetPathClass()
    }

    private void changeImageValues(Object list) {
        if (exchange.imageRemoved) list.removeMeasurements(exchange.imageRemoved as String[])
        exchange.imageValues.each { name, value -> list.put(name, value) }
        list.close()
    }

    private Object newObject(UUID id, Map told) {
        def pathClass = told.c == null ? null : classes[told.c as int]
        def roi = region(told.geometry)
        def object
        if (told.kind == 'cell') object = PathObjects.createCellObject(roi, told.nucleus ? region(told.nucleus) : null, pathClass, null)
        else if (told.kind == 'detection') object = PathObjects.createDetectionObject(roi, pathClass)
        else object = PathObjects.createAnnotationObject(roi, pathClass)
        object.setID(id)
        if (told.name != null) object.setName(told.name)
        told.metadata?.each { key, value -> store(object, key, value) }
        def list = object.getMeasurementList()
        told.measurements?.each { name, value -> list.put(name, MxbridgeExchange.number(value)) }
        list.close()
        object
    }

    private static void store(Object object, String key, String value) {
        try {
            object.getMetadata().put(key, value)
        } catch (MissingMethodException | UnsupportedOperationException ignored) {
            object.storeMetadataValue(key, value)  // before QuPath 0.6: there is no such map, or it cannot be written to
        }
    }

    /** A polygon without holes as QuPath draws it; others as a geometry, exactly as they are told. */
    private static Object region(Map geometry) {
        def plane = ImagePlane.getDefaultPlane()
        def polygons = geometry.type == 'Polygon' ? [geometry.coordinates] : geometry.coordinates
        if (polygons.size() == 1 && polygons[0].size() == 1) {
            def points = polygons[0][0].init()  // closed in GeoJSON, open in QuPath
            return ROIs.createPolygonROI(points.collect { it[0] as double } as double[], points.collect { it[1] as double } as double[], plane)
        }
        def factory = new GeometryFactory()
        def made = polygons.collect { rings ->
            def closed = rings.collect { ring -> factory.createLinearRing(ring.collect { new Coordinate(it[0] as double, it[1] as double) } as Coordinate[]) }
            factory.createPolygon(closed[0], closed.tail() as LinearRing[])
        }
        GeometryTools.geometryToROI(made.size() == 1 ? made[0] : factory.createMultiPolygon(made as Polygon[]), plane)
    }
}
