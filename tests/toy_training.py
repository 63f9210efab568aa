"""The recipe of the embedded weights shrunk to a second: tiny fields, one judged scenario, one field of validation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mxbridge.training import nimbus, panels, training_fields
from mxbridge.training.simulator import simulate


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(panels.scenarios()["clean"], height_um=60, width_um=60, um_per_px=1.0)
    monkeypatch.setattr(nimbus, "scenarios", lambda: {"clean": small})
    monkeypatch.setattr(nimbus, "demo_slide", lambda seed: simulate(small, seed))

    def little(seed: int) -> training_fields.TissueSettings:
        drawn = training_fields.random_settings(seed, size_um=100.0)
        return replace(drawn, um_per_px=1.0, spacing_um=9.0, filled=0.9, gaps=0.0)

    monkeypatch.setattr(nimbus, "random_settings", little)
    monkeypatch.setattr(nimbus, "grow", lambda seed, n: simulate(little(seed * 1_000_000 + n), seed * 1_000_000 + n))
    monkeypatch.setattr(nimbus, "VALIDATION_SEEDS", (9_000_001,))
    monkeypatch.setattr(nimbus, "JUDGE_SEEDS", (9_100_001,))
