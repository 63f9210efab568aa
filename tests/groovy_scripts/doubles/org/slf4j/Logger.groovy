package org.slf4j

class Logger {
    void info(String text, Object... values) { say('INFO', text, values) }

    void warn(String text, Object... values) { say('WARN', text, values) }

    void error(String text, Object... values) { say('ERROR', text, values) }

    private static void say(String level, String text, Object[] values) {
        def filled = values.inject(text) { whole, value -> whole.replaceFirst(/\{\}/, java.util.regex.Matcher.quoteReplacement("$value")) }
        doubles.Calls.log << "$level $filled".toString()
    }
}
