package qupath.lib.regions

class ImagePlane {
    static final ImagePlane DEFAULT = new ImagePlane()

    static ImagePlane getDefaultPlane() { DEFAULT }
}
