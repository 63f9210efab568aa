"""``--inside`` as people give it: cells and annotations of an image file in one GeoJSON, as QuPath exports them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import write_field
from tests.toy_maxim import write_model

Call = Callable[..., tuple[int, str, str]]
REGION = str(uuid.UUID(int=7))


def square(x: float, y: float, side: float) -> dict[str, object]:
    ring = [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]
    return {"type": "Polygon", "coordinates": [ring]}


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An image of 192 px, and 64 cells with an annotation of the class Tumor over its left half."""
    folder = tmp_path_factory.mktemp("field")
    image, _ = write_field(folder, "north", 0)
    features = [
        {
            "type": "Feature",
            "id": str(uuid.UUID(int=100 + 8 * row + column)),
            "geometry": square(24 * column + 4, 24 * row + 4, 15),
            "properties": {"objectType": "detection"},
        }
        for row in range(8)
        for column in range(8)
    ]
    tumor = {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}}
    features.append({"type": "Feature", "id": REGION, "geometry": square(-5, -5, 101), "properties": tumor})
    objects = folder / "north.geojson"
    objects.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return image, objects


def ids(rows: range, columns: range) -> set[str]:
    return {str(uuid.UUID(int=100 + 8 * row + column)) for row in rows for column in columns}


@pytest.mark.parametrize("inside", ["Tumor", REGION.upper()])
def test_score_inside_a_class_or_an_annotation(mxbridge: Call, field: tuple, tmp_path: Path, inside: str) -> None:
    image, objects = field
    words = ["--files", image, "--labels", objects, "--model", "demo", "--no-tta", "--inside", inside]
    code, out, err = mxbridge("score", *words, "--dry-run")
    assert code == 0, err
    assert "only cells inside 1 annotation (Tumor), at most 16 of 64" in out + err
    code, out, err = mxbridge("score", *words, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    table = pd.read_parquet(tmp_path / "run" / "cells.parquet")
    assert set(table["cell"]) == ids(range(4), range(4))
    assert {row["cells"] for row in json.loads(out)["positive"]} == {16}
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["options"]["inside"] == [inside]


def test_impute_inside(mxbridge: Call, field: tuple, tmp_path: Path) -> None:
    image, objects = field
    model = write_model(tmp_path / "model.safetensors", ("DAPI", "CD3"), ("CD8",))
    words = ["--files", image, "--labels", objects, "--model", model, "--marker", "CD8", "--inside", "Tumor"]
    code, _, err = mxbridge("impute", *words, "--out", tmp_path / "run")
    assert code == 0, err
    assert "elsewhere the imputed channels are 0" in " ".join(err.split())
    assert set(pd.read_parquet(tmp_path / "run" / "cells.parquet")["cell"]) == ids(range(4), range(4))


def test_what_is_not_there_is_named(mxbridge: Call, field: tuple, tmp_path: Path) -> None:
    image, objects = field
    code, _, err = mxbridge("score", "--files", image, "--labels", objects, "--model", "demo", "--inside", "Stroma")
    assert code == 2
    assert "no annotation of the class or with the id 'Stroma'" in " ".join(err.split())
    model = write_model(tmp_path / "any.safetensors", ("DAPI", "CD3", "Ki67"))
    code, _, err = mxbridge("qc", "--files", image, "--model", model, "--inside", "Tumor")
    assert code == 6
    assert "has no annotations" in err
