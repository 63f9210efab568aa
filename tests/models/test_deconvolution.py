"""Colour deconvolution: what it sees on painted pictures, on real ones, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import rgb2hed
from skimage.data import immunohistochemistry
from skimage.measure import label

from mxbridge.errors import InputError, UsageError
from mxbridge.models.deconvolution import HEMATOXYLIN, OD_PER_LEVEL, SEG, WITHOUT_TISSUE, ColourPasses, Deconvolution
from mxbridge.models.translators import Weighting, open_translator
from mxbridge.stains import DAB, EOSIN, H_DAB, H_E, StainVectors, known_stains, unit

Picture = NDArray[np.uint8]


def painted(
    side: int = 96, *, blue: float = 0.6, brown: float = 0.9, glass: float = 255.0, stains: StainVectors = H_DAB
) -> tuple[Picture, NDArray[np.bool_], NDArray[np.bool_]]:
    """Two discs on pale tissue: the left with hematoxylin alone, the right with the other dye as well. Returns picture, left, right."""
    y, x = np.mgrid[:side, :side]
    left, right = ((y - side / 2) ** 2 + (x - side * at) ** 2 < 100 for at in (0.3, 0.7))
    amounts = np.zeros((side, side, 3))
    amounts[side // 6 :, :, 0] = 0.07  # tissue, with glass above
    amounts[left | right, 0] = blue
    amounts[right, 1] = brown
    return np.round(glass * 10 ** -(amounts @ stains.matrix)).astype(np.uint8), left, right


def windows(*pictures: Picture) -> torch.Tensor:
    return torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1).float() / 127.5 - 1 for p in pictures])


def pictures(passes: ColourPasses, *given: Picture) -> dict[str, Picture]:
    """As they are stored: ``(n, y, x, 3)``."""
    return {
        name: ((values + 1) / 2 * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for name, values in passes(windows(*given)).items()
    }


def nuclei(seg: Picture) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By the rule of the post-processing: nucleus, positive."""
    red, green, blue = (seg[..., k].astype(int) for k in range(3))
    nucleus = (red + blue > 120) & (green <= 80)
    return nucleus, nucleus & (red >= blue)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("glass", [255.0, 225.0])
def test_painted_nuclei_are_found_and_classed(frozen: bool, glass: float) -> None:
    picture, left, right = painted(glass=glass)
    translator = Deconvolution()
    passes = translator.passes(translator.images_for("all"))
    made = pictures(passes.frozen(windows(picture)) if frozen else passes, picture)
    nucleus, positive = nuclei(made[SEG][0])
    parts = label(nucleus, connectivity=2)
    assert parts.max() == 2
    for disc, is_positive in ((left, False), (right, True)):
        part = parts == np.bincount(parts[disc & nucleus]).argmax()
        assert (part & disc).sum() > 0.7 * disc.sum()
        assert (part & ~disc).sum() < 0.35 * disc.sum()
        assert (positive[part].mean() > 0.5) == is_positive
    assert np.median(made["DAB"][0][right]) * OD_PER_LEVEL == pytest.approx(0.9, abs=0.03)
    assert np.median(made["DAB"][0][left]) * OD_PER_LEVEL == pytest.approx(0, abs=0.03)
    alone = made[HEMATOXYLIN][0][right].mean(axis=0)
    expected = 255 * 10 ** (-0.6 * unit(H_DAB.hematoxylin))
    assert np.abs(alone - expected).max() < 5


def test_positive_means_above_the_threshold() -> None:
    picture, _, right = painted(brown=0.5)
    for positive_od, expected in ((0.4, True), (0.6, False)):
        translator = Deconvolution(positive_od=positive_od)
        seg = pictures(translator.passes([SEG]).frozen(windows(picture)), picture)[SEG][0]
        nucleus, positive = nuclei(seg)
        inside = right & nucleus
        assert inside.sum() > 100
        assert (positive[inside].mean() > 0.5) is np.bool_(expected)


def test_hematoxylin_and_eosin_have_no_positive_nuclei_unless_asked() -> None:
    picture, left, right = painted(stains=H_E)
    for positive_od, expected in ((None, 0), (0.2, right.sum())):
        translator = Deconvolution(H_E, positive_od=positive_od)
        assert translator.marker_image == "Eosin"
        made = pictures(translator.passes([SEG, "Eosin"]).frozen(windows(picture)), picture)
        nucleus, positive = nuclei(made[SEG][0])
        assert (nucleus & (left | right)).sum() > 0.7 * (left | right).sum()
        assert positive.sum() == pytest.approx(expected, rel=0.4)
        assert np.median(made["Eosin"][0][right]) == pytest.approx(90, abs=4)


