"""Windows, deadlines and clocks that jump; shards and claims."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxbridge.batch.claims import claimed, parse_shard, refit_word, runner_name, shard_of
from mxbridge.batch.limits import Deadline, Window, parse_time
from mxbridge.errors import UsageError
from tests.batch.fake_clock import FakeClock


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("20:00-06:00", ("20:00", "23:59", "00:00", "05:59"), ("06:00", "12:00", "19:59")),
        ("8:30-17:00", ("08:30", "16:59"), ("08:29", "17:00", "00:00")),
    ],
)
def test_windows_of_a_day(window: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    found = Window.parse(window)
    assert all(found.holds(datetime.fromisoformat(f"2026-11-21T{at}")) for at in inside)
    assert not any(found.holds(datetime.fromisoformat(f"2026-11-21T{at}")) for at in outside)


@pytest.mark.parametrize("text", ["20-6", "20:00", "25:00-06:00", "20:61-06:00", "06:00-06:00", "", "a:b-c:d"])
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        Window.parse(text)


def test_until_is_the_next_such_time() -> None:
    clock = FakeClock("2026-11-21T22:00:00")
    deadline = Deadline(clock, until=parse_time("06:00"))
    assert not deadline.why_over()
    clock.move(7.9 * 3600)
    assert not deadline.why_over()
    clock.move(0.2 * 3600)
    assert deadline.why_over() == "it is 06:00 or later"


def test_until_is_local_time_also_when_the_clocks_change() -> None:
    """At 3:00 of summer time it becomes 2:00: nine hours pass from 22:00 to 06:00."""
    clock = FakeClock("2026-10-24T22:00:00", offset=2)
    deadline = Deadline(clock, until=time(6))
    clock.move(5 * 3600)
    clock.wall, clock.offset = clock.wall - timedelta(hours=1), 1
    clock.move(3.9 * 3600)
    assert not deadline.why_over()
    clock.move(0.2 * 3600)
    assert deadline.why_over()


def test_a_clock_that_was_wrong_at_the_start() -> None:
    clock = FakeClock("2026-11-21T22:00:00")
    deadline = Deadline(clock, until=time(6))
    clock.wall = datetime.fromisoformat("2026-11-22T07:00:00")  # it has been set right
    assert deadline.why_over()


def test_a_clock_that_stands_still_does_not_keep_a_run_for_ever() -> None:
    clock = FakeClock("2026-11-21T22:00:00")
    deadline = Deadline(clock, until=time(6))
    for _ in range(30):
        clock.move(3600)
        clock.wall = datetime.fromisoformat("2026-11-21T22:00:00")
    assert deadline.why_over()


def test_the_number_of_images_counts_images_not_tasks() -> None:
    deadline = Deadline(FakeClock("2026-11-21T22:00:00"), images=2)
    deadline.begun |= {"a", "b"}
    assert not deadline.why_not("a")
    assert deadline.why_not("c") == "2 images were begun in this run"


@given(st.integers(1, 12), st.text(min_size=1))
def test_an_image_is_in_exactly_one_shard(n: int, key: str) -> None:
    assert sum(shard_of(key, (k, n)) for k in range(1, n + 1)) == 1
    assert shard_of(key, None)


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, None),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"}, (4, 4)),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, (1, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            (3, 3),
        ),
        ({"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "3"}, None),
    ],
)
def test_shards_of_a_slurm_array(environment: dict[str, str], shard: tuple[int, int] | None) -> None:
    assert parse_shard(None, environment) == shard


def test_shards_by_hand() -> None:
    assert parse_shard("2/8", {}) == (2, 8)
    for wrong in ("0/8", "9/8", "2", "2/", "/2", "a/b", "-1/2"):
        with pytest.raises(UsageError):
            parse_shard(wrong, {})


def test_runners_have_names_that_can_be_files() -> None:
    assert runner_name({"SLURM_ARRAY_TASK_ID": "7"}) == "array-7"
    assert runner_name({}).replace("-", "").replace("_", "").replace(".", "").isalnum()


def test_all_tasks_of_a_slurm_array_ask_for_the_same_refit() -> None:
    tasks = [{"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": k} for k in "12"]
    assert len({refit_word(task) for task in tasks}) == 1
    assert len({refit_word(task) for task in (tasks[0], {"SLURM_ARRAY_JOB_ID": "10"}, {}, {})}) == 4


def test_only_one_has_a_claim(tmp_path: Path) -> None:
    with claimed(tmp_path, "image") as first, claimed(tmp_path, "image") as second, claimed(tmp_path, "other") as third:
        assert (first, second, third) == (True, False, True)
    with claimed(tmp_path, "image") as again:
        assert again
