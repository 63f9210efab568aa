"""What a MAXIM training reads: which images and markers, at which scale, scaled how, in which patches."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import InputError, NoPixelSize, UnknownName, UsageError
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.models.scaling import PEER
from mxbridge.panel import PanelRow
from mxbridge.progress import Progress
from mxbridge.training.maxim import scaling as maxim_scaling
from mxbridge.training.maxim.images import choose_dtype, choose_panel, choose_scale, gather_images
from mxbridge.training.maxim.patches import DrawnAhead, PixelStore
from mxbridge.training.maxim.recipe import HoldBack, first_network, prepare
from mxbridge.training.maxim.scaling import Source, fit_scalings
from mxbridge.training.maxim.settings import PAPER, settings_of
from mxbridge.training.maxim.split import Region
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.toy_maxim_training import MARKERS, images, pixels, tiny, workspace


class Heard(Progress):
    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warning(self, text):
        self.warnings.append(text)


def place(**channels: tuple[str, ...]) -> MemoryWorkspace:
    return MemoryWorkspace({name: (pixels(k, markers=len(c)), c, 0.5) for k, (name, c) in enumerate(channels.items())})


def image(stack: np.ndarray) -> LocalImage:
    names = tuple(Channel(f"M{k}") for k in range(len(stack)))
    return LocalImage("one", (da.from_array(stack),), names, (1.0, 1.0), "one")


def test_counterstains_are_inputs_and_other_channels_are_not():
    found = gather_images([place(a=("DAPI", "AF", "CD3", "empty", "DNA1_Ir191"))])
    assert found[0].usable == ("DAPI", "CD3", "DNA1_Ir191")
    panel, _ = choose_panel(found, tiny(markers=("cd3",)))
    assert (panel.inputs, panel.outputs, panel.planes) == (
        ("DAPI", "DNA1_Ir191"),
        ("CD3",),
        ("DAPI", "DNA1_Ir191", "CD3"),
    )


def test_images_that_lack_a_marker_are_left_out():
    heard = Heard()
    found = gather_images([place(a=MARKERS, b=MARKERS[:3], c=MARKERS, d=(*MARKERS, "CD9"))])
    panel, kept = choose_panel(found, tiny(), heard)
    assert panel.inputs == panel.outputs == MARKERS and panel.any_marker
    assert [i.name for i in kept] == ["a", "c", "d"]
    assert any("b is left out: it has no KI67" in n for n in heard.notes)
    assert any("CD9" in n for n in heard.notes)
    with pytest.raises(UnknownName, match="no marker 'CD99'"):
        choose_panel(found, tiny(markers=("CD99",)))
    with pytest.raises(InputError, match="no image has all of CD8, KI67, CD9"):
        choose_panel(gather_images([place(a=MARKERS, b=("CD9", "CD3"))]), tiny(inputs=("CD8", "KI67", "CD9")))
    with pytest.raises(InputError, match="too few"):
        choose_panel(found, tiny(inputs=("CD3",)))


def test_a_repeated_name_is_an_error():
    with pytest.raises(InputError, match="2 channels are called CD3"):
        choose_panel(gather_images([place(a=("DAPI", "CD3", "CD3", "CD8"))]), tiny())


def test_a_panel_renames_and_leaves_out():
    rows = (
        PanelRow("DAPI", "Nuclei", "counterstain", True),
        PanelRow("CD3", "T cells", "marker", True),
        PanelRow("CD8", "CD8", "marker", False),
    )
    found = gather_images([workspace(2)], panel=rows)
    assert found[0].usable == ("Nuclei", "T cells")
    assert choose_panel(found, tiny(markers=("KI67",)))[0].inputs == ("Nuclei", "T cells")


def test_images_are_named_once():
    with pytest.raises(UsageError, match="named twice"):
        gather_images([workspace(2), workspace(2)])
    with pytest.raises(UnknownName, match="no image 'slide7'"):
        gather_images([workspace(2)], names=["slide0", "slide7"])
    assert [i.name for i in gather_images([workspace(2)], names=["slide1"])] == ["slide1"]


def test_the_scale_is_the_images_or_the_coarsest():
    def at(*sizes):
        return [replace(i, image=i.image.with_pixel_size(um)) for i, um in zip(images(len(sizes)), sizes, strict=True)]

    heard = Heard()
    assert choose_scale(at(0.5, 0.504), None, heard) == 0.5 and not heard.notes
    assert choose_scale(at(0.5, 0.65), None, heard) == 0.65 and "coarsest" in heard.notes[0]
    assert choose_scale(at(0.5, 0.65), 0.3) == 0.3
    with pytest.raises(InputError, match="more than 4 times"):
        choose_scale(at(0.5, 2.5), None)
    with pytest.raises(NoPixelSize):
        choose_scale(images(2, um=None), None)


def test_eight_bits_are_not_mixed_with_more():
    assert choose_dtype(images(2)) == "uint16"
    with pytest.raises(InputError, match="has 8 bits"):
        choose_dtype([*images(2), *images(1, dtype="uint8")])
    assert choose_dtype([*images(2), *images(1, dtype="float32")]) == ""


@settings(deadline=None, max_examples=30)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "int32", "float32", "float64"]),
    cap=st.sampled_from([0.9, 0.995, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_cap_is_the_quantile_of_all_training_pixels(dtype, cap, seed):
    rng = np.random.default_rng(seed)
    stack = (rng.exponential(20, (2, 70, 41)) - 5).clip(-5 if dtype[0] in "if" else 0, 250).astype(dtype)
    box = Box(3, 1, 63, 40)
    found = fit_scalings([Source(image(stack), (1,), box)], ["M1"], "linear", cap)["M1"]
    seen = stack[1, box.y0 : box.y1, box.x0 : box.x1].astype(np.float32)
    assert found.high == pytest.approx(
        np.quantile(seen, cap, method="nearest"), rel=1e-6, abs=0.51 if cap < 1 and dtype[0] in "iu" else 1e-6
    )
    assert (found.transform, found.low) == ("linear", 0)


def test_scalings_by_name():
    stack = np.full((1, 64, 64), 255, np.uint8)
    stack[0, ::2] = 3
    source = [Source(image(stack), (0,), Box(0, 0, 64, 64))]
    assert fit_scalings(source, ["M0"], "peer", 0.995)["M0"] == PEER
    found = fit_scalings(source, ["M0"], "arcsinh:2", 0.995)["M0"]
    assert (found.transform, found.cofactor, found.high) == ("arcsinh", 2, pytest.approx(np.arcsinh(127.5)))
    for wrong in ("log", "arcsinh:0", "arcsinh:x", "linear:2"):
        with pytest.raises(UsageError, match="--scaling"):
            tiny(scaling=wrong)
    with pytest.raises(InputError, match="8-bit"):
        fit_scalings([Source(image(stack.astype(np.uint16)), (0,), Box(0, 0, 64, 64))], ["M0"], "peer", 0.995)


def test_channels_that_are_no_good_are_named():
    stack = np.random.default_rng(0).integers(1, 4000, (4, 64, 64)).astype(np.uint16)
    stack[1] = 7
    stack[2, :4] = 4095
    stack[3] = 0
    heard = Heard()
    whole = Box(0, 0, 64, 64)
    with pytest.raises(InputError, match="no signal in B, D"):
        fit_scalings([Source(image(stack), (0, 1, 2, 3), whole)], list("ABCD"), "linear", 0.995)
    fit_scalings([Source(image(stack), (0, 2), whole)], list("AC"), "linear", 0.995, heard)
    assert heard.warnings == ["C: 6.2% of the training pixels are saturated"]
    broken = stack[:1].astype(np.float32)
    broken[0, 0, :8] = np.nan
    fit_scalings([Source(image(broken), (0,), whole)], ["A"], "linear", 0.995, heard)
    assert "no numbers" in heard.warnings[1]


def test_a_sparse_marker_is_capped_among_its_own_pixels():
    stack = np.zeros((1, 100, 100), np.uint16)
    stack[0, 0, :20] = np.arange(1, 21)
    assert fit_scalings([Source(image(stack), (0,), Box(0, 0, 100, 100))], ["M0"], "linear", 0.995)["M0"].high == 20


def test_batches_are_functions_of_seed_and_step():
    one, same, other = (prepare(images(), tiny(seed=s)).patches() for s in (1, 1, 2))
    for a, b in zip(one(5), same(5), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one(5)[1], one(6)[1]) and not torch.equal(one(5)[1], other(5)[1])


def test_masks_hide_what_is_asked_for():
    prepared = prepare(images(), tiny(most_hidden=3, start="none", batch=8))
    counts = set()
    for step in range(12):
        inputs, truth, weights = prepared.patches()(step)
        assert inputs.shape == (8, 8, 32, 32) and truth.shape == (8, 4, 32, 32) and weights.shape == (8, 4, 1, 1)
        assert torch.equal(inputs[:, 4:], (1 - weights).expand(8, 4, 32, 32))
        assert torch.equal(inputs[:, :4], truth * (1 - weights))
        counts.update(weights.sum((1, 2, 3)).tolist())
    assert counts == {1.0, 2.0, 3.0}


def test_hidden_planes_hold_the_linear_start():
    prepared = prepare(images(), tiny(batch=4))
    inputs, truth, weights, start = prepared.patches()(0)
    assert torch.equal(inputs[:, :4], truth * (1 - weights) + start * weights)
    assert not start[weights[:, :, 0, 0] == 0].any()


def test_single_models_see_no_target():
    prepared = prepare(images(), tiny(markers=("KI67",), batch=4))
    inputs, truth, weights, start = prepared.patches()(0)
    assert inputs.shape[1] == 3 and truth.shape[1] == 1 and weights.eq(1).all()
    # KI67 is the mean of the first two: the regression knows it but for rounding
    assert float((start - truth).abs().mean()) < 0.03
    assert first_network(prepared)(inputs).eq(0.5).all(), "a network that has learned nothing corrects nothing"


def test_jitter_is_of_inputs_only():
    still, moved = (prepare(images(), tiny(markers=("KI67",), jitter=j)).patches()(0) for j in (0.0, 0.3))
    assert torch.equal(still[1][0], moved[1][0]) and not torch.equal(still[0][0], moved[0][0])
    assert float(moved[0].min()) >= 0 and float(moved[0].max()) <= 1


def test_large_images_are_read_where_needed():
    prepared = prepare(images(), tiny())
    lean = PixelStore(prepared.store.readers, 4, room=0)
    box = Box(5, 7, 30, 50)
    assert np.array_equal(lean.read(1, box), prepared.store.read(1, box)) and not lean._kept


def test_regions_are_drawn_by_their_area():
    prepared = prepare(images(), tiny())
    regions = (Region(0, Box(0, 0, 32, 32)), Region(1, Box(0, 0, 64, 80)), Region(2, Box(0, 0, 32, 64)))
    patches = replace(prepared.patches(), regions=regions)
    area = np.array([32 * 32, 64 * 80, 32 * 64])
    np.testing.assert_allclose(patches._shares, np.cumsum(area) / area.sum())
    assert len(patches(0)[0]) == 2


def test_a_choice_of_blocks_is_no_column_of_the_slide(monkeypatch):
    """Every n-th block of a slide that is n blocks wide would be its edge, where there is glass."""
    monkeypatch.setattr(maxim_scaling, "BLOCK", 8)
    monkeypatch.setattr(maxim_scaling, "MOST_PIXELS", 64 * 64 // 8)
    place = MemoryWorkspace({"slide": (pixels(0, shape=(64, 64)), MARKERS, 0.5)})
    image = gather_images([place])[0].image
    source = maxim_scaling.Source(image, (0, 1), Box(0, 0, 64, 64))
    chosen = maxim_scaling._chosen([source], 1 / 8)
    assert len(chosen) == 8 and len({box.x0 for _, box in chosen}) > 2 and len({box.y0 for _, box in chosen}) > 2
    assert chosen == maxim_scaling._chosen([source], 1 / 8)
    assert set(maxim_scaling.fit_scalings([source], MARKERS[:2], "linear", 0.99)) == set(MARKERS[:2])


@pytest.mark.parametrize("side", [64, 96])
def test_too_little_to_learn_from(side):
    with pytest.raises(InputError, match="--patch"):
        prepare(images(2), tiny(side=side), HoldBack())


def test_the_papers_settings():
    paper = settings_of("paper", markers=("KI67",))
    assert (paper.width, paper.side, paper.batch, paper.alpha, paper.beta) == (32, 256, 64, 0.5, 100)
    plan = paper.schedule(14_476 * 1396 * 1860)
    epoch = 14_476 * 24 // 64
    assert (plan.optimizer, plan.betas, plan.learning_rate, plan.weight_decay) == ("adam", (0.5, 0.999), 0.002, 0)
    assert abs(plan.validate_every - epoch) <= 2 and plan.steps == 200 * plan.validate_every
    assert (plan.patience, plan.least_steps) == (25, 50 * plan.validate_every)
    assert plan.rate(0) == plan.rate(plan.steps - 1) == 0.002 and plan.average == plan.clip_norm == 0
    assert (paper.scaling, paper.optimizer, paper.epochs, paper.least_epochs) == ("peer", "adam", 200, 50)
    assert settings_of("paper", markers=("KI67",), scaling="linear", cap=0.9).scaling == "linear"
    assert paper.published_start and paper.start == "none" and set(PAPER) <= set(paper.to_json())
    assert settings_of("paper", markers=("KI67",), width=8, steps=10).schedule(10**6).steps == 10
    network = first_network(prepare(images(4), replace(tiny(markers=("KI67",)), published_start=True, start="none")))
    spread = float(network.bottleneck[0].weight.detach().std())
    assert spread == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"markers": ()},
        {"markers": ("A",), "any_marker": True},
        {"markers": ("A", "A")},
        {"markers": ("A",), "inputs": ("A", "B")},
        {"side": 40},
        {"side": 32, "adversarial": "coded"},
        {"side": 96, "adversarial": "paper"},
        {"adversarial": "none"},
        {"width": 0},
        {"cap": 1.5},
        {"fraction": 0.0},
        {"alpha": float("nan")},
        {"um_per_px": 0.0},
        {"start": "cold"},
    ],
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(UsageError):
        settings_of("house", **({"any_marker": "markers" not in wrong} | wrong))


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_drawn_ahead_are_the_same(threads):
    patches = prepare(images(), tiny()).patches()
    before = threading.active_count()
    with closing(DrawnAhead(patches, 6, threads)) as ahead:
        for step in (0, 1, 2, 4, 5):  # 3 is left out: somebody went on from a checkpoint
            assert all(torch.equal(a, b) for a, b in zip(ahead(step), patches(step), strict=True))
    assert threading.active_count() == before


def test_an_error_while_drawing_ahead_is_heard():
    def broken(step):
        raise InputError("no pixels")

    with closing(DrawnAhead(broken, 6, 2)) as ahead, pytest.raises(InputError, match="no pixels"):
        ahead(0)
