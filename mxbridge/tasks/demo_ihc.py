"""The brightfield image of ``mxbridge demo --kind ihc``: the picture that ships inside scikit-image, and regions drawn on it.

Colonic glands, immunohistochemistry of FHL2 (brown, DAB: in the cytoplasm of the glands) with hematoxylin; acquired at the
Center for Microscopy and Molecular Imaging, Belgium; no known copyright restrictions (says scikit-image). Nobody recorded its
pixel size: 0.5 µm is an assumption that gives the nuclei of the glands a length of 10 to 15 µm.
"""

from __future__ import annotations

import dask.array as da
import numpy as np

from mxbridge.image import Channel, LocalImage
from mxbridge.runs import digest
from mxbridge.workspaces.qupath.new import NewAnnotation, NewImage

NAME = "colon FHL2"
UM_PER_PX = 0.5
MODEL = "deconvolution"
"""What the project asks for when no model is named."""

ABOUT = (
    ("Picture", "scikit-image, skimage.data.immunohistochemistry"),
    ("Stain", "FHL2 (DAB), hematoxylin"),
    ("Pixel size", f"{UM_PER_PX} µm, assumed: it was not recorded"),
)

TUMOR, STROMA = "Tumor", "Stroma"
"""Classes every QuPath project offers. The tissue is not said to be a tumour: the glands stand for one."""

_REGIONS = {
    ("Gland 1", TUMOR): "0,0 240,0 270,60 272,140 262,200 245,236 205,258 172,260 78,212 0,138",
    ("Gland 2", TUMOR): "244,0 422,0 446,60 460,150 456,210 426,288 404,295 346,264 306,212 276,140 272,60",
    ("Gland 3", TUMOR): "0,150 70,214 100,262 128,312 158,380 162,512 40,512 48,450 50,330 0,270",
    ("Gland 4", TUMOR): "285,305 330,330 365,350 382,410 378,470 360,498 310,498 265,450 252,380 262,335",
    ("Stroma", STROMA): (
        "82,222 170,265 210,262 250,238 273,155 300,215 342,268 400,300 428,292 460,215 465,120 450,40 428,0 512,0 512,512 "
        "385,512 386,400 368,345 285,300 258,330 248,380 262,455 300,505 168,512 164,380 130,308 104,262"
    ),
}
"""Drawn by eye: corners x,y in pixels."""


def ihc_image(metadata: tuple[tuple[str, str], ...]) -> NewImage:
    """The picture (512 x 512, RGB) with its regions, for a new project. No network is needed."""
    from skimage.data import immunohistochemistry

    pixels = np.ascontiguousarray(np.moveaxis(immunohistochemistry(), -1, 0))
    image = LocalImage(
        name=NAME,
        levels=(da.from_array(pixels, chunks=(3, 512, 512)),),
        channels=(Channel("Red", 0xFF0000), Channel("Green", 0x00FF00), Channel("Blue", 0x0000FF)),
        pixel_size_um=(UM_PER_PX, UM_PER_PX),
        identity=digest([NAME, pixels.tobytes().hex()]),
        rgb=True,
    )
    regions = tuple(NewAnnotation(name, of, (_corners(text),)) for (name, of), text in _REGIONS.items())
    return NewImage(image, metadata=(*metadata, *ABOUT), annotations=regions, image_type="BRIGHTFIELD_H_DAB")


def _corners(text: str) -> np.ndarray:
    return np.array([[float(value) for value in corner.split(",")] for corner in text.split()])
