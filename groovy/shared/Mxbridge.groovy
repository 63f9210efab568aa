// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// What a press of a button does: run mxbridge beside QuPath, and take over what it found.
//
// The text is the same for QuPath 0.4 to 0.7, with and without its window. The window's classes are therefore only looked up
// by name, and of QuPath's core only what all these versions have is called.

import groovy.json.JsonException
import groovy.json.JsonSlurper
import org.slf4j.Logger
import org.slf4j.LoggerFactory
import qupath.lib.scripting.QP

/** One press of a button, on the image that the script was started for. */
class Mxbridge {
    /** Of the exchange file and of the settings at the top of the buttons. */
    static final int FORMAT = MxbridgeExchange.FORMAT

    private static final Logger log = LoggerFactory.getLogger('mxbridge')

    private final Object project = QP.getProject()
    private final Object entry = QP.getProjectEntry()
    private final Object imageData = QP.getCurrentImageData()
    private final String python

    /** python: the Python program that has mxbridge, as an absolute path. */
    Mxbridge(String python) {
        this.python = python
    }

    /** Run one task on the image and take its results over. region: 'image', or 'selected' annotations. */
    void run(String task, List options, String region) {
        telling {
            checkImage()
            def inside = inside(region)
            save()
            def answer = command([task, *place(), *options, *inside, '--no-publish', '--progress', 'json', '--json'])
            def image = answer.images?.find { it.id?.toString() == entry.getID() }
            if (image?.error) throw new MxbridgeProblem(image.error.toString())
            takeOver(answer.folder.toString())
        }
    }

    /** Run a task that changes nothing in the image, and tell the lines that `summary` makes of its answer. */
    void look(String task, List options, String region, Closure<List<String>> summary) {
        telling {
            checkImage()
            def inside = inside(region)
            save()
            def answer = command([task, *place(), *options, *inside, '--progress', 'json', '--json'])
            summary(answer).each { log.info('{}', it) }
            log.info('Tables and pictures: {}', answer.folder)
        }
    }

    /** Take over the results of a run that is there. run: its folder or its name; '' is the newest that waits for it. */
    void applyRun(String run) {
        telling {
            checkImage()
            takeOver(run ? folderOf(run) : newestRun())
        }
    }

    // --- where the script is ---

    private void checkImage() {
        if (imageData == null) throw new MxbridgeProblem('No image is open. Open one of a project, then run this again')
        if (project == null || entry == null) {
            throw new MxbridgeProblem('This image is in no project. Make one (File > Project > Create project), add the image, then run this again')
        }
        if (entry.getMetadataValue('_mxbridge.joined') != null || entry.getMetadataValue('_mxbridge.apart') != null) {
            throw new MxbridgeProblem("${entry.getImageName()} was made by mxbridge from another image. Run this on that one")
        }
    }

    private List<String> place() {
        ['--project', project.getPath().toString(), '--image', "id:${entry.getID()}".toString()]
    }

    private File projectFolder() {
        project.getPath().getParent().toFile()
    }

    private File dataFile() {
        entry.getEntryPath().resolve('data.qpdata').toFile()
    }

    /** Options for the selected annotations. */
    private List<String> inside(String region) {
        if (region == 'image') return []
        if (region != 'selected') throw new MxbridgeProblem("region = '$region' is neither 'image' nor 'selected'")
        def chosen = imageData.getHierarchy().getSelectionModel().getSelectedObjects().findAll { it.isAnnotation() }
        if (!chosen) throw new MxbridgeProblem("Select one or more annotations first, or set region = 'image' at the top of the script")
        chosen.collectMany { ['--inside', it.getID().toString()] }
    }

    /** QuPath's window, or null where there is none. */
    private static Object window() {
        try {
            Class.forName('qupath.lib.gui.QuPathGUI', true, QP.classLoader).getInstance()
        } catch (ClassNotFoundException | NoClassDefFoundError ignored) {
            null
        }
    }

    // --- what is on disk, and what is in front of the user ---

