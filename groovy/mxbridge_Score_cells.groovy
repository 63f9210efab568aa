// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// --- settings ---
def python = 'python'              // the Python that has mxbridge
def shared = 'shared/Mxbridge.groovy'   // '{project}/mxbridge/groovy/Mxbridge.groovy' or an absolute path
def markers = []                   // e.g. ['CD3', 'CD8']; [] = all
def model = ''                     // '' = the project's, or Nimbus; else a file, or a name you added
def region = 'image'               // 'image' or 'selected' annotations
def cells = 'cells'                // which objects are the cells: 'cells' or 'detections'
def setClass = false               // true: also classes such as Tumor: CD3: CD8
def more = []                      // other options of mxbridge score, e.g. ['--threshold', '0.4']
// --- end of settings ---

// Gives every cell of the image a score between 0 and 1 for each marker, as measurements such as Nimbus: CD3.
// Press Run; "Run for project" does one image after the other. Progress is in the log (View > Show log).

def logic = new File(shared.replace('{project}', "${qupath.lib.scripting.QP.getProject()?.getPath()?.getParent()}"))
def parts = ['Program', 'ExchangeFile', 'Objects', 'Entries'].collect { new File(logic.parentFile, "${it}.groovy") } + logic
def missing = parts.find { !it.isFile() }
if (missing) throw new FileNotFoundException("$missing is not there: open a project, or run mxbridge qupath install-scripts again")
def loader = new GroovyClassLoader(this.class.classLoader)
def mxbridge = parts.collect { loader.parseClass(it) }.last()
if (mxbridge.FORMAT != 1) throw new IllegalStateException("$logic is of another mxbridge: run mxbridge qupath install-scripts again")

def options = ['--cells', cells] + more
if (markers) options += ['--markers', markers.join(',')]
if (model) options += ['--model', model]
if (setClass) options += ['--set-class']
mxbridge.newInstance(python).run('score', options, region)
