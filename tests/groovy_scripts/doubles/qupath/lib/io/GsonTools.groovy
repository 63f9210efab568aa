package qupath.lib.io

import groovy.json.JsonSlurper
import qupath.lib.images.servers.ImageServerBuilder

class GsonTools {
    static GsonTools getInstance() { new GsonTools() }

    Object fromJson(String text, Class type) {
        if (type != ImageServerBuilder.ServerBuilder) throw new IllegalArgumentException("$type")
        new ImageServerBuilder.ServerBuilder(told: new JsonSlurper().parseText(text))
    }
}