    /** Bring what is shown to disk, where mxbridge reads it; what is there already stays untouched. */
    private void save() {
        if (!project.getPath().toFile().exists()) project.syncChanges()
        refuseAnOlderState()
        if (imageData.isChanged() || !entry.hasImageData()) entry.saveImageData(imageData)
    }

    /** mxbridge may have written to the file while the image was open: QuPath does not notice and would write over it. */
    private void refuseAnOlderState() {
        def record = new File(projectFolder(), "mxbridge/published/${entry.getID()}.json")
        if (!record.isFile() || !dataFile().isFile()) return
        def told = new JsonSlurper().parse(record, 'UTF-8')
        def other = notShown(told)
        boolean handedOver = told.journal != null && told.journal.after == null && told.journal.samples != null
        if (other && handedOver && notShown(told.journal) == null) return  // a button was here since, and nobody has saved yet
        if (other && told.written == MxbridgeExchange.sha256(dataFile())) {
            throw new MxbridgeProblem("mxbridge has written to this image since you opened it ($other): File > Reload data, then run this again. " +
                'To keep what is shown instead, save it first (File > Save)')
        }
    }

    /** Something that the image in front of the user has not, or has otherwise, of what is told; null where there is nothing. */
    private String notShown(Map told) {
        def missing = missingNames(told.state?.measurements?.keySet(), told.state?.image_values?.keySet())
        if (missing || told.samples == null) return missing ? missing.first() : null
        def byId = imageData.getHierarchy().getFlattenedObjectList(null).collectEntries { [it.getID().toString(), it] }
        def stale = told.samples.values?.find { name, values -> values.any { id, value -> byId[id] != null && hasOther(byId[id], name, value) } }
        if (stale != null) return stale.key
        def classes = (told.samples.classes ?: [:]).findAll { id, name -> byId[id] != null }
        if (classes && !classes.any { id, name -> byId[id].getPathClass()?.toString() == name }) return 'classes'
        def made = told.samples.objects ?: []
        made && !made.any { byId[it] != null } ? 'objects' : null
    }

    private static boolean hasOther(Object object, String name, Object value) {
        def list = object.getMeasurementList()
        !list.containsKey(name) || Float.compare((float) list.get(name), (float) MxbridgeExchange.number(value)) != 0
    }

    private Set<String> missingNames(Collection<String> ofObjects, Collection<String> ofImage) {
        def hierarchy = imageData.getHierarchy()
        def missing = new LinkedHashSet<String>(ofObjects ?: [])
        for (object in hierarchy.getFlattenedObjectList(null)) {
            if (missing.isEmpty()) break
            def list = object.getMeasurementList()
            missing.removeIf { list.containsKey(it) }
        }
        def root = hierarchy.getRootObject().getMeasurementList()
        missing + (ofImage ?: []).findAll { !root.containsKey(it) }
    }

    // --- mxbridge itself ---

    private Map command(List arguments) {
        def command = new MxbridgeCommand([python, '-m', 'mxbridge', *arguments]*.toString(), { log.info('{}', it) })
        command.run()
    }

    private String folderOf(String run) {
        def named = new File(run)
        named.isAbsolute() || named.isDirectory() ? run : new File(runsFolder(), run).toString()
    }

    private File runsFolder() {
        new File(projectFolder(), 'mxbridge-runs')
    }

    /** The newest run of this project that has results for this image which were not published. */
    private String newestRun() {
        def folders = (runsFolder().listFiles() ?: []).findAll { new File(it, 'run.json').isFile() }
        def found = folders.sort { it.name }.reverse().find { folder ->
            try {
                def images = new JsonSlurper().parse(new File(folder, 'run.json'), 'UTF-8').images
                images.any { it.id?.toString() == entry.getID() && it.status == 'computed' }
            } catch (JsonException | IOException | MissingPropertyException ignored) {
                false  // a run that is just being written, or that is damaged, is not the one
            }
        }
        if (found == null) throw new MxbridgeProblem("There are no results waiting for ${entry.getImageName()} in ${runsFolder()}")
        found.toString()
    }

