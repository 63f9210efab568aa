package qupath.lib.objects.classes

class PathClass implements Serializable {
    private static final Map<String, PathClass> known = [:]
    String name
    Integer color

    static PathClass fromString(String name, Integer color) {
        doubles.Calls.count('PathClass.fromString')
        known.computeIfAbsent(name) { new PathClass(name: name, color: color) }
    }

    static void forget() { known.clear() }

    String toString() { name }
}
