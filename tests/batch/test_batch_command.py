"""``mxbridge batch`` as people type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.batch.toy_job import FILES, IMPUTE, QUICK, SCORE, toy_job

Call = Callable[..., tuple[int, str, str]]


def below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_plan_run_status(mxbridge: Call, tmp_path: Path) -> None:
    job = toy_job(tmp_path / "jobs", FILES + IMPUTE + SCORE.replace('"Ki67"', '"CD8 (MAXIM)"') + QUICK)
    before = below(tmp_path)
    code, out, _ = mxbridge("batch", "plan", job, "--json")
    plan = json.loads(out)
    assert code == 0
    assert [(i["image"], i["task"], i["verdict"], i["why"]) for i in plan["items"][:2]] == [
        ("north", "impute", "to do", "new"),
        ("north", "score", "waits", "after impute"),
    ]
    assert below(tmp_path) == before  # nothing was written
    code, out, err = mxbridge("batch", "run", job, "--runner", "me", "--images", 1)
    assert code == 0
    assert "No further image was begun: 1 images were begun in this run" in out
    assert "[1/4] north, impute (new)" in err
    code, out, _ = mxbridge("batch", "run", job, "--runner", "me", "--json", "--quiet")
    told = json.loads(out)
    assert (code, told["runner"], told["counts"]["done"], told["counts"]["done before"]) == (0, "me", 2, 2)
    code, out, err = mxbridge("batch", "run", job, "--runner", "me")
    assert (code, "Nothing to do" in out, err) == (0, True, "")
    code, out, _ = mxbridge("batch", "plan", job)
    assert "Nothing to do: all of this is done." in out
    code, out, _ = mxbridge("batch", "status", job)
    assert code == 0
    assert "score: CD8 (MAXIM)" in out
    assert "Nimbus: CD8 (MAXIM)" in out
    status = json.loads(mxbridge("batch", "status", job, "--json")[1])
    assert [(t["task"], t["done"]) for t in status["tasks"]] == [("impute", 2), ("score", 2)]
    assert {t["what"]: t["images"] for t in status["trends"]}["CD3"] == 2
    assert len(status["runs"]) == 3
    assert all(run["ended"] for run in status["runs"])


def test_exit_codes(mxbridge: Call, tmp_path: Path) -> None:
    job = toy_job(tmp_path / "jobs")
    assert mxbridge("batch", "run", tmp_path / "none.toml")[0] == 4
    assert mxbridge("batch", "run", job, "--until", "6")[0] == 2
    assert mxbridge("batch", "run", job, "--shard", "3/2")[0] == 2
    assert mxbridge("batch", "run", job, "--runner", "a/b")[0] == 2
    text = job.read_text(encoding="utf-8")
    job.write_text(text.replace("weights.pt", "no such model"), encoding="utf-8")
    assert mxbridge("batch", "run", job)[0] == 5
    job.write_text(text + "\n[[task]]\ndo = 'scroe'\n", encoding="utf-8")
    code, _, err = mxbridge("batch", "plan", job)
    assert (code, "job.toml, line 14: [[task]] 2: do: there is no task 'scroe'" in err) == (6, True)
    job.write_text(text, encoding="utf-8")
    (tmp_path / "jobs" / "images" / "north_mask.tif").unlink()
    code, _, err = mxbridge("batch", "run", job)
    assert (code, "no cells" in err) == (3, True)
    job.write_text('[[source]]\nproject = "none.qpproj"\n' + SCORE, encoding="utf-8")
    for what in ("run", "plan"):
        code, out, _ = mxbridge("batch", what, job)
        assert (code, "Nothing to do" in out) == (4, False), out  # nobody was asked
    assert mxbridge("batch", "status", job)[0] == 0
    (tmp_path / "jobs" / "job.ledger" / "me.sqlite").write_bytes(b"")
    for words in (("run", "--runner", "me"), ("plan",), ("status",)):
        code, _, err = mxbridge("batch", words[0], job, *words[1:])
        assert (code, "me.sqlite: this ledger is damaged" in err) == (6, True)


def test_help_names_the_three(mxbridge: Call) -> None:
    code, out, _ = mxbridge("batch", "--help")
    assert code == 0
    assert all(word in out for word in ("plan", "run", "status"))