def test_touching_nuclei_come_apart() -> None:
    y, x = np.mgrid[:64, :64]
    density = sum(np.exp(-((y - 32) ** 2 + (x - at) ** 2) / 60) for at in (24, 41))
    picture = np.round(255 * 10 ** (-density[..., None] * unit(H_DAB.hematoxylin))).astype(np.uint8)
    translator = Deconvolution()
    seg = pictures(translator.passes([SEG]).frozen(windows(picture)), picture)[SEG][0]
    nucleus, _ = nuclei(seg)
    assert label(nucleus, connectivity=2).max() == 2
    assert label(seg[..., 0].astype(int) + seg[..., 2] > 120, connectivity=2).max() == 1
    assert seg[32, 32, 1] > 80


def test_windows_do_not_see_each_other() -> None:
    one, two = painted()[0], painted(blue=0.3, glass=230)[0]
    translator = Deconvolution()
    passes = translator.passes(translator.images_for("all"))
    for how in (passes, passes.frozen(windows(one))):
        together, first, second = (pictures(how, *given) for given in ((one, two), (one,), (two,)))
        for image in together:
            assert np.array_equal(together[image], np.concatenate([first[image], second[image]]))


def test_frozen_levels_are_those_of_the_sample_and_are_told() -> None:
    one, pale = painted()[0], painted(blue=0.3)[0]
    passes = Deconvolution().passes([SEG])
    frozen = passes.frozen(windows(one))
    assert passes.levels is None
    assert passes.describe() == {"levels": "of each window"}
    told = frozen.describe()
    assert told["nuclei_by"] == "hematoxylin + DAB"
    assert told == passes.frozen(windows(one)).describe()
    assert told["nuclei_density"] > passes.frozen(windows(pale)).describe()["nuclei_density"]
    assert told["background"] == [255, 255, 255]


def test_glass_has_no_nuclei() -> None:
    rng = np.random.default_rng(1)
    glass = rng.integers(236, 244, (64, 64, 3)).astype(np.uint8)
    passes = Deconvolution().passes([SEG, "DAB"])
    frozen = passes.frozen(windows(glass))
    assert frozen.levels is not None and frozen.levels.nuclei == WITHOUT_TISSUE
    for how in (passes, frozen):
        assert not nuclei(pictures(how, glass)[SEG][0])[0].any()


@pytest.mark.parametrize(("level", "glass"), [(0, 236), (8, 236), (255, 236), (255, 210)])
def test_what_a_scanner_left_out_is_neither_tissue_nor_glass(level: int, glass: float) -> None:
    """The same thresholds, hence the same nuclei, as without a third of the picture; and none in what is missing."""
    picture, _, _ = painted(240, glass=glass)
    picture[:, :40] = level
    passes = Deconvolution().passes((SEG,))
    whole = passes.frozen(windows(picture[:, 40:]))
    cut = passes.frozen(windows(picture))
    assert cut.describe()["background"] == whole.describe()["background"] == [glass] * 3
    assert cut.describe()["nuclei_by"] == whole.describe()["nuclei_by"] == "hematoxylin + DAB"
    assert cut.describe()["nuclei_density"] == pytest.approx(whole.describe()["nuclei_density"], rel=0.02)
    nucleus, _ = nuclei(pictures(cut, picture)[SEG][0])
    assert label(nucleus, connectivity=2).max() == 2
    assert not nucleus[:, :50].any()


def test_small_black_spots_are_what_is_there() -> None:
    picture, _, _ = painted(glass=236.0)
    picture[45:50, 26:31] = 0  # pigment, on the nucleus of hematoxylin
    nucleus, _ = nuclei(pictures(Deconvolution().passes((SEG,)), picture)[SEG][0])
    assert nucleus[46:49, 27:30].all()


def test_brown_everywhere_is_no_stain_of_nuclei() -> None:
    """The picture of scikit-image is stained in the cytoplasm: nuclei are found by hematoxylin there."""
    picture = immunohistochemistry()
    passes = Deconvolution().passes([SEG, "DAB", HEMATOXYLIN])
    frozen = passes.frozen(windows(picture))
    assert frozen.describe()["nuclei_by"] == "hematoxylin"
    made = pictures(frozen, picture)
    nucleus, positive = nuclei(made[SEG][0])
    parts = label(nucleus, connectivity=2)
    sizes = np.bincount(parts.ravel())[1:]
    assert 150 < (sizes > 25).sum() < 450
    assert 0.15 < nucleus.mean() < 0.45
    share = np.bincount(parts.ravel(), positive.ravel())[1:][sizes > 25] / sizes[sizes > 25]
    assert 0.2 < (share >= 0.5).mean() < 0.7
    # the amounts order pixels as scikit-image's own deconvolution does
    theirs = rgb2hed(picture)[..., 2]
    ours = made["DAB"][0][..., 0]
    shown = ours > 0
    assert np.corrcoef(theirs[shown], ours[shown])[0, 1] > 0.98


