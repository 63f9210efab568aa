package qupath.lib.roi

import org.locationtech.jts.geom.MultiPolygon
import org.locationtech.jts.geom.Polygon
import qupath.lib.regions.ImagePlane

class Region {
    String kind
    List<List<List<Double>>> rings
}

class ROIs {
    static Region createPolygonROI(double[] x, double[] y, ImagePlane plane) {
        if (x[0] == 666) throw new IllegalArgumentException('a shape that QuPath does not make')
        new Region(kind: 'polygon', rings: [(0..<x.length).collect { [x[it], y[it]] }])
    }
}

class GeometryTools {
    static Region geometryToROI(Object geometry, ImagePlane plane) {
        def polygons = geometry instanceof MultiPolygon ? geometry.polygons as List : [geometry as Polygon]
        def rings = polygons.collectMany { [it.shell, *it.holes] }.collect { ring -> ring.coordinates.collect { [it.x, it.y] } }
        new Region(kind: 'geometry', rings: rings)
    }
}
