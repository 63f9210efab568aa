"""How well segmented nuclei match the truth: pixel by pixel for a class, and object by object.

Two quantities are called pixel accuracy in print. ``pixel_accuracy`` is (TP + TN) / all, what the published program of DeepLIIF
computes; ``pixel_accuracy_paper`` is TP / (TP + FP + FN), what its paper defines, and the same number as ``iou``.
Two are called aggregated Jaccard index. ``aji`` is that of Kumar et al. (2017): every truth object counts, with the prediction
of the largest IoU. ``aji_deepliif`` is what the published program of DeepLIIF computes: one to one, in the order of the truth's
first pixels, by the largest overlap; truth objects that nothing overlaps are not counted, so it is the higher of the two.
Ratios of nothing (a class that is neither there nor predicted) are NaN.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

PIXEL = ("pixel_accuracy", "pixel_accuracy_paper", "precision", "recall", "f1", "dice", "iou")
OBJECT = ("aji", "aji_deepliif", "object_precision", "object_recall", "object_f1", "sq", "rq", "pq")
METRICS = (*PIXEL, *OBJECT)

MATCH_IOU = 0.5
"""A prediction and a truth object are the same nucleus when their IoU is above; no object can then have two partners."""

EIGHT = np.ones((3, 3), np.int8)


def compare_class(truth: Mask, predicted: Mask) -> dict[str, float]:
    """``METRICS`` of one class, from two masks ``(y, x)``; objects are their 8-connected components."""
    return compare_pixels(truth, predicted) | compare_objects(components(truth), components(predicted))


def components(mask: Mask) -> Labels:
    """8-connected parts, numbered from 1 in the order of their first pixels."""
    labels, _ = ndimage.label(mask, EIGHT)
    return np.asarray(labels, np.int32)


def compare_pixels(truth: Mask, predicted: Mask) -> dict[str, float]:
    """``PIXEL`` of two masks of one shape. Raises ValueError for different shapes."""
    if truth.shape != predicted.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {predicted.shape}")
    both = int(np.count_nonzero(truth & predicted))
    there, said = int(np.count_nonzero(truth)), int(np.count_nonzero(predicted))
    either = there + said - both
    dice = _ratio(2 * both, there + said)
    return {
        "pixel_accuracy": _ratio(truth.size - either + both, truth.size),
        "pixel_accuracy_paper": _ratio(both, either),
        "precision": _ratio(both, said),
        "recall": _ratio(both, there),
        "f1": dice,
        "dice": dice,
        "iou": _ratio(both, either),
    }


def compare_objects(truth: Labels, predicted: Labels) -> dict[str, float]:
    """``OBJECT`` of two label images ``(y, x)``, 0 being background. Raises ValueError for different shapes."""
    found = overlaps(truth, predicted)
    truths, guesses = np.count_nonzero(found.truth_sizes), np.count_nonzero(found.predicted_sizes)
    iou = found.shared / found.union
    same = iou > MATCH_IOU
    hits = int(same.sum())
    rq = _ratio(2 * hits, int(truths + guesses))
    sq = float(iou[same].mean()) if hits else math.nan
    return {
        "aji": _aji(found),
        "aji_deepliif": _aji_deepliif(found),
        "object_precision": _ratio(hits, int(guesses)),
        "object_recall": _ratio(hits, int(truths)),
        "object_f1": rq,
        "sq": sq,
        "rq": rq,
        "pq": rq * sq if hits else rq,
    }


class Overlaps(NamedTuple):
    """Pairs of objects that share pixels, truth first: labels, pixels shared and of their union; sizes by label (0 for gaps)."""

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    shared: NDArray[np.int64]
    union: NDArray[np.int64]
    truth_sizes: NDArray[np.int64]
    predicted_sizes: NDArray[np.int64]


def overlaps(truth: Labels, predicted: Labels) -> Overlaps:
    """In the order of truth labels, then predicted ones. Raises ValueError for different shapes."""
    if truth.shape != predicted.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {predicted.shape}")
    truth_sizes, predicted_sizes = _sizes(truth), _sizes(predicted)
    both = (truth > 0) & (predicted > 0)
    key = truth[both].astype(np.int64) * len(predicted_sizes) + predicted[both]
    pairs, shared = np.unique(key, return_counts=True)
    i, j = np.divmod(pairs, len(predicted_sizes))
    return Overlaps(i, j, shared, truth_sizes[i] + predicted_sizes[j] - shared, truth_sizes, predicted_sizes)


def _sizes(labels: Labels) -> NDArray[np.int64]:
    sizes = np.bincount(labels.ravel(), minlength=1).astype(np.int64)
    sizes[0] = 0
    return sizes


def _aji(found: Overlaps) -> float:
    """Kumar et al. (2017): a prediction may serve several truth objects; those that served none are added to the union."""
    order = np.lexsort((found.predicted, -(found.shared / found.union), found.truth))
    _, first = np.unique(found.truth[order], return_index=True)
    best = order[first]
    missed = found.truth_sizes.sum() - found.truth_sizes[found.truth[best]].sum()
    used = np.unique(found.predicted[best])
    unused = found.predicted_sizes.sum() - found.predicted_sizes[used].sum()
    return _ratio(int(found.shared[best].sum()), int(found.union[best].sum() + missed + unused))


def _aji_deepliif(found: Overlaps) -> float:
    taken: set[int] = set()
    shared = union = 0
    ends = np.flatnonzero(np.diff(found.truth, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        free = [k for k in range(start, end) if int(found.predicted[k]) not in taken]
        start = end
        if free:
            best = max(free, key=lambda k: int(found.shared[k]))
            taken.add(int(found.predicted[best]))
            shared += int(found.shared[best])
            union += int(found.union[best])
    unused = int(found.predicted_sizes.sum()) - sum(int(found.predicted_sizes[k]) for k in taken)
    return _ratio(shared, union + unused)


def _ratio(above: int | float, below: int | float) -> float:
    return above / below if below else math.nan


RAW_LEVEL = 100
RAW_SMALLEST = 50
"""Of :func:`classes_of_raw`: grey level of a class colour, and pixels of the smallest nucleus."""
CLASS_LEVEL = 50
"""A pixel of a class image whose strongest colour is not above this is background (class images saved as JPEG have noise)."""
PURE_PART = 0.98
"""Class images have at least this part of their pixels near black or one pure colour; outputs of networks have fewer."""


def classes_of_picture(picture: NDArray[np.uint8]) -> tuple[Mask, Mask]:
    """Positive (red) and negative (blue) pixels ``(y, x)`` of a class image ``(y, x, 3)``; green is border, neither."""
    red, green, blue = (picture[..., k] for k in range(3))
    other = np.maximum(green, CLASS_LEVEL)
    return (red > other) & (red >= blue), (blue > other) & (blue > red)


def classes_of_raw(picture: NDArray[np.uint8]) -> tuple[Mask, Mask]:
    """Positive and negative nuclei ``(y, x)`` of a network's raw segmentation image, by the rule of the published program.

    Pixels with red (or blue) above 100, not below the other, green below 100; parts by the majority of their pixels; parts
    below 50 pixels are left out.
    """
    red, green, blue = (picture[..., k] for k in range(3))
    positive = (red > RAW_LEVEL) & (red >= blue) & (green < RAW_LEVEL)
    negative = (blue > RAW_LEVEL) & (blue > red) & (green < RAW_LEVEL)
    parts = components(positive | negative)
    sizes = np.bincount(parts.ravel())
    kept = sizes >= RAW_SMALLEST
    kept[0] = False
    is_positive = 2 * np.bincount(parts.ravel(), positive.ravel(), len(sizes)) >= sizes
    return (kept & is_positive)[parts], (kept & ~is_positive)[parts]


def is_class_image(picture: NDArray[Any]) -> bool:
    """Whether nearly all pixels of ``(y, x, 3)`` are black or one pure colour: a class image, no network's output."""
    near = (picture < CLASS_LEVEL) | (picture > 255 - CLASS_LEVEL)
    pure = near.all(axis=-1) & ((picture > 127).sum(axis=-1) <= 1)
    return bool(pure.mean() >= PURE_PART)
