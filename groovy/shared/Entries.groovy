// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// Images that mxbridge made, in the list of the project.

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
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

    /**
     * Refuse where the project on disk has images that QuPath has not: it would drop them from the list when it saves the
     * project, and the number of a new image, and with it the file of its objects, would be that of one of them.
     */
    void check(List told) {
        def file = project.getPath().toFile()
        if (!told || !file.isFile()) return
        def known = project.getImageList()*.getID() as Set
        def unknown = new JsonSlurper().parse(file, 'UTF-8').images?.findAll { !(it.entryID?.toString() in known) }
        if (!unknown) return
        throw new MxbridgeProblem("The project has images that QuPath does not know of (${unknown.first().imageName}), nothing was changed: " +
            'something was added since it was opened. Close and open the project, then run mxbridge Apply results')
    }

    /** Add the entries that are told, or change those they replace. Those that are there now. */
    List put(List told) {
        def done = told.findAll { one ->
            try {
                putOne(one)
                true
            } catch (IOException | RuntimeException error) {  // pixels that have moved, a disk that is full
                log.warn('{} is not complete in the project: {}. Run mxbridge Apply results, or take it over with mxbridge publish', one.name, error.message)
                false
            }
        }
        if (told) project.syncChanges()
        done
    }

    private void putOne(Map told) {
        def builder = GsonTools.getInstance().fromJson(JsonOutput.toJson(told.serverBuilder), ImageServerBuilder.ServerBuilder)
        def there = told.replaces == null ? null : project.getImageList().find { it.getID() == told.replaces.toString() }
        if (there == null && told.replaces != null) throw new IllegalStateException('QuPath does not know the image that it replaces: close and open the project')
        boolean fresh = there == null
        if (fresh) there = project.addImage(builder)
        boolean ours = copyIsOurs(there)
        if (fresh) {
            there.setImageName(told.name)
            there.setDescription(told.description)
        } else {
            showIn(there, builder)
        }
        told.metadata.each { key, value -> there.putMetadataValue(key, value) }
        if (ours && told.objects == 'copy') copyObjects(there, told.metadata.containsKey('_mxbridge.apart'))
    }

    /** QuPath offers no other way to show more channels in the same entry. */
    private static void showIn(Object there, Object builder) {
        try {
            there.@serverBuilder = builder
        } catch (MissingFieldException | ReadOnlyPropertyException ignored) {
            throw new IllegalStateException('this QuPath has no way to show more channels in an image that is there. Close the project, then run mxbridge publish RUN')
        }
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
