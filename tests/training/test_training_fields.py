"""Training fields keep within the documented ranges, are as varied as they say, and never those that judge."""

from __future__ import annotations

import numpy as np
import pytest

from mxbridge.training import nimbus, panels
from mxbridge.training import training_fields as fields

DRAWN = [fields.random_settings(1_000_000 + n) for n in range(300)]
DIRECT = (
    "spacing_um", "packing", "niche_um", "niche_strength", "gaps", "segmentation_error_um", "psf_um", "haze", "haze_um",
    "membrane_sharing", "bleed", "background", "shading", "matrix", "autofluorescence", "specks_per_mm2",
    "fibres_per_mm2", "photons",
)  # fmt: skip
"""Settings that are drawn as they are."""


@pytest.mark.parametrize("name", DIRECT)
def test_settings_keep_within_the_documented_ranges_and_reach_them(name):
    known = fields.RANGES[name]
    values = np.array([getattr(s, name) for s in DRAWN])
    bounds = [known.low, known.high, *(known.hard or ())]
    assert min(bounds) <= values.min() and values.max() <= max(bounds)
    assert values.max() - values.min() > 0.8 * (max(bounds) - min(bounds))


def test_every_range_is_drawn_from(monkeypatch):
    asked = set()

    class Told(dict):
        def __getitem__(self, name):
            asked.add(name)
            return super().__getitem__(name)

    known = fields.RANGES
    monkeypatch.setattr(fields, "RANGES", Told(known))
    for number in range(30):
        fields.random_settings(number)
    assert asked == set(known)
    assert all(r.unit and r.what and r.low <= r.high for r in known.values())


def test_counters_and_cameras():
    counting = [s for s in DRAWN if s.offset == 0]
    few = [s for s in DRAWN if s.photons < fields.COUNTING_BELOW]
    assert 0.4 < len(counting) / len(few) < 0.8 and all(s in few for s in counting)
    for settings in counting:
        assert settings.read_noise == 0 and all(m.peak == settings.photons for m in settings.markers)


def test_prevalence_runs_from_none_over_hardly_any_to_nearly_all():
    share = np.concatenate([_expected_shares(s) for s in DRAWN])
    assert np.mean(share == 0) > 0.05 and np.mean((share > 0) & (share < 0.02)) > 0.02 and np.mean(share > 0.8) > 0.01


def _expected_shares(settings):
    cells = sum(t.share for t in settings.types)
    programmes = [(t.share / cells, dict(t.positive)) for t in settings.types]
    return [sum(part * positive.get(name, 0) for part, positive in programmes) for name in settings.marker_names]


def test_no_judged_setting_is_drawn_in_training():
    judged = [*panels.scenarios().values(), panels.demo_settings()]
    panel = judged[0].marker_names
    assert all(s.marker_names == panel and s not in DRAWN for s in judged)
    assert all(s.marker_names != panel for s in DRAWN) and len(set(DRAWN)) == len(DRAWN)


def test_no_judged_number_is_drawn_in_training():
    """A field of training has the number seed x 1,000,000 + n, and n grows by one each ``renew`` steps."""
    drawn = nimbus.SimulatedPatches(lambda n: fields.grow(0, n), 1.0, 0)
    last = nimbus.LAST_SEED * 1_000_000 + nimbus.MOST_STEPS // drawn.renew + drawn.window
    kept = (*nimbus.VALIDATION_SEEDS, *nimbus.JUDGE_SEEDS, nimbus.DEMO_SEED)
    assert last < 9_000_000 <= min(kept) and len(set(kept)) == len(kept)
    assert nimbus.MOST_STEPS // drawn.renew + drawn.window < 1_000_000


def test_a_field_follows_from_its_number():
    assert fields.grow(2, 5).seed == 2_000_005
    assert fields.random_settings(7) == fields.random_settings(7) != fields.random_settings(8)
