// Instead of the shared logic where it is compiled already: parsing it takes longer than most cases.
class MxbridgeCompiled {
    static final int FORMAT = Mxbridge.FORMAT
    @Delegate
    private final Mxbridge logic

    MxbridgeCompiled(String python) {
        logic = new Mxbridge(python)
    }
}
