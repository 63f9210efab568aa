// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// --- settings ---
def python = 'python'              // the Python that has mxbridge
def shared = 'shared/Mxbridge.groovy'   // '{project}/mxbridge/groovy/Mxbridge.groovy' or an absolute path
def markers = []                   // what to impute, as the model names it, e.g. ['KI67']
def model = ''                     // a file, or a name you added (mxbridge models list)
def region = 'image'               // 'image' or 'selected' annotations
def without = []                   // channels not to believe, as if they were missing, e.g. ['KI67']
def more = []                      // other options of mxbridge impute, e.g. ['--uncertainty']
// --- end of settings ---

// Computes a stain that is missing or failed from the others. It becomes an image of its own in the project, beside the
// channels that are there, and cells get its mean as a measurement. Progress is in the log (View > Show log).

def logic = new File(shared.replace('{project}', "${qupath.lib.scripting.QP.getProject()?.getPath()?.getParent()}"))
def parts = ['Program', 'ExchangeFile', 'Objects', 'Entries'].collect { new File(logic.parentFile, "${it}.groovy") } + logic
def missing = parts.find { !it.isFile() }
if (missing) throw new FileNotFoundException("$missing is not there: open a project, or run mxbridge qupath install-scripts again")
def loader = new GroovyClassLoader(this.class.classLoader)
def mxbridge = parts.collect { loader.parseClass(it) }.last()
if (mxbridge.FORMAT != 1) throw new IllegalStateException("$logic is of another mxbridge: run mxbridge qupath install-scripts again")

if (!markers || !model) throw new IllegalArgumentException('Say at the top of this script what to impute (markers) and with which model')
def options = ['--marker', markers.join(','), '--model', model] + more
if (without) options += ['--without', without.join(',')]
mxbridge.newInstance(python).run('impute', options, region)
