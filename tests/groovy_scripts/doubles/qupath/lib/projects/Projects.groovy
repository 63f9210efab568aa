package qupath.lib.projects

import doubles.Calls
import java.nio.file.Files
import java.nio.file.Path
import qupath.lib.images.ImageData

class Entry {
    Path folder
    String id, imageName, description
    Object serverBuilder
    Map<String, String> metadata = [:]

    String getID() { id }

    Path getEntryPath() { folder }

    String getMetadataValue(String key) { metadata[key] }

    String putMetadataValue(String key, String value) { metadata[key] = value }

    boolean hasImageData() { Files.exists(folder.resolve('data.qpdata')) }

    ImageData readImageData() { new ImageData() }

    void saveImageData(ImageData data) {
        Calls.count("save $id".toString())
        Files.createDirectories(folder)
        folder.resolve('data.qpdata').toFile().text = "saved: ${data.hierarchy.objects.size()}"
        data.changed = false
    }
}

class Project {
    Path path
    List<Entry> imageList = []
    List pathClasses = []

    void syncChanges() {
        Calls.count('syncChanges')
        path.toFile().text = '{}'
    }

    boolean setPathClasses(Collection classes) {
        pathClasses = classes as List
        true
    }

    Entry addImage(Object builder) {
        def id = imageList.collect { it.id as int }.max() + 1
        def entry = new Entry(id: id as String, serverBuilder: builder, folder: path.parent.resolve("data/$id"))
        imageList << entry
        entry
    }
}
