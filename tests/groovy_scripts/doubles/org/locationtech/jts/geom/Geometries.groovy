package org.locationtech.jts.geom

class Coordinate {
    double x, y

    Coordinate(double x, double y) {
        this.x = x
        this.y = y
    }
}

class LinearRing {
    Coordinate[] coordinates
}

class Polygon {
    LinearRing shell
    LinearRing[] holes
}

class MultiPolygon {
    Polygon[] polygons
}

class GeometryFactory {
    LinearRing createLinearRing(Coordinate[] coordinates) {
        if (coordinates[0].x != coordinates[-1].x || coordinates[0].y != coordinates[-1].y) throw new IllegalArgumentException('open ring')
        new LinearRing(coordinates: coordinates)
    }

    Polygon createPolygon(LinearRing shell, LinearRing[] holes) { new Polygon(shell: shell, holes: holes) }

    MultiPolygon createMultiPolygon(Polygon[] polygons) { new MultiPolygon(polygons: polygons) }
}
