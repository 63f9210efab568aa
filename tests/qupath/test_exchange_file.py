"""The exchange file: what is written is read back the same, and what is not whole is refused in one line."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxbridge.cli import qupath_hand_over
from mxbridge.errors import BrokenFile, SourceError, Unsupported
from mxbridge.workspaces.qupath.handover import exchange_file
from mxbridge.workspaces.qupath.handover.exchange_file import Counts, Header, dump, read, write
from mxbridge.workspaces.qupath.handover.lines import CLEAR, KEEP, cell_lines, shortest

from . import make_exchange_samples

SAMPLES = ("score", "translate", "impute")


@pytest.fixture(params=SAMPLES)
def sample(request, data: Path) -> Path:
    return data / "exchange" / f"{request.param}.jsonl.gz"


def header(lines: int, **more) -> Header:
    return Header(
        "run", "score", "Nimbus", "3", "Bild µ 𝄞", "now", "0.1.0", counts=Counts(lines, lines=lines + 2), **more
    )


def test_program_command_and_buttons_speak_one_version() -> None:
    groovy = Path(__file__).parents[2] / "groovy"
    told = re.findall(r"FORMAT = (\d+)", (groovy / "shared" / "ExchangeFile.groovy").read_text(encoding="utf-8"))
    buttons = [path.read_text(encoding="utf-8") for path in groovy.glob("mxbridge_*.groovy")]
    asked = {number for text in buttons for number in re.findall(r"mxbridge\.FORMAT != (\d+)|, format (\d+)\.", text)}
    assert told == [str(exchange_file.VERSION)]
    assert {a or b for a, b in asked} == {str(exchange_file.VERSION)} and len(buttons) == 5
    assert qupath_hand_over.SPOKEN == exchange_file.VERSION


def identity(k: int) -> str:
    return f"00000000-0000-4000-8000-{k:012x}"


def spoiled(path: Path, text: bytes) -> Path:
    path.write_bytes(gzip.compress(text))
    return path


def test_the_samples_are_what_is_written_now(sample, tmp_path):
    made = getattr(make_exchange_samples, sample.name.partition(".")[0])(tmp_path)
    assert gzip.decompress(made.read_bytes()) == gzip.decompress(sample.read_bytes())
    assert read(made) == read(sample)


def test_the_lines_are_plain_json_for_other_readers(sample):
    lines = gzip.decompress(sample.read_bytes()).decode("utf-8").split("\n")
    assert lines.pop() == ""
    documents = [json.loads(line) for line in lines]
    first, last = documents[0], documents[-1]
    assert (first["format"], first["version"]) == ("mxbridge-exchange", 1)
    assert first["counts"]["lines"] == len(lines) == last["end"] + 1


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=12),
    columns=st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=1, max_size=3),
    name=st.text(max_size=12),
)
def test_every_value_and_every_name_comes_back(tmp_path, values, columns, name):
    cells = len(values)
    table = np.tile(np.array(values, np.float32)[:, None], (1, len(columns)))
    codes = np.arange(cells) % 3 + CLEAR
    taken = [() if k % 2 else (name,) for k in range(cells)]
    lines = cell_lines([identity(k) for k in range(cells)], table, np.ones(cells, bool), taken, codes)
    told = header(cells, columns=tuple(columns), classes=(("A", -1), ("A: B", None)), notes=(name,))
    write(tmp_path / "x.gz", told, lines)
    found = read(tmp_path / "x.gz")
    assert found.header.columns == tuple(columns)
    if not any(0xD800 <= ord(c) < 0xE000 for c in name):
        assert found.header == told
        assert [tuple(line.get("-", ())) for line in found.cells.values()] == taken
    for line, value, code in zip(found.cells.values(), values, codes.tolist(), strict=True):
        back = np.array([np.nan if v is None else v for v in line["m"]], np.float32)
        assert np.array_equal(back, np.full(len(columns), value, np.float32), equal_nan=True)
        assert line["c"] == code


def test_values_are_as_short_as_they_can_be():
    assert shortest(np.float32([0.1, 1 / 3, 1e-7, 2**24, 0])) == ["0.1", "0.33333334", "1e-07", "1.6777216e+07", "0.0"]
    assert shortest(np.array([np.nan, np.inf, -np.inf])) == ["null", "1e999", "-1e999"]
    assert next(iter(cell_lines(["x"], np.zeros((1, 0)), np.zeros(1, bool), [()], np.array([KEEP])))) == '{"id":"x"}'


def test_a_number_of_lines_that_is_not_true_leaves_no_file(tmp_path):
    for lines in ([], [dump({"id": identity(0), "c": -1})] * 2):
        with pytest.raises(ValueError, match="lines instead of 3"):
            write(tmp_path / "deep" / "x.gz", header(1), lines)
        assert not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize(
    ("find", "instead", "said"),
    [
        (b'{"end":16}\n', b"", "not whole"),
        (b'{"end":16}\n', b'{"end":15}\n', "not whole"),
        (b'{"end":16}\n', b'{"end":16}\n{"end":16}\n', "after its end"),
        (b'"lines":17', b'"lines":16', "not whole"),
        (b'"cells":13', b'"cells":12', "not whole"),
        (b"mxbridge-exchange", b"another", "not an exchange file"),
        (b'"columns":[', b'"columns":["too many",', "values for 4 columns"),
        (b'"c":1', b'"c":4', "no class 4"),
        (b'"c":1', b'"c":true', "no class True"),
        (b'"c":-1', b'"c":-2', "no class -2"),
        (b"02c82b23-4911", b"../../../4911", "no object id"),
        (b"b9c4e7a8-c71e-394d-afa3-c9ca90dbde2a", b"02c82b23-4911-3bfe-bee6-a14a7930141b", "twice"),
        (b'"m":[', b'"x":1,"m":[', "more than belongs"),
        (b'"m":[0.47318864', b'"m":[NaN', "NaN is no JSON"),
        (b'"m":[0.47318864', b'"m":["1"', "no number"),
        (b'"m":[0.47318864', b'"m":[' + b"[" * 100_000, "damaged"),
        (b'"m":[0.47318864', b'"m":[1' + b"0" * 6000, "damaged"),
        (b'"m":[0.47318864', b'"m":[1' + b"0" * 400, "makes no sense"),
        (b'{"image":{', b'{"image":[1],"x":{', "makes no sense"),
        (b'{"image_remove":["Nimbus: old %"]}', b'{"image_remove":"all"}', "no list"),
        (b'"color":-13504077', b'"color":99999999999', "no colour"),
        (b"{", b"[{", "damaged"),
        (b'\n{"id"', b'\n[1]\n{"id"', "no object"),
        (b"Nimbus", b"\xff\xfe", "damaged"),
    ],
)
def test_nonsense_is_refused_in_one_line(data, tmp_path, find, instead, said):
    text = gzip.decompress((data / "exchange" / "score.jsonl.gz").read_bytes())
    assert find in text
    with pytest.raises(BrokenFile, match=re.escape(said)) as caught:
        read(spoiled(tmp_path / "x.gz", text.replace(find, instead, 1)))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "x.gz") in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("find", "instead"),
    [
        (b'"kind":"cell"', b'"kind":"tile"'),
        (b'"type":"Polygon"', b'"type":"Point"'),
        (b'[40.0,40.0]', b'[40.0,1e12]'),
        (b'[40.0,40.0]', b'[40.0]'),
        (b'"coordinates":[[[40.0', b'"coordinates":[[],[[40.0'),
        (b'"c":0', b'"c":-1'),
        (b'"_mxbridge.key":"key-cells"', b'"_mxbridge.key":5'),
        (b'"DeepLIIF: Ki67":0.75', b'"DeepLIIF: Ki67":"0.75"'),
    ],
)  # fmt: skip
def test_nonsense_in_new_objects_is_refused(data, tmp_path, find, instead):
    text = gzip.decompress((data / "exchange" / "translate.jsonl.gz").read_bytes())
    assert find in text
    with pytest.raises(BrokenFile, match="makes no sense"):
        read(spoiled(tmp_path / "x.gz", text.replace(find, instead, 1)))


def test_every_truncation_is_noticed(sample, tmp_path):
    whole, text = sample.read_bytes(), gzip.decompress(sample.read_bytes())
    for length in (*range(0, len(whole), 41), len(whole) - 1):
        (tmp_path / "x.gz").write_bytes(whole[:length])
        with pytest.raises(BrokenFile):
            read(tmp_path / "x.gz")
    for length in range(0, len(text) - 1, 97):
        with pytest.raises(BrokenFile):
            read(spoiled(tmp_path / "x.gz", text[:length]))


def test_other_versions_other_files_and_none(data, tmp_path):
    text = gzip.decompress((data / "exchange" / "score.jsonl.gz").read_bytes())
    with pytest.raises(Unsupported, match=r"version 2.*reads 1.*install-scripts"):
        read(spoiled(tmp_path / "x.gz", text.replace(b'"version":1', b'"version":2', 1)))
    with pytest.raises(SourceError, match="does not exist"):
        read(tmp_path / "none.gz")
    (tmp_path / "x.gz").write_bytes(text)
    with pytest.raises(BrokenFile, match="damaged"):
        read(tmp_path / "x.gz")
    (tmp_path / "x.gz").write_bytes(b"")
    with pytest.raises(BrokenFile, match="empty"):
        read(tmp_path / "x.gz")


def test_a_file_that_unpacks_to_too_much_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange_file, "LINE_LIMIT", 1 << 17)
    monkeypatch.setattr(exchange_file, "LIMIT", 1 << 18)
    first = gzip.decompress((data / "exchange" / "score.jsonl.gz").read_bytes()).partition(b"\n")[0] + b"\n"
    for rest in (b" " * (1 << 19), b'{"image":{}}\n' * 30_000):
        with pytest.raises(BrokenFile, match="too large"):
            read(spoiled(tmp_path / "x.gz", first + rest))
