// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// --- settings ---
def python = 'python'              // the Python that has mxbridge
def shared = 'shared/Mxbridge.groovy'   // '{project}/mxbridge/groovy/Mxbridge.groovy' or an absolute path
def run = ''                       // a run folder, or its name; '' = the newest that waits for this image
// --- end of settings ---

// Takes over the results of a run that is there: one made with --no-publish, or one that was still computing when QuPath
// was closed. "Run for project" does one image after the other.

def logic = new File(shared.replace('{project}', "${qupath.lib.scripting.QP.getProject()?.getPath()?.getParent()}"))
def parts = ['Program', 'ExchangeFile', 'Objects', 'Entries'].collect { new File(logic.parentFile, "${it}.groovy") } + logic
def missing = parts.find { !it.isFile() }
if (missing) throw new FileNotFoundException("$missing is not there: open a project, or run mxbridge qupath install-scripts again")
def loader = new GroovyClassLoader(this.class.classLoader)
def mxbridge = parts.collect { loader.parseClass(it) }.last()
if (mxbridge.FORMAT != 1) throw new IllegalStateException("$logic is of another mxbridge: run mxbridge qupath install-scripts again")

mxbridge.newInstance(python).applyRun(run)