def test_vectors_of_a_project_are_used() -> None:
    own = StainVectors("own", (0.5, 0.8, 0.3), (0.3, 0.4, 0.87), background=(240.0, 235.0, 230.0))
    translator = Deconvolution().with_stains(own)
    picture = np.round(np.array(own.background) * 10 ** -(np.array([0.4, 0.7]) @ own.matrix[:2]))
    made = pictures(
        translator.passes(["DAB"]).frozen(windows(np.full((40, 40, 3), picture, np.uint8))),
        np.full((40, 40, 3), picture, np.uint8),
    )
    assert np.median(made["DAB"]) == pytest.approx(70, abs=2)
    assert translator.describe()["stains"] == "own"
    assert translator.describe() != Deconvolution().describe()


def test_white_glass_was_not_measured() -> None:
    """QuPath's background is 255 until somebody measures it; the brightness of the slide's own glass is taken then."""
    picture, *_ = painted(glass=225)
    told = [
        Deconvolution(replace(H_DAB, background=given)).passes([SEG]).frozen(windows(picture)).describe()["background"]
        for given in (None, (255, 255, 255), (230, 225, 220))
    ]
    assert told == [[225, 225, 225], [225, 225, 225], [230, 225, 220]]


@pytest.mark.parametrize(("given", "shown"), [("Fast Red", "Fast Red"), ("Seg", "Stain 2"), ("../x", "Stain 2")])
def test_other_dyes_are_taken_like_dab(given: str, shown: str) -> None:
    picture, _, right = painted()
    translator = Deconvolution(replace(H_DAB, second_name=given))
    assert translator.marker_image == shown
    passes = translator.passes(translator.images_for("cells")).frozen(windows(picture))
    assert passes.describe()["nuclei_by"] == f"hematoxylin + {shown}"
    made = pictures(passes, picture)
    assert set(made) == {SEG, shown}
    assert nuclei(made[SEG][0])[1][right].mean() > 0.5


def test_third_colour_is_at_right_angles_where_none_is_given() -> None:
    rows = StainVectors("H-DAB", H_DAB.hematoxylin, DAB).matrix
    assert rows[2] @ rows[:2].T == pytest.approx([0, 0])
    assert StainVectors("H-DAB", H_DAB.hematoxylin, DAB, residual=(0, 0, 0)).matrix == pytest.approx(rows)
    flat = StainVectors("flat", H_DAB.hematoxylin, DAB, residual=tuple(np.add(H_DAB.hematoxylin, DAB)))
    assert np.isfinite(flat.inverse).all()
    assert flat.inverse @ flat.matrix == pytest.approx(np.eye(3))


def test_what_it_says_of_itself_is_what_the_task_asks_for() -> None:
    translator = open_translator("deconvolution")
    assert isinstance(translator, Deconvolution)
    assert (translator.um_per_px, translator.samples_slide, translator.weights_sha256) == (0.5, True, "")
    for wanted in ("score", "cells", "channels", "all"):
        images = translator.images_for(wanted)
        assert set(images) <= set(translator.fills())
        assert tuple(translator.passes(images, None).images) == images


@pytest.mark.parametrize(
    "make",
    [
        lambda: Deconvolution(positive_od=0),
        lambda: Deconvolution(positive_od=float("nan")),
        lambda: Deconvolution().passes([SEG], Weighting.parse("paper", 5)),
        lambda: Deconvolution().passes([SEG], Weighting.parse(None, 1)),
        lambda: Deconvolution().passes(["DAPI"]),
        lambda: known_stains("azan"),
    ],
)
def test_wrong_wishes_are_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("hematoxylin", "second", "background"),
    [
        ((0, 0, 0), DAB, None),
        ((0.6, float("nan"), 0.3), DAB, None),
        ((0.65, 0.70, 0.29), (0.66, 0.70, 0.29), None),
        ((0.65, 0.70, 0.29), EOSIN, (0, 255, 255)),
    ],
)
def test_what_is_no_colour_is_refused(hematoxylin: object, second: object, background: object) -> None:
    with pytest.raises(InputError, match="stain vectors 'x'"):
        StainVectors("x", hematoxylin, second, background=background)  # type: ignore[arg-type]
