"""Probability maps: in their place in one step, and never empty after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from mxbridge.image import Box
from mxbridge.models.nimbus import RECORDS_NAME
from mxbridge.tasks import score_maps
from mxbridge.tasks.score_maps import ScoreMaps, map_places


def grown(tmp_path: Path, value: float) -> ScoreMaps:
    places = map_places(["CD3 (Nimbus)", "a/b (Nimbus)"], ["k" * 32, "m" * 32], tmp_path)
    maps = ScoreMaps(places, (40, 50), (1.0, 1.0), "0.5")
    for marker in (0, 1):
        maps.write(marker, Box(0, 0, 40, 50), np.full((40, 50), value, np.float32))
    (tmp_path / "work" / RECORDS_NAME).write_bytes(b"records")
    return maps


def test_maps_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    grown(tmp_path, 0.2).finish()
    derived = grown(tmp_path, 0.5).finish()
    assert [d.channels for d in derived] == [("CD3 (Nimbus)",), ("a/b (Nimbus)",)]
    assert all((tmp_path / "derived" / d.file).is_dir() for d in derived)
    assert [p.name for p in (tmp_path / "derived").iterdir() if "part" in p.name] == []
    group = zarr.open_group(tmp_path / "derived" / derived[0].file, mode="r")
    assert set(np.unique(group["0"][:])) == {128}


def test_after_a_kill_among_the_moves_no_tile_is_believed_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Path) -> None:
        raise KeyboardInterrupt

    maps = grown(tmp_path, 0.5)
    monkeypatch.setattr(score_maps, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        maps.finish()
    assert not (tmp_path / "work" / RECORDS_NAME).exists()
