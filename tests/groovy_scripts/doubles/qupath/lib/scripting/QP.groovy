package qupath.lib.scripting

import qupath.lib.images.ImageData
import qupath.lib.objects.Hierarchy
import qupath.lib.projects.Entry
import qupath.lib.projects.Project

/** Answers only in the thread of the script, as QuPath does for a batch. */
class QP {
    private static final ThreadLocal<Map> here = ThreadLocal.withInitial { [:] }

    static void set(Project project, Entry entry, ImageData imageData) {
        here.set([project: project, entry: entry, imageData: imageData])
    }

    static Project getProject() { here.get().project }

    static Entry getProjectEntry() { here.get().entry }

    static ImageData getCurrentImageData() { here.get().imageData }

    static void fireHierarchyUpdate(Hierarchy hierarchy) { doubles.Calls.count('fireHierarchyUpdate') }
}
