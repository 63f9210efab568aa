// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// Images that mxbridge made, in the list of the project.

import groovy.json.JsonOutput
import org.slf4j.Logger
import org.slf4j.LoggerFactory
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServerBuilder
import qupath.lib.io.GsonTools

/** Entries of the project that show an image with what was derived from it. */
class MxbridgeEntries {
    private static final Logger log = LoggerFactory.getLogger('mxbridge')
    private static final String OBJECTS = '_mxbridge.objects'

    private final Object project
    private final Object imageData

    MxbridgeEntries(Object project, Object imageData) {
        this.project = project
        this.imageData = imageData
    }

    /** Add the entries that are told, or change those they replace. What was told. */
    List put(List told) {
        told.each { one ->
            try {
                putOne(one)
            } catch (IOException | RuntimeException error) {  // pixels that have moved, a disk that is full
                log.warn('{} is not complete in the project: {}', one.name, error.message)
            }
        }
        if (told) project.syncChanges()
        told
    }

    private void putOne(Map told) {
        def builder = GsonTools.getInstance().fromJson(JsonOutput.toJson(told.serverBuilder), ImageServerBuilder.ServerBuilder)
        def there = told.replaces == null ? null : project.getImageList().find { it.getID() == told.replaces.toString() }
        boolean ours = there == null || copyIsOurs(there)
        if (there == null) {
            there = project.addImage(builder)
            there.setImageName(told.name)
            there.setDescription(told.description)
        } else {
            there.@serverBuilder = builder  // QuPath offers no other way to show more channels in the same entry
        }
        told.metadata.each { key, value -> there.putMetadataValue(key, value) }
        if (ours && told.objects == 'copy') copyObjects(there, told.metadata.containsKey('_mxbridge.apart'))
    }

    private static File dataOf(Object there) {
        there.getEntryPath().resolve('data.qpdata').toFile()
    }

    private static boolean copyIsOurs(Object there) {
        !dataOf(there).isFile() || MxbridgeExchange.sha256(dataOf(there)) == there.getMetadataValue(OBJECTS)
    }

    /** apart: the entry shows what was derived by itself, and not beside the channels of the image. */
    private void copyObjects(Object there, boolean apart) {
        def bytes = new ByteArrayOutputStream()
        new ObjectOutputStream(bytes).withCloseable { it.writeObject(imageData.getHierarchy()) }
        def objects = new ObjectInputStream(new ByteArrayInputStream(bytes.toByteArray())).withCloseable { it.readObject() }
        def copy = there.readImageData()
        copy.getHierarchy().setHierarchy(objects)
        boolean fluorescence = apart && !copy.getServer().isRGB()
        copy.setImageType(fluorescence ? ImageData.ImageType.FLUORESCENCE : imageData.getImageType())
        if (!fluorescence && imageData.getColorDeconvolutionStains() != null) copy.setColorDeconvolutionStains(imageData.getColorDeconvolutionStains())
        there.saveImageData(copy)
        there.putMetadataValue(OBJECTS, MxbridgeExchange.sha256(dataOf(there)))
    }
}
