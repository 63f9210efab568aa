// Stand-ins for the few classes of QuPath that the scripts touch, with counts of what is called. Real QuPath is asked by the
// tests marked `qupath`; these answer where there is none, and they play what no test can do to a real one.
package doubles

/** What happened, and how often; the driver hands it to the tests. */
class Calls {
    static Map<String, Integer> counts = [:].withDefault { 0 }
    static List<String> log = Collections.synchronizedList([])
    static List<String> dialogs = []

    static void count(String what) {
        counts[what] = counts[what] + 1
    }

    static void reset() {
        counts.clear()
        log.clear()
        dialogs.clear()
    }
}
