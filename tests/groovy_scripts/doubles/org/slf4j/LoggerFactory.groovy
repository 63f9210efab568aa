package org.slf4j

class LoggerFactory {
    static Logger getLogger(String name) { new Logger() }
}
