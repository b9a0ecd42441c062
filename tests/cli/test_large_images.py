"""`--windows`, `--zoom`, and masks with their place on the map, against a running server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hqsam_client import HQSam, Windows
from hqsam_testing import maps
from PIL import Image

from tests.cli.command import hqsam

SIDE = 1100

BOXES = [(300, 310, 340, 350), (800, 700, 860, 770)]

FLAGS = [it for box in BOXES for it in ("--box", ",".join(map(str, box)))]


@pytest.fixture
def map_file(folder: Path) -> Path:
    maps.write(folder / "map.tif", SIDE)
    return folder / "map.tif"


def test_a_map_in_windows(map_file: Path, sam: HQSam) -> None:
    names = ("--output", "{stem}-{index}.tif", "--overlay", "{stem}-{index}.png")
    assert hqsam("segment", "map.tif", "--windows", "512", *FLAGS, *names) == 0
    masks = sam.open(map_file, windows=Windows(512, 128)).segment(boxes=BOXES)
    for index, mask in enumerate(masks):
        with rasterio.open(f"map-{index}.tif") as file:
            assert str(file.crs) == maps.CRS
            assert np.array_equal(file.read(1) == 255, mask.array)
        with Image.open(f"map-{index}.png") as overlay:
            x0, y0, x1, y1 = mask.window
            assert overlay.size == (x1 - x0, y1 - y0)


def test_outlines_of_a_map_and_of_an_image(map_file: Path) -> None:
    assert hqsam("segment", "map.tif", *FLAGS, "--output", "{stem}.geojson") == 0
    found = json.loads(Path("map.geojson").read_text())
    assert [len(found["features"]), "crs" in found] == [2, True]
    assert hqsam("segment", "map.tif", *FLAGS, "--output", "{index}.geojson") == 0
    assert len(json.loads(Path("1.geojson").read_text())["features"]) == 1
    assert hqsam("segment", "photo.png", "--box", "20,30,200,180", "--output", "p.geojson") == 0
    found = json.loads(Path("p.geojson").read_text())
    assert "crs" not in found
    (feature,) = found["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"


def test_zoom_gives_the_mask_that_the_client_gives(
    map_file: Path, sam: HQSam, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("segment", "map.tif", "--zoom", *FLAGS, "--json") == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    masks = sam.open(map_file).segment(boxes=BOXES, zoom=True)
    assert [entry["area"] for entry in entries] == [mask.area for mask in masks]


def test_windows_are_encoded_ahead(map_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(Windows(700, 175).grid((SIDE, SIDE)))
    assert hqsam("embed", "map.tif", "--windows", "700") == 0
    assert capsys.readouterr().out == f"{map_file}: {count} windows encoded, 0 already stored\n"
    assert hqsam("embed", "map.tif", "--windows", "700") == 0
    assert f"0 windows encoded, {count} already stored" in capsys.readouterr().out
    assert hqsam("embed", "missing.tif", "map.tif", "--windows", "700") == 1


def test_everything_is_looked_for_in_windows(map_file: Path) -> None:
    search = ("--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0")
    assert hqsam("everything", "map.tif", "--windows", "700", *search, "--coco", "o.json") == 0
    (image,) = json.loads(Path("o.json").read_text())["images"]
    assert (image["height"], image["width"]) == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--windows", "20"], "at least 64"),
        (["--windows", "--zoom"], "not allowed with"),
        (["--output", "{index}.jpg"], ".png"),
    ],
)
def test_wrong_arguments_say_so(
    map_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert hqsam("segment", "map.tif", *FLAGS, *arguments) != 0
    assert message in capsys.readouterr().err
