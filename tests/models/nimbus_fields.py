"""Small images with cells, and a narrow network, for the tests of the marker model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import dask.array as da
import numpy as np
import tifffile
import torch
from scipy.ndimage import distance_transform_edt, find_objects

from mxbridge.cells import LabelCells
from mxbridge.image import Channel, LocalImage
from mxbridge.models.nimbus import CellScores, Nimbus, load
from mxbridge.networks.fused_unet import FusedUNet
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.stream.engine import Engine


def narrow_network(*, width: int = 3, depth: int = 3, seed: int = 0) -> ResidualUNet:
    """Random weights, uneven batch norm, outputs spread over 0..1."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network = ResidualUNet(width, depth).eval()
        for name, parameter in network.named_parameters():
            if name.endswith("weight") and parameter.ndim == 4:
                torch.nn.init.normal_(parameter, 0, 1.2 / parameter[0].numel() ** 0.5)
            else:
                torch.nn.init.uniform_(parameter, 0.2, 1.0)
        logits = torch.logit(network.double()(torch.rand(1, 2, 96, 96, dtype=torch.float64)))
        network.final_conv.weight /= logits.std()
        network.final_conv.bias -= logits.mean()
        network.final_conv.bias /= logits.std()
    return network.float()


def narrow_model(*, width: int = 3, depth: int = 3, seed: int = 0, um_per_px: float = 1.0) -> Nimbus:
    """:func:`narrow_network` as it is run."""
    network = narrow_network(width=width, depth=depth, seed=seed)
    return Nimbus("Narrow", um_per_px, f"seed {seed}", FusedUNet(network))


def labels_of(height: int, width: int, seed: int, radius: float = 4.5, spacing: float = 9.0) -> np.ndarray:
    """Blobs that touch here and there, ``(y, x)`` int32, labels 1..n without gaps."""
    rng = np.random.default_rng(seed)
    count = max(1, int(height * width / spacing**2))
    seeds = np.zeros((height, width), np.int32)
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = np.arange(1, count + 1)
    distance, (y, x) = distance_transform_edt(seeds == 0, return_indices=True)
    return consecutive(np.where(distance < radius, seeds[y, x], 0))


def consecutive(labels: np.ndarray) -> np.ndarray:
    values = np.unique(labels[labels > 0])
    return np.where(labels > 0, np.searchsorted(values, labels) + 1, 0).astype(np.int32)


def cells_of(labels: np.ndarray, chunk: int = 64) -> LabelCells:
    """Cells of a label image, its values in ascending order."""
    values = np.unique(labels[labels > 0]).astype(np.int64)
    boxes = [(s[0].start, s[1].start, s[0].stop, s[1].stop) for s in find_objects(consecutive(labels)) if s is not None]
    return LabelCells(
        ids=tuple(str(v) for v in values),
        classes=(None,) * len(values),
        shape=labels.shape,
        labels=da.from_array(labels, chunks=chunk),
        values=values,
        boxes=np.array(boxes, np.int64).reshape(-1, 4),
        content_hash=hashlib.sha256(labels.tobytes()).hexdigest(),
    )


def image_of(
    raw: np.ndarray, um: tuple[float, float] = (0.5, 0.5), *, levels: tuple = (), chunk: int = 64
) -> LocalImage:
    """``(c, y, x)`` numbers as an image with channels A, B, ..."""
    planes = tuple(da.from_array(level, chunks=(1, chunk, chunk)) for level in (raw, *levels))
    channels = tuple(Channel(chr(65 + c)) for c in range(len(raw)))
    return LocalImage("field", planes, channels, um, identity="test")


def noise(channels: int, height: int, width: int, seed: int, dtype: type = np.uint16) -> np.ndarray:
    """Structured numbers 0..3000."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((channels, height // 5 + 2, width // 5 + 2))
    smooth = coarse.repeat(5, 1).repeat(5, 2)[:, :height, :width]
    return (2000 * smooth + 1000 * rng.random((channels, height, width))).astype(dtype)


def oracle_field(folder: Path, fov: str) -> tuple[np.ndarray, np.ndarray]:
    """Raw (CD3, FOXP3) and labels of one field of the peer's run."""
    raw = np.stack([tifffile.imread(folder / f"pipeline/fovs/{fov}/{name}.tiff") for name in ("CD3", "FOXP3")])
    return raw, tifffile.imread(folder / f"pipeline/seg/{fov}_whole_cell.tiff").squeeze()


def oracle_model(folder: Path) -> Nimbus:
    return load(folder / "V1.pt")


ARRAYS = ("score", "view_sd", "intensity", "area_px", "centroid", "eroded_px", "touches_edge", "bad_pixels")


def score(model: Nimbus, raw: np.ndarray, labels: np.ndarray, um: float = 0.5, **options) -> CellScores:
    engine = Engine(device="cpu", tile=options.pop("tile", None), batch=options.pop("batch", None))
    factors = options.pop("factors", [2000.0] * len(raw))
    image = options.pop("image", None) or image_of(raw, (um, um))
    return model.score(image, cells_of(labels), range(len(raw)), factors, engine, **options)


def assert_same(first: CellScores, second: CellScores) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
