"""Job files: what may stand in them, and what people are told of what may not."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.batch.job import FilesSource, ProjectSource, load_job
from mxbridge.batch.job_text import JobError
from mxbridge.batch.toml_lines import key_lines, line_of
from mxbridge.batch.verbs import VERBS
from mxbridge.errors import SourceError

GOOD = """
name = "nightly"
[limits]
window = "20:00-06:00"
images = 200
[[source]]
project = "slides/project.qpproj"
[[source]]
name = "new"
files = ["incoming/*.ome.tif", "${MORE}"]
[[task]]
do = "impute"
marker = "KI67"
model = ["a.safetensors", "b"]
[[task]]
do = "score"
markers = "CD3, KI67 (MAXIM)"
set-class = true
threshold = 0.4
"""


def load(folder: Path, text: str, **environment: str) -> object:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return load_job(path, environment)


def refused(folder: Path, text: str, **environment: str) -> JobError:
    with pytest.raises(JobError) as caught:
        load(folder, text, **environment)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_job_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "job.toml").write_text(GOOD, encoding="utf-8")
    job = load_job(tmp_path / "job.toml", {"MORE": "/elsewhere/x.tif"})
    project, files = job.sources["project 1"], job.sources["new"]
    assert isinstance(project, ProjectSource)
    assert isinstance(files, FilesSource)
    assert files.files == ("incoming/*.ome.tif", "/elsewhere/x.tif")
    impute, score = job.tasks
    assert impute.options.markers == ("KI67",)
    assert impute.model == (str(tmp_path / "a.safetensors"), "b")  # a file beside the job, and a name
    assert score.options.markers == ("CD3", "KI67 (MAXIM)")
    assert (score.options.set_class, score.options.threshold, score.after) == (True, 0.4, ("impute",))
    assert (job.runs, job.ledger) == (tmp_path / "runs", tmp_path / "job.ledger")


@pytest.mark.parametrize("do", VERBS)
def test_every_option_of_a_command_is_one_of_its_task(do: str) -> None:
    verb = VERBS[do]
    assert {one.name for one in fields(verb.options)} <= set(verb.fields.model_fields)


def test_statistics_have_the_words_of_the_command(tmp_path: Path) -> None:
    text = '[[source]]\nfiles = "a.tif"\n[[task]]\ndo = "translate"\nstatistics = "%s"\n'
    found = [load(tmp_path, text % word).tasks[0].options.statistics for word in ("tile", "slide")]  # type: ignore[attr-defined]
    assert found == ["window", "slide"]
    assert "should be 'tile' or 'slide'" in str(refused(tmp_path, text % "window"))


SOURCE, TASK = '[[source]]\nfiles = "a.tif"\n', '[[task]]\ndo = "score"\n'


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", None, "names no images"),
        (SOURCE, None, "asks for nothing"),
        (
            SOURCE + TASK + "marekrs = 'CD3'\n",
            5,
            "[[task]] 1: marekrs: there is no such setting. Did you mean 'markers'?",
        ),
        (SOURCE + TASK + "set_clas = true\n", 5, "Did you mean 'set-class'?"),
        (SOURCE + TASK + "# no\n\ntta = 'perhaps'\n", 7, "[[task]] 1: tta: "),
        (SOURCE + TASK + "threshold = 1.5\n", 5, "[[task]] 1: threshold: --threshold 1.5 is not between 0 and 1"),
        (SOURCE + TASK + "compat = 'word 5'\n", 5, "--compat word 5 is not known"),
        (SOURCE + TASK + TASK, 5, "another task is called 'score'"),
        (SOURCE + TASK + "markers = 'CD3'\nmarker = 'CD4'\n", 6, "means the same as markers"),
        (SOURCE + TASK + "set-class = true\nset_class = true\n", 6, "stands here twice"),
        (SOURCE + TASK + 'after = "impute"\n', 5, "no earlier task is called 'impute'"),
        (SOURCE + '[[task]]\ndo = "scroe"\n', 4, "there is no task 'scroe'"),
        (SOURCE + "[[task]]\nmodel = 'demo'\n", 3, "[[task]] 1: do: is missing"),
        (SOURCE + '[[task]]\ndo = "impute"\nmodel = "m"\n', 3, "[[task]] 1: markers: is missing"),
        ("[[source]]\nname = 'x'\n" + TASK, 1, "needs one of project, files, omero, has none"),
        ("[[source]]\nfiles = 'a'\nomero = 'image:1'\n" + TASK, 1, "has files and omero"),
        (SOURCE + "path-map = 'a=b'\n" + TASK, 3, "[[source]] 1: path-map: there is no such setting"),
        ("[limits]\nwindow = '20-6'\n" + SOURCE + TASK, 2, "limits: window: '20-6'"),
        ("[limits]\ntries = 0\n" + SOURCE + TASK, 2, "limits: tries: "),
        ("[limits]\nimags = 3\n" + SOURCE + TASK, 2, "Did you mean 'images'?"),
        ("on_error = 'panic'\n" + SOURCE + TASK, 1, "on-error: "),
        ("[normalization]\ndrift = 0.5\n" + SOURCE + TASK, 2, "normalization: drift: must be a ratio above 1"),
        ("name = 'a/b'\n" + SOURCE + TASK, 1, "'a/b' is no name"),
        (SOURCE + "x = = 3\n", 3, "is not TOML"),
        (
            SOURCE + TASK + "panel = '${HOME_OF_PANELS}/p.csv'\n",
            5,
            "the environment variable HOME_OF_PANELS is not set",
        ),
        (SOURCE + TASK + "panel = '${not a name}'\n", 5, "names no variable"),
        ("[[source]]\nomero = 'image:1'\npassword = 'x'\n" + TASK, 3, "secrets must not be here"),
        ("[[source]]\nomero = 'image:1'\nsession-key = 'x'\n" + TASK, 3, "secrets must not be here"),
        ("[[source]]\nomero = 'image:1'\nuser = '${OMERO_PASSWORD}'\n" + TASK, 3, "${OMERO_PASSWORD} is a secret"),
        ("[[source]]\nomero = 'omero:al:pw@host/image:1'\n" + TASK, 2, "an address with a password in it"),
        ("[[source]]\nomero = 'image:1'\nserver = 'wss%3A%2F%2Fal:pw@host'\n" + TASK, 3, "with a password in it"),
    ],
)
def test_complaints_name_the_line(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    error = refused(tmp_path, text)
    assert error.line == line
    assert says in str(error)
    assert str(tmp_path / "job.toml") in str(error)


def test_a_secret_that_a_variable_brings_is_refused(tmp_path: Path) -> None:
    text = "[[source]]\nomero = '${WHERE}'\n" + TASK
    error = refused(tmp_path, text, WHERE="omero:al:hunter2@host/image:1")
    assert (error.line, "hunter2" in str(error)) == (2, False)


def test_addresses_with_a_user_are_no_secrets(tmp_path: Path) -> None:
    load(tmp_path, "[[source]]\nomero = 'omero:alice@host:4064/dataset:5'\n" + TASK)
    load(tmp_path, "[[source]]\nomero = 'dataset:5'\nserver = 'wss://alice@host/omero-wss'\n" + TASK)


def test_dollar_signs_can_be_written(tmp_path: Path) -> None:
    job = load(tmp_path, "[[source]]\nfiles = 'a$${b}c$1.tif'\n" + TASK)
    assert job.sources["files"].files == ("a${b}c$1.tif",)  # type: ignore[attr-defined]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        load_job(tmp_path / "none.toml")


def test_binary_and_huge_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00\x01" * 100)
    with pytest.raises(SourceError, match="cannot be read"):
        load_job(tmp_path / "b.toml")
    (tmp_path / "h.toml").write_bytes(b"#" * (5 * 1024**2))
    with pytest.raises(JobError, match="too large"):
        load_job(tmp_path / "h.toml")


def test_lines_are_found_in_difficult_text() -> None:
    text = '''# [[source]]
"a b".c = """x = 1
[[no]]
""\\"""" # end
d = [ # one
  "]", '#',
  { e = 1 },
]
[t.u]
v = {w = [1, 2]}
[[s]]
x.y = 1979-05-27T07:32:00Z
[[s.t]]
z = \'\'\'
\'\'\'
[[s]]
x.y = -1
'''
    lines = key_lines(text)
    assert lines["a b", "c"] == 2
    assert lines[("d",)] == 5
    assert lines["t", "u", "v"] == 10
    assert (lines["s", 0, "x", "y"], lines["s", 0, "t", 0, "z"], lines["s", 1, "x", "y"]) == (12, 14, 17)
    assert line_of(lines, ("t", "u", "v", "w", 1)) == 10
    assert line_of(lines, ("nowhere",)) is None


VALUES = ("1", '"a # b"', "'''\nlong\n'''", '"""\n[x]\n"""', "[1,\n 2]", "{a = 1}", "true", '"\\""', "[[1], ['=']]")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(("key", "table", "array", "comment")), st.sampled_from(VALUES)), max_size=12))
def test_lines_of_any_text(parts: list[tuple[str, str]]) -> None:
    text, expected, prefix, arrays = "", {}, (), 0
    for number, (kind, value) in enumerate(parts):
        line = text.count("\n") + 1
        if kind == "key":
            text += f"k{number} = {value}\n"
            expected[*prefix, f"k{number}"] = line
        elif kind == "table":
            text, prefix = f"{text}[t{number}]\n", (f"t{number}",)
            expected[prefix] = line
        elif kind == "array":
            text, prefix = f"{text}[[rows]]\n", ("rows", arrays)
            expected[prefix], arrays = line, arrays + 1
        else:
            text += "# [x] = '\n\n"
    found = key_lines(text)
    assert {key: found.get(key) for key in expected} == expected


def test_the_example_is_a_job() -> None:
    example = Path(__file__).parents[2] / "examples" / "nightly" / "job.toml"
    assert load_job(example, {"NIGHTLY_DATASET": "1", "NIGHTLY_MASKS": "2"}).tasks[0].name == "score"
    with pytest.raises(JobError, match="NIGHTLY_DATASET is not set"):
        load_job(example, {})


def test_options_of_a_server(tmp_path: Path) -> None:
    text = (
        "[[source]]\nomero = 'plate:3'\nserver = 'h:4064'\ncache-size = '2GB'\nrois = 5\nverify-server = true\n" + TASK
    )
    source = load(tmp_path, text).sources["omero"]  # type: ignore[attr-defined]
    assert (source.cache_size, source.rois, source.verify_server) == (2_000_000_000, 5, True)
    assert "needs a unit" in str(refused(tmp_path, text.replace("'2GB'", "2")))


SCORE = '[[task]]\ndo = "score"\n'
IMAGES = '[[source]]\nfiles = "x.tif"\n'
SERVER = '[[source]]\nomero = "dataset:1"\n'


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (IMAGES + '[[task]]\ndo = ["score"]\n', 4, "there is no task ['score']"),
        (IMAGES + '[task]\ndo = "score"\n', 3, "Write [[task]] instead of [task]"),
        ('[source]\nfiles = "x"\n' + SCORE, 1, "Write [[source]] instead of [source]"),
        (IMAGES + SCORE + "a" + ".a" * 3000 + " = 1\n", None, "too deep"),
        (IMAGES + SCORE + "markers = []\n", 5, "markers: names nothing"),
        (IMAGES + SCORE + 'marker = " , "\n', 5, "marker: names nothing"),
        ("[[source]]\nfiles = []\n" + SCORE, 2, "files: names nothing"),
        ('[[source]]\nfiles = ""\n' + SCORE, 2, "files: names nothing"),
        ('[[source]]\nfiles = "x"\nplane = [-1, 0]\n' + SCORE, 3, "plane 1: input should be greater"),
        ('[[source]]\nomero = "datset:1"\n' + SCORE, 2, "'datset:1' names no images of an OMERO server"),
        ('[[source]]\nomero = "alice@h/dataset:1?key=1"\n' + SCORE, 2, "no option 'key'"),
        (SERVER + 'labels = "rios"\n' + SCORE, 3, "labels: --labels 'rios' names no cells"),
        (SERVER + 'rois-as = "polygons"\n' + SCORE, 3, "rois-as: goes with rois"),
        (SERVER + 'user = "alice:hidden"\n' + SCORE, 3, "a user with a password behind it"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_opened(tmp_path: Path, text: str, line: int | None, why: str) -> None:
    error = refused(tmp_path, text)
    assert (error.line, why in str(error), "hidden" in str(error)) == (line, True, False), error
