// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// --- settings ---
def python = 'python'              // the Python that has mxbridge
def shared = 'shared/Mxbridge.groovy'   // '{project}/mxbridge/groovy/Mxbridge.groovy' or an absolute path
def model = ''                     // '' = deepliif; 'deconvolution' needs no weights
def region = 'image'               // 'image' or 'selected' annotations
def marker = ''                    // what the stain shows, e.g. 'Ki67', for names such as DeepLIIF: Ki67 mean
def outputs = 'cells'              // 'score', 'cells', 'channels' or 'all'
def objects = 'detections'         // nuclei as 'detections', or in 'cells'
def more = []                      // other options of mxbridge translate, e.g. ['--seg-threshold', '100']
// --- end of settings ---

// Finds the nuclei of a brightfield slide (IHC) and says which are positive; with outputs = 'channels' or 'all' also what
// immunofluorescence would show, as images of their own in the project. Progress is in the log (View > Show log).

def logic = new File(shared.replace('{project}', "${qupath.lib.scripting.QP.getProject()?.getPath()?.getParent()}"))
def parts = ['Program', 'ExchangeFile', 'Objects', 'Entries'].collect { new File(logic.parentFile, "${it}.groovy") } + logic
def missing = parts.find { !it.isFile() }
if (missing) throw new FileNotFoundException("$missing is not there: open a project, or run mxbridge qupath install-scripts again")
def loader = new GroovyClassLoader(this.class.classLoader)
def mxbridge = parts.collect { loader.parseClass(it) }.last()
if (mxbridge.FORMAT != 1) throw new IllegalStateException("$logic is of another mxbridge: run mxbridge qupath install-scripts again")

def options = ['--outputs', outputs, '--objects', objects] + more
if (model) options += ['--model', model]
if (marker) options += ['--marker', marker]
mxbridge.newInstance(python).run('translate', options, region)
