package qupath.lib.gui

/** QuPath's window; there is none unless a case opens it. */
class QuPathGUI {
    static QuPathGUI instance
    Object imageData
    List availablePathClasses = []

    static QuPathGUI getInstance() { instance }

    void refreshProject() { doubles.Calls.count('refreshProject') }
}
