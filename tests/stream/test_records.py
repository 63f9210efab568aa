"""Records survive a kill at any byte; sums are added in grid order; what belongs to another run is never taken over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import OutputError
from mxbridge.stream import measure
from mxbridge.stream.measure import CellSums, TileSums
from mxbridge.stream.records import RecordFile
from mxbridge.stream.writer import Writer

HEADER = {"weights": "abc", "tile": 320}


def write(path: Path, payloads: list[bytes], header: dict = HEADER) -> None:
    records = RecordFile(path, header)
    for payload in payloads:
        records.append(payload)
    records.close()


def test_every_torn_tail_is_cut_off(tmp_path: Path) -> None:
    path, payloads = tmp_path / "r", [b"first", b"", b"third record"]
    write(path, payloads)
    content = path.read_bytes()
    ends = [content.index(b"first") + 5, content.index(b"first") + 5 + 12, len(content)]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        records = RecordFile(path, HEADER)
        assert list(records) == payloads[: sum(end <= cut for end in ends)]
        records.append(b"and on")
        records.close()
        again = RecordFile(path, HEADER)
        assert list(again)[-1] == b"and on"
        again.close()


@given(st.integers(0, 200), st.integers(1, 255))
@settings(deadline=None, max_examples=60)
def test_a_flipped_byte_never_gives_wrong_data(tmp_path_factory: pytest.TempPathFactory, at: int, flip: int) -> None:
    path, payloads = tmp_path_factory.mktemp("r") / "r", [bytes([n]) * 20 for n in range(5)]
    write(path, payloads)
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= flip
    path.write_bytes(content)
    records = RecordFile(path, HEADER)
    found = list(records)
    records.close()
    assert found == payloads[: len(found)]
    assert len(found) < len(payloads)


def test_records_of_another_run_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r"
    write(path, [b"old"])
    records = RecordFile(path, {**HEADER, "weights": "other"})
    assert list(records) == []
    records.close()
    same = RecordFile(path, HEADER)
    assert list(same) == []
    same.close()


def test_unwritable_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        RecordFile(tmp_path / "file" / "r", HEADER)


def tile(index: int, cells: list[int], seed: int, markers: int = 3, views: int = 2) -> TileSums:
    rng, n = np.random.default_rng(seed), len(cells)
    return TileSums(
        index,
        np.array(cells, np.int32),
        rng.random((5, n)),
        rng.integers(0, 9, (markers, 2)),
        rng.random((markers, views + 2, n)) * 1e3,
    )


@given(st.permutations(range(8)), st.integers(1, 4), st.integers(1, 2000))
@settings(deadline=None, max_examples=40)
def test_sums_do_not_depend_on_order_blocks_or_a_restart(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], together: int, block_bytes: int
) -> None:
    rng = np.random.default_rng(5)
    cells = [np.flatnonzero(rng.random(10) < 0.5).tolist() for _ in range(8)]
    folder = tmp_path_factory.mktemp("sums")
    expected = np.zeros((3, 4, 10))
    for index in range(8):
        expected[:, :, cells[index]] += tile(index, cells[index], index).sums
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "BLOCK_BYTES", block_bytes)
        for first in range(0, 8, together):
            records = RecordFile(folder / "r", HEADER)  # opened anew each time, as after a kill
            sums = CellSums(records, cells=10, markers=3, views=2)
            assert sums.done == set(order[:first])
            sums.add([tile(i, cells[i], i) for i in order[first : first + together]])
            if first + together < 8:
                records.close()
        found = np.concatenate([part for _, part in sums.sums()])
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(sums.bad(), sum(tile(i, cells[i], i).bad for i in range(8)))
        assert sums.shape().shape == (5, 10)
        records.close()


def test_the_writer_keeps_order_and_raises() -> None:
    done: list[int] = []
    with Writer(waiting=2) as writer:
        for job in range(20):
            writer.put(lambda job=job: done.append(job))
    assert done == list(range(20))

    def fail() -> None:
        raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="disk is full"), Writer() as writer:
        writer.put(fail)
        writer.put(lambda: done.append(99))
    assert 99 not in done


def test_the_writer_finishes_what_it_has_when_the_run_is_interrupted() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), Writer(waiting=10) as writer:
        for job in range(5):
            writer.put(lambda job=job: done.append(job))
        raise KeyboardInterrupt
    assert done == [0, 1, 2, 3, 4]
