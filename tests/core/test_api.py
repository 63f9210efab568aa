"""What scripts call: the forms in which people give names and paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mxbridge import api
from mxbridge.workspaces.memory import MemoryWorkspace


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the task."""
    seen: list[dict[str, Any]] = []

    class Done:
        def raise_for_errors(self) -> None:
            pass

    def task(workspace: Any, model: Any, engine: Any, options: Any, **more: Any) -> Done:
        seen.append({**vars(options), **more})
        return Done()

    monkeypatch.setattr(api._score, "score", task)
    return seen


@pytest.mark.parametrize(
    ("given", "meant"), [("CD3", ("CD3",)), (["CD3"], ("CD3",)), (("CD3", "CD8"), ("CD3", "CD8")), ((), ())]
)
def test_one_name_is_one_name(asked: list[dict[str, Any]], given: Any, meant: tuple[str, ...]) -> None:
    api.score(MemoryWorkspace({}), api.load_model("demo"), markers=given, images=given)
    assert (asked[0]["markers"], asked[0]["images"]) == (meant, meant)


def test_paths_may_be_text(asked: list[dict[str, Any]]) -> None:
    place, model = MemoryWorkspace({}), api.load_model("demo")
    api.score(place, model, panel="panel.csv", normalization="factors.json", out="run")
    api.score(place, model, panel=Path("panel.csv"), normalization=None)
    assert [asked[0][k] for k in ("panel", "normalization", "out")] == [
        Path("panel.csv"),
        Path("factors.json"),
        Path("run"),
    ]
    assert [asked[1][k] for k in ("panel", "normalization", "out")] == [Path("panel.csv"), None, None]
