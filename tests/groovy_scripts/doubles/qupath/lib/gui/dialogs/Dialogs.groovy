package qupath.lib.gui.dialogs

/** Where it was before QuPath 0.5. */
class Dialogs {
    static void showErrorMessage(String title, String message) { doubles.Calls.dialogs << "$title: $message".toString() }
}
