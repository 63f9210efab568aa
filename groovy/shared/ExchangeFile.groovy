// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// What mxbridge found, as it is handed over to QuPath.

import groovy.json.JsonSlurper
import groovy.transform.CompileStatic
import java.nio.charset.StandardCharsets
import java.security.MessageDigest
import java.util.zip.GZIPInputStream

/** What one object becomes. values: one per column, or null. without: measurements to take away. */
@CompileStatic
class MxbridgeChange {
    static final int KEEP = -2
    static final int NO_CLASS = -1

    UUID id
    double[] values
    String[] without
    int classNumber = KEEP
}

/** An exchange file, read and checked as a whole before anything is changed. */
@CompileStatic
class MxbridgeExchange {
    /** Of the exchange file and of the settings at the top of the buttons. */
    static final int FORMAT = 1

    private static final double COORDINATE_LIMIT = 1e8
    private static final String AGAIN = 'Nothing was changed; run mxbridge Apply results'

    Map header
    List<MxbridgeChange> cells = []
    Set<UUID> removed = []
    Map<UUID, Map> objects = [:]
    Map<String, Double> imageValues = [:]
    List<String> imageRemoved = []
    private final Set<UUID> changed = []

    /** Throws MxbridgeProblem where the file is not there, not whole, of another version, or says something that makes no sense. */
    static MxbridgeExchange read(File file) {
        def exchange = new MxbridgeExchange()
        try {
            def strict = StandardCharsets.UTF_8.newDecoder()  // other bytes are an error, and not a question mark in a name
            new InputStreamReader(new GZIPInputStream(new FileInputStream(file), 1 << 16), strict).withCloseable { Reader reader ->
                exchange.fill(new MxbridgeLines(reader))
            }
        } catch (MxbridgeProblem problem) {
            throw new MxbridgeProblem("$file: $problem.message".toString())
        } catch (IOException | RuntimeException | StackOverflowError error) {
            def reason = "${error.message ?: error.class.simpleName}".readLines().first().take(200)
            throw new MxbridgeProblem("$file is damaged ($reason). $AGAIN".toString())
        }
        exchange
    }

    /** Whether it leaves all objects and values as they are. */
    boolean isEmpty() {
        cells.isEmpty() && removed.isEmpty() && objects.isEmpty() && imageValues.isEmpty() && imageRemoved.isEmpty()
    }

    private void fill(MxbridgeLines lines) {
        header = lines.next()
        if (header.format != 'mxbridge-exchange') throw new MxbridgeProblem("is no exchange file of mxbridge. $AGAIN".toString())
        if (header.version != FORMAT) {
            throw new MxbridgeProblem("has format ${header.version}, this script speaks ${FORMAT}: run mxbridge qupath install-scripts again".toString())
        }
        checkHeader()
        def counts = (Map) header.counts
        int count = counts.lines as int
        for (int number = 2; number < count; number++) take(lines.next())
        boolean whole = lines.next().end == count - 1 && lines.isAtEnd()
        if (!whole || cells.size() != counts.cells || removed.size() != counts.removed || objects.size() != counts.objects) {
            throw new MxbridgeProblem("is not whole. $AGAIN".toString())
        }
    }

    private void checkHeader() {
        boolean named = ((List) header.columns).every { it instanceof String }
        named &= ((List) header.classes).every { ((Map) it).name instanceof String }
        named &= ((List) header.entries).every { ((Map) it).name instanceof String && ((Map) it).serverBuilder instanceof Map && ((Map) it).metadata instanceof Map }
        if (!named || ((Map) header.image).id == null) throw new IllegalArgumentException('its first line does not name what it is about')
    }

    private void take(Map line) {
        if (line.containsKey('image')) {
            (line.image as Map).each { name, value -> imageValues[name as String] = number(value) }
        } else if (line.containsKey('image_remove')) {
            imageRemoved.addAll(line.image_remove as List<String>)
        } else {
            def id = UUID.fromString(line.id as String)
            boolean another
            if (line.containsKey('remove')) {
                another = removed.add(id)
            } else if (line.containsKey('object')) {
                another = objects.put(id, checked(line.object as Map)) == null
            } else {
                another = changed.add(id)
                cells << changeOf(id, line)
            }
            if (!another) throw new IllegalArgumentException("$id is there twice".toString())
        }
    }