    // --- from a run to the image in front of the user ---

    private void takeOver(String run) {
        log.info('{}: results of {}', entry.getImageName(), run)
        save()  // again: the user may have gone on working while mxbridge did
        def answer = command(['qupath', 'hand-over', run, *place(), '--format', FORMAT, '--json'])
        def image = answer.images?.find { it.id?.toString() == entry.getID() }
        if (image == null) throw new MxbridgeProblem("$run has no results for ${entry.getImageName()}")
        if (image.error) throw new MxbridgeProblem(image.error.toString())
        if (image.file == null) {
            log.info('{}: nothing to change. {}', entry.getImageName(), (image.notes ?: []).join('. '))
            return
        }
        def exchange = MxbridgeExchange.read(new File(image.file.toString()))
        check(exchange)
        def views = new MxbridgeEntries(project, imageData)
        views.check(exchange.header.entries)
        def done = exchange.isEmpty() ? [] : apply(exchange)
        def entries = views.put(exchange.header.entries)
        if (exchange.header.entries) inWindow { it.refreshProject() }
        (image.notes ?: []).each { log.info('{}', it) }
        done += entries.collect { "image $it.name in the project".toString() }
        log.info('{}: {}', entry.getImageName(), done ? done.join('; ') + '. File > Save keeps it' : 'nothing to change')
    }

    private List<String> apply(MxbridgeExchange exchange) {
        def hierarchy = imageData.getHierarchy()
        def objects = new MxbridgeObjects(hierarchy, exchange)
        def done = objects.apply()
        listClasses(objects.classes)
        QP.fireHierarchyUpdate(hierarchy)
        imageData.setChanged(true)
        if (objects.gone) log.warn('{} objects are not in the image any more, the rest was done: {}', objects.gone.size(), objects.gone.take(5).join(', '))
        if (objects.there) log.warn('{} objects are there already and were left as they are: {}', objects.there.size(), objects.there.take(5).join(', '))
        done
    }

    private void check(MxbridgeExchange exchange) {
        if (exchange.header.image.id.toString() != entry.getID()) {
            throw new MxbridgeProblem("The results are for another image (${exchange.header.image.name}), nothing was changed")
        }
        def now = dataFile().isFile() ? MxbridgeExchange.sha256(dataFile()) : null
        if (exchange.header.data_sha256 != now) {
            throw new MxbridgeProblem('The image was saved by somebody else meanwhile, nothing was changed. Run mxbridge Apply results')
        }
    }

    /** Add classes to the project's list, as a user would. */
    private void listClasses(List classes) {
        def known = project.getPathClasses()
        def unknown = classes.findAll { !(it in known) }
        if (!unknown) return
        project.setPathClasses(known + unknown)
        inWindow { it.getAvailablePathClasses().addAll(unknown.findAll { one -> !(one in it.getAvailablePathClasses()) }) }
    }

    /** Do something in the thread in which QuPath draws. */
    private static void inWindow(Closure action) {
        def gui = window()
        if (gui == null) return
        def platform = Class.forName('javafx.application.Platform', true, gui.class.classLoader)
        platform.runLater { action(gui) }
    }

    /** Say what went wrong in one sentence, in a dialog where somebody is looking. */
    private void telling(Closure action) {
        try {
            action()
        } catch (MxbridgeProblem problem) {
            log.error('{}', problem.message)
            showDialog(problem.message)
            throw problem
        }
    }

    /** Not for an image of a batch: nobody would be there to close it. */
    private void showDialog(String message) {
        def gui = window()
        if (gui == null || !gui.getImageData().is(imageData)) return
        for (name in ['qupath.fx.dialogs.Dialogs', 'qupath.lib.gui.dialogs.Dialogs']) {  // since 0.5, and before
            try {
                Class.forName(name, true, gui.class.classLoader).showErrorMessage('mxbridge', message)
                return
            } catch (ClassNotFoundException ignored) {
                continue
            }
        }
    }
}
