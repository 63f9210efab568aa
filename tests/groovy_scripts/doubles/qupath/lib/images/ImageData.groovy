package qupath.lib.images

import qupath.lib.objects.Hierarchy

class ImageData {
    enum ImageType { BRIGHTFIELD_H_DAB, FLUORESCENCE, UNSET }

    Hierarchy hierarchy = new Hierarchy()
    ImageType imageType = ImageType.UNSET
    Object colorDeconvolutionStains
    boolean changed

    boolean isChanged() { changed }

    Map getServer() { [RGB: false, isRGB: { false }] }
}
