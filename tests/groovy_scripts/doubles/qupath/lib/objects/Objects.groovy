package qupath.lib.objects

import doubles.Calls
import groovy.transform.CompileStatic
import qupath.lib.objects.classes.PathClass

@CompileStatic
class MeasurementList implements Serializable {
    final LinkedHashMap<String, Double> values = [:]
    boolean isClosed

    void put(String name, double value) { values[name] = value }

    double get(String name) { values.containsKey(name) ? values[name] : Double.NaN }

    boolean containsKey(String name) { values.containsKey(name) }

    void removeMeasurements(String... names) { for (name in names) values.remove(name) }

    void close() { isClosed = true }
}

@CompileStatic
class PathObject implements Serializable {
    UUID id = UUID.randomUUID()
    String kind, name
    Object roi, nucleus
    PathClass pathClass
    MeasurementList list = new MeasurementList()
    Map<String, String> metadata = [:]

    UUID getID() { id }

    void setID(UUID id) { this.id = id }

    boolean isAnnotation() { kind == 'annotation' }

    MeasurementList getMeasurementList() { list }

    boolean resetPathClass() {
        boolean had = pathClass != null
        pathClass = null
        had
    }
}

class PathObjects {
    static PathObject createCellObject(Object roi, Object nucleus, PathClass pathClass, MeasurementList list) {
        new PathObject(kind: 'cell', roi: roi, nucleus: nucleus, pathClass: pathClass)
    }

    static PathObject createDetectionObject(Object roi, PathClass pathClass) {
        new PathObject(kind: 'detection', roi: roi, pathClass: pathClass)
    }

    static PathObject createAnnotationObject(Object roi, PathClass pathClass) {
        new PathObject(kind: 'annotation', roi: roi, pathClass: pathClass)
    }
}

class SelectionModel {
    List<PathObject> selectedObjects
}

/** Asking for one object costs a look through all of them, as in QuPath; so that is counted. */
class Hierarchy implements Serializable {
    PathObject root = new PathObject(kind: 'root')
    List<PathObject> objects = []
    List<PathObject> selected = []

    PathObject getRootObject() { root }

    List<PathObject> getFlattenedObjectList(List<PathObject> list) {
        Calls.count('getFlattenedObjectList')
        [root, *objects]
    }

    SelectionModel getSelectionModel() { new SelectionModel(selectedObjects: selected) }

    void removeObjects(Collection<PathObject> gone, boolean keepChildren) {
        Calls.count('removeObjects')
        if (!keepChildren) throw new IllegalArgumentException('children of a removed object are somebody else\'s')
        objects.removeAll(gone.toSet())
    }

    boolean addObjects(Collection<PathObject> more) {
        Calls.count('addObjects')
        objects.addAll(more)
    }

    void setHierarchy(Hierarchy other) {
        root = other.root
        objects = other.objects
    }
}
