package qupath.lib.images.servers

class ImageServerBuilder {
    static class ServerBuilder {
        Map told
    }
}
