"""A file that is too large for the machine is refused with a message, before it is read where that can be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.projects import Tissue, image_data, write_project
from mxbridge.errors import BrokenFile, Unsupported
from mxbridge.formats.exchange import read_seen
from mxbridge.workspaces.qupath.javastream import Block, JavaString, write_stream
from mxbridge.workspaces.qupath.last_read import LastRead
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, room
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import FL, data_file, fl, scores
from .qpdata_two_ways import PATH, packed_objects
from .test_qpdata_packed import nodes_of


def test_memory_is_known_and_the_smaller_limit_counts(tmp_path, monkeypatch):
    whole = room.memory()
    assert whole is None or whole > 2**28
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(room, "_CGROUP_LIMITS", (str(limit), str(tmp_path / "not there")))
    limit.write_text("max\n")
    assert room.memory() is None or room.memory() >= whole
    limit.write_text("1000000\n")
    assert room.memory() == 1_000_000


def test_a_file_beyond_the_hard_limit_is_not_read(tmp_path):
    path = tmp_path / "data.qpdata"
    with path.open("wb") as stream:
        stream.truncate(room.MAX_BYTES + 1)  # sparse: takes no room on the disk
    for read in (ImageDataFile.read, LastRead().read):
        with pytest.raises(Unsupported, match=r"2,147,483,649 bytes \(about 3,430,485 cells\)"):
            read(path)


def test_a_file_beyond_the_memory_is_refused_with_both_figures(tmp_path, monkeypatch):
    write_project(tmp_path / "p", Tissue(200))
    path = tmp_path / "p/data/1/data.qpdata"
    size = path.stat().st_size
    monkeypatch.setattr(room, "memory", lambda: size * room.PER_BYTE - 1)
    with pytest.raises(Unsupported, match=f"{size:,} bytes .*about 0.0 GB of memory") as caught:
        ImageDataFile.read(path)
    assert "more memory" in caught.value.hint
    workspace = QuPathWorkspace(tmp_path / "p")
    (ref,) = workspace.list()
    with pytest.raises(Unsupported, match="GB of memory"):
        workspace.lost(ref)
    monkeypatch.setattr(room, "memory", lambda: None)
    assert len(ImageDataFile.read(path).table) == 200


def test_objects_that_must_be_nodes_need_more_room(monkeypatch):
    raw = image_data(Tissue(300, 3, False, 0, 5))
    enough = len(raw) * room.PER_BYTE + 600 * room.PER_NODE
    monkeypatch.setattr(room, "memory", lambda: enough)
    assert packed_objects(ImageDataFile(raw, PATH)) == 297
    with pytest.raises(Unsupported, match=r"too many, and too different .*\(more than 600 parts of objects, by byte"):
        ImageDataFile(raw, PATH, packed=False)


def test_packed_objects_that_turn_out_to_be_odd_need_the_room_of_nodes(monkeypatch):
    """All cells share a list of names that is longer than their values: bytes are no way round the limit."""
    good = image_data(Tissue(300, 3, False, 0, 5))
    items, cells = nodes_of(good)
    shared = cells[0].annotations[3].get("names")
    count = int.from_bytes(shared.annotations[0].data, "big") + 1
    shared.annotations[:1] = [Block(count.to_bytes(4, "big")), JavaString.of("one more")]
    shared.put("size", count.to_bytes(4, "big"))
    bad = write_stream(items)
    with pytest.raises(BrokenFile, match="names"):
        ImageDataFile(bad, PATH)
    monkeypatch.setattr(room, "memory", lambda: len(bad) * room.PER_BYTE + 600 * room.PER_NODE)
    with pytest.raises(Unsupported, match="more than 600 parts of objects"):
        ImageDataFile(bad, PATH)
    file = ImageDataFile(good, PATH)
    with pytest.raises(Unsupported, match="more than 600 parts of objects"):
        list(file.objects())
    assert packed_objects(file) == 297


def test_few_packed_objects_between_others_need_the_room_of_nodes(monkeypatch):
    """Each sixth cell has a name that is not ASCII and becomes nodes; so do those between, when they are written."""
    items, cells = nodes_of(image_data(Tissue(300, 3, False, 0, 5)))
    for cell in cells[::6]:
        cell.annotations[0] = JavaString.of("é")
    raw = write_stream(items)
    assert packed_objects(ImageDataFile(raw, PATH)) > 200
    monkeypatch.setattr(room, "memory", lambda: len(raw) * room.PER_BYTE + 2000 * room.PER_NODE)
    with pytest.raises(Unsupported, match="more than 2,000 parts of objects"):
        ImageDataFile(raw, PATH)


def test_values_that_were_replaced_are_forgotten():
    """Column after column, as an undo goes: what each edit leaves behind would be more than the file."""
    file = ImageDataFile(image_data(Tissue(300, 3, False, 0, 5)), PATH)
    table, names = file.table, [f"n{k}" for k in range(20)]
    everything = table.all()
    for name in names:
        table.set_columns(everything, {name: np.arange(float(len(everything)))})
    for name in names[:-1]:
        table.remove_columns(everything[::2], [name])
    (replaced,) = file._packed.pack.replaced.values()
    heads = [head for head in file._packed._heads if head.values is not None]
    assert len(heads) == 2 == sum(values is not None for values in replaced.values)
    assert sum(replaced.in_use) == 297
    for k, name in enumerate(names):
        had, values = table.columns(everything, [name])[name]
        assert had.tolist() == [k == 19 or row % 2 == 1 for row in range(len(everything))]
        assert values[had].tolist() == everything[had].tolist()
    file.verify(file.to_bytes())


def test_a_file_is_parsed_once_while_nobody_writes_it(workspace, monkeypatch):
    parsed = []
    real = ImageDataFile._parse
    monkeypatch.setattr(ImageDataFile, "_parse", lambda self, *a, **k: (parsed.append(1), real(self, *a, **k))[1])
    ref, path = fl(workspace), data_file(workspace)
    results = scores(workspace)
    assert len(parsed) == 1
    workspace.pull(ref)
    assert not workspace.holds(results)
    assert len(parsed) == 1
    assert workspace.publish(results).changed
    assert len(parsed) == 2  # what was written is read again to verify it
    assert workspace.holds(results)
    assert not workspace.publish(results).changed
    assert len(parsed) == 3
    raw = path.read_bytes()
    path.write_bytes(raw)  # another time, perhaps other content: read again
    workspace.pull(ref)
    assert len(parsed) == 4


def test_what_others_write_is_seen_even_with_the_same_time_and_size(workspace):
    import os

    ref, path = fl(workspace), data_file(workspace)
    before, status = workspace.pull(ref).cells, path.stat()
    raw = path.read_bytes()
    wanted = before.ids[0].encode()
    path.write_bytes(raw.replace(wanted, wanted[:-1] + (b"0" if wanted[-1:] != b"0" else b"1")))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert workspace.pull(ref).cells.ids[0] != before.ids[0]


def test_an_edited_file_is_never_handed_out_again(workspace):
    path, last = data_file(workspace, FL), LastRead()
    tree, seen = last.read(path)
    data, _ = read_seen(Path(path), room.MAX_BYTES)
    edited = last.to_edit(path, data, seen)
    assert edited is tree
    assert last.read(path)[0] is not tree
