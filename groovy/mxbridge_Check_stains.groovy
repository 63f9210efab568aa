// mxbridge 0.1.0, format 1. Written by: mxbridge qupath install-scripts
// --- settings ---
def python = 'python'              // the Python that has mxbridge
def shared = 'shared/Mxbridge.groovy'   // '{project}/mxbridge/groovy/Mxbridge.groovy' or an absolute path
def markers = []                   // e.g. ['CD3', 'CD8']; [] = all
def model = ''                     // a file, or a name you added (mxbridge models list)
def region = 'image'               // 'image' or 'selected' annotations
def more = []                      // other options of mxbridge qc
// --- end of settings ---

// Finds failed stains: each is imputed from the others and compared with what was measured. Nothing in the image changes;
// the verdicts are in the log (View > Show log), tables and pictures in the folder that is named there.

def logic = new File(shared.replace('{project}', "${qupath.lib.scripting.QP.getProject()?.getPath()?.getParent()}"))
def parts = ['Program', 'ExchangeFile', 'Objects', 'Entries'].collect { new File(logic.parentFile, "${it}.groovy") } + logic
def missing = parts.find { !it.isFile() }
if (missing) throw new FileNotFoundException("$missing is not there: open a project, or run mxbridge qupath install-scripts again")
def loader = new GroovyClassLoader(this.class.classLoader)
def mxbridge = parts.collect { loader.parseClass(it) }.last()
if (mxbridge.FORMAT != 1) throw new IllegalStateException("$logic is of another mxbridge: run mxbridge qupath install-scripts again")

if (!model) throw new IllegalArgumentException('Say at the top of this script which model judges the stains')
def options = ['--model', model] + more
if (markers) options += ['--marker', markers.join(',')]
mxbridge.newInstance(python).look('qc', options, region) { answer ->
    answer.rows.collect { "${it.marker}: ${it.verdict}${it.reason ? '; ' + it.reason : ''}".toString() }
}