    private MxbridgeChange changeOf(UUID id, Map line) {
        def change = new MxbridgeChange(id: id)
        if (line.m != null) {
            def told = line.m as List
            if (told.size() != (header.columns as List).size()) throw new IllegalArgumentException("${told.size()} values for $id".toString())
            change.values = new double[told.size()]
            for (int k = 0; k < told.size(); k++) change.values[k] = number(told[k])
        }
        if (line['-'] != null) change.without = (line['-'] as List<String>) as String[]
        if (line.c != null) change.classNumber = classNumber(line.c, MxbridgeChange.NO_CLASS)
        change
    }

    private Map checked(Map object) {
        if (!(object.kind in ['annotation', 'detection', 'cell'])) throw new IllegalArgumentException("an object of kind $object.kind".toString())
        if (object.c != null) classNumber(object.c, 0)
        checkOutline((Map) object.geometry)
        if (object.nucleus != null) checkOutline((Map) object.nucleus)
        if (object.name != null && !(object.name instanceof String)) throw new IllegalArgumentException('a name that is no text')
        ((Map) object.measurements)?.each { name, value -> number(value) }
        boolean texts = ((Map) object.metadata ?: [:]).every { name, value -> value instanceof String }
        if (!texts) throw new IllegalArgumentException('metadata that are no text')
        object
    }

    private static void checkOutline(Map shape) {
        def polygons = shape.type == 'Polygon' ? [shape.coordinates] : (List) shape.coordinates
        if (polygons.isEmpty()) throw new IllegalArgumentException('an outline without rings')
        for (polygon in polygons) {
            if (((List) polygon).isEmpty()) throw new IllegalArgumentException('an outline without rings')
            for (ring in (List) polygon) {
                if (((List) ring).size() < 4 || ((List) ring).first() != ((List) ring).last()) throw new IllegalArgumentException('an outline that is no polygon')
                for (point in (List) ring) {
                    def numbers = (List) point
                    if (numbers.size() != 2 || !numbers.every { isPixel(it) }) throw new IllegalArgumentException('an outline that is no polygon')
                }
            }
        }
    }

    private static boolean isPixel(Object told) {
        told instanceof Number && Math.abs(((Number) told).doubleValue()) <= COORDINATE_LIMIT
    }

    private int classNumber(Object told, int lowest) {
        int number = told as int
        if (number < lowest || number >= (header.classes as List).size()) throw new IllegalArgumentException("there is no class $number".toString())
        number
    }

    static String sha256(File file) {
        def digest = MessageDigest.getInstance('SHA-256')
        file.withInputStream { stream ->
            def block = new byte[1 << 16]
            for (int count = stream.read(block); count >= 0; count = stream.read(block)) digest.update(block, 0, count)
        }
        digest.digest().encodeHex().toString()
    }

    /** As QuPath keeps it: null is NaN, and others are what a float can hold. */
    static double number(Object told) {
        told == null ? Double.NaN : (double) (told as Number).floatValue()
    }
}

/** Lines of bounded length, each a JSON document: a file may be anything until it was read. */
@CompileStatic
class MxbridgeLines {
    private static final int LIMIT = 64 << 20
    private static final long LIMIT_OF_ALL = 4L << 30

    private final JsonSlurper slurper = new JsonSlurper()
    private final Reader reader
    private final char[] block = new char[1 << 16]
    private int at = 0
    private int filled = 0
    private long taken = 0

    MxbridgeLines(Reader reader) {
        this.reader = reader
    }

    /** Nothing but the end comes now. */
    boolean isAtEnd() {
        if (at == filled) {
            at = 0
            filled = reader.read(block)
            taken += filled
            if (taken > LIMIT_OF_ALL) throw new IOException('it is too large')
        }
        filled < 0
    }

    Map next() {
        def line = new StringBuilder()
        while (!isAtEnd()) {
            int from = at
            while (at < filled && block[at] != (char) '\n') at++
            line.append(block, from, at - from)
            if (line.length() > LIMIT) throw new IOException('a line without end')
            if (at < filled) {
                at++
                return (Map) slurper.parseText(line.toString())
            }
        }
        throw new EOFException('it ends too early')
    }
}
