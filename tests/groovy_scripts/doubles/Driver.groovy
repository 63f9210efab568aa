import doubles.Calls
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import java.nio.file.Paths
import java.util.concurrent.atomic.AtomicReference
import qupath.lib.gui.QuPathGUI
import qupath.lib.images.ImageData
import qupath.lib.objects.PathObject
import qupath.lib.objects.classes.PathClass
import qupath.lib.projects.Entry
import qupath.lib.projects.Project
import qupath.lib.scripting.QP

/** Plays QuPath for one case after the other: `Driver CASES.json RESULTS.json`. What a case says is in conftest.py. */
class Driver {
    private static final List<String> PARTS = ['Program.groovy', 'ExchangeFile.groovy']
    private static final Map<String, GroovyClassLoader> scripts = [:]

    static void main(String[] arguments) {
        def cases = new JsonSlurper().parse(new File(arguments[0]), 'UTF-8')
        def told = cases.collectEntries { name, one -> [name, play(one)] }
        new File(arguments[1]).setText(JsonOutput.toJson(told), 'UTF-8')
        System.exit(0)
    }

    static Map play(Map told) {
        Calls.reset()
        PathClass.forget()
        def image = told.noImage ? null : imageOf(told)
        def project = told.noProject ? null : new Project(path: Paths.get(told.project), pathClasses: [PathClass.fromString('Tumor', -1)])
        def entry = project == null || told.noEntry ? null : new Entry(id: told.id ?: '2', imageName: 'image µ', metadata: told.metadata ?: [:], folder: Paths.get(told.project).parent.resolve("data/${told.id ?: '2'}"))
        if (project != null) project.imageList = [*(told.entries ?: []).collect { new Entry([folder: project.path.parent.resolve("data/$it.id"), *: it]) }, entry].findAll()
        QuPathGUI.instance = told.window ? new QuPathGUI(imageData: told.window == 'same' ? image : new ImageData()) : null
        def gui = QuPathGUI.instance
        def error = told.parse ? parseOnly(told.parse) : told.read ? readOnly(told) : runScript(told, project, entry, image)
        [
            error: error?.message, type: error?.class?.name, log: new ArrayList(Calls.log), dialogs: new ArrayList(Calls.dialogs), counts: Calls.counts.collectEntries { it },
            changed: image?.changed, objects: image == null || told.quiet ? null : described(image.hierarchy.objects), image: image?.hierarchy?.root?.list?.values?.collectEntries { k, v -> [k, v.isNaN() ? 'NaN' : v] },
            classes: project?.pathClasses?.collect { [it.name, it.color] }, windowClasses: gui?.availablePathClasses*.name,
            entries: project?.imageList?.collect { [id: it.id, name: it.imageName, description: it.description, metadata: it.metadata, builder: it.serverBuilder?.told] },
            saved: project?.imageList?.collectEntries { [it.id, it.hasImageData() ? new File(it.folder.toFile(), 'data.qpdata').text : null] },
        ]
    }

    /** In a thread of its own, as QuPath does; `interruptWhen` names a file whose appearance lets the user stop it. */
    static Throwable runScript(Map told, Project project, Entry entry, ImageData image) {
        def failed = new AtomicReference<Throwable>()
        def script = Thread.start {
            QP.set(project, entry, image)
            try {
                new GroovyShell(Driver.classLoader).evaluate(new File(told.button))
            } catch (Throwable error) {
                failed.set(error)
            }
        }
        if (told.interruptWhen) {
            while (script.isAlive() && !new File(told.interruptWhen).exists()) sleep(20)
            script.interrupt()
        }
        script.join(60_000)
        failed.get()
    }

    static Throwable readOnly(Map told) {
        try {
            def parsed = scripts.computeIfAbsent(told.shared) { file -> new GroovyClassLoader(Driver.classLoader).tap { loader -> PARTS.each { loader.parseClass(new File(new File(file).parentFile, it)) } } }
            parsed.loadClass('MxbridgeExchange').read(new File(told.read))
            null
        } catch (Throwable error) {
            error
        }
    }

    static Throwable parseOnly(String file) {
        try {
            new GroovyClassLoader(Driver.classLoader).parseClass(new File(file))
            null
        } catch (Throwable error) {
            error
        }
    }

    static ImageData imageOf(Map told) {
        def image = new ImageData(changed: told.changed ?: false)
        def objects = (told.objects ?: []).collect { objectOf(it) }
        objects.addAll((0..<(told.many ?: 0)).collect { new PathObject(kind: 'cell', id: new UUID(1, it)) })
        image.hierarchy.objects = objects
        image.hierarchy.selected = objects.findAll { it.id.toString() in (told.selected ?: []) }
        (told.imageValues ?: [:]).each { k, v -> image.hierarchy.root.list.put(k, v as double) }
        image
    }

    static PathObject objectOf(Map told) {
        def made = new PathObject(kind: told.kind ?: 'cell', id: UUID.fromString(told.id))
        if (told['class']) made.pathClass = PathClass.fromString(told['class'], -1)
        (told.measurements ?: [:]).each { k, v -> made.list.put(k, v as double) }
        made
    }

    static Map described(List<PathObject> objects) {
        objects.collectEntries {
            def values = it.list.values.collectEntries { k, v -> [k, v.isNaN() ? 'NaN' : v.isInfinite() ? "$v" : v] }
            [it.id.toString(), [kind: it.kind, name: it.name, 'class': it.pathClass?.name, color: it.pathClass?.color, measurements: values, closed: it.list.isClosed,
                                metadata: it.metadata, roi: regionOf(it.roi), nucleus: regionOf(it.nucleus)]]
        }
    }

    private static Map regionOf(Object region) {
        region == null ? null : [kind: region.kind, rings: region.rings]
    }
}
