// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// mxbridge as a program that runs beside QuPath.

import groovy.json.JsonException
import groovy.json.JsonSlurper
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicReference

/** Something that people can put right; the message says how. */
class MxbridgeProblem extends RuntimeException {
    MxbridgeProblem(String message) {
        super(message)
    }
}

/** mxbridge as a process beside QuPath: its progress is told, its answer is read, and it never outlives a stopped script. */
class MxbridgeCommand {
    private static final int LAST_LINES = 20
    private static final int ANSWER_LIMIT = 64 << 20

    private final List<String> words
    private final Closure tell
    private final List<String> errors = Collections.synchronizedList([])
    private String lastStep

    MxbridgeCommand(List<String> words, Closure tell) {
        this.words = words
        this.tell = tell
    }

    /** The document it answers with. Throws MxbridgeProblem with what mxbridge says, or with how it ended. */
    Map run() {
        def process = start()
        def answer = new AtomicReference('')
        def readers = [
            Thread.startDaemon { answer.set(textOf(process.inputStream)) },
            Thread.startDaemon { process.errorStream.eachLine('UTF-8') { hear(it) } },
        ]
        int code
        try {
            code = process.waitFor()
            readers*.join(10_000)
        } catch (InterruptedException ignored) {
            throw new MxbridgeProblem('Stopped. Nothing was changed; what is computed is kept, and the next run goes on from there')
        } finally {
            stop(process)
        }
        def document = parsed(answer.get())
        // 3: an image could not be done, which the document says; 8: stains are flagged
        if (document != null && code in [0, 3, 8]) return document
        throw new MxbridgeProblem(reason(code))
    }

    private Process start() {
        def builder = new ProcessBuilder(words)
        def environment = builder.environment()
        environment.remove('PYTHONHOME')  // of another Python that QuPath may have been started from
        environment.put('PYTHONUTF8', '1')
        environment.put('PYTHONSAFEPATH', '1')  // a folder named mxbridge beside the project is not the program
        try {
            def process = builder.start()
            process.outputStream.close()
            process
        } catch (IOException error) {
            throw new MxbridgeProblem("There is no Python at ${words[0]} ($error.message). Run mxbridge qupath install-scripts again, or correct " +
                "python = '...' at the top of the script")
        }
    }

    /** End it with what it has started: a launcher of a virtual environment, workers. */
    private static void stop(Process process) {
        def all = [*process.descendants().toList(), process.toHandle()].findAll { it.isAlive() }
        all*.destroy()
        if (all.any { !ended(it) }) all*.destroyForcibly()
    }

    private static boolean ended(ProcessHandle handle) {
        try {
            handle.onExit().get(5, TimeUnit.SECONDS)
            true
        } catch (Exception ignored) {
            false
        }
    }

    private static String textOf(InputStream stream) {
        new String(stream.readNBytes(ANSWER_LIMIT), 'UTF-8')
    }

    private static Map parsed(String text) {
        try {
            def found = text.isBlank() ? null : new JsonSlurper().parseText(text)
            found instanceof Map ? found : null
        } catch (JsonException ignored) {
            null
        }
    }

    /** A line of progress is JSON; whatever else is said is for people, and the last of it explains a failure. */
    private void hear(String line) {
        def event = line.startsWith('{') ? parsed(line) : null
        if (event == null) {
            errors << line
            if (errors.size() > LAST_LINES) errors.remove(0)
        } else if (event.event == 'step') {
            int tenths = event.total ? (10 * (event.done as long)).intdiv(event.total as long) : 0
            def step = "${event.name}: ${10 * tenths} %".toString()
            if (step != lastStep) tell(step)
            lastStep = step
        } else if (event.text) {
            tell(event.event == 'warning' ? "Warning: $event.text" : event.text)
        }
    }

    private String reason(int code) {
        def said = errors.findAll { !it.isBlank() }
        if (said.any { it.contains('No module named mxbridge') }) {
            return "The Python at ${words[0]} has no mxbridge. Run mxbridge qupath install-scripts again, from the Python that has it"
        }
        if (code == 0) return 'mxbridge gave no answer that can be read. Run mxbridge qupath install-scripts again, so that script and program fit'
        if (!said) return "mxbridge was ended from outside (exit code $code). Run this again: it goes on with what is done"
        said.join('\n').replaceFirst(/^error: /, '')
    }
}
