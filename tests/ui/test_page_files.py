"""Exports of the page, read with the tools of the field, and imports."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing.coins import COINS
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect
from pycocotools.coco import COCO

from tests.ui.driving import (
    COIN,
    Visit,
    click,
    coco_of,
    exported,
    image_file,
    mask,
    masks_of,
    open_coins,
    open_image,
    open_plain,
    payload,
    put,
    rectangle,
    rows,
    saved,
)

SIZE = (300, 200)
CLASSES = ["ring", "bar"]


def drawn() -> list[NDArray[np.bool_]]:
    """Return a disc with a hole, and a bar in two parts: masks of an image of `SIZE`."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    distance = np.hypot(x - 90, y - 100)
    bar = rectangle(180, 20, 200, 90, SIZE) | rectangle(220, 60, 290, 80, SIZE)
    return [(distance < 60) & (distance > 25), bar]


@pytest.fixture
def page(visit: Visit) -> Page:
    """The page with `drawn` on an image."""
    page = visit()
    open_image(page, "plain.png", image_file(*SIZE))
    put(page, coco_of("plain.png", drawn(), CLASSES))
    return page


def agree(found: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    return float((found & expected).sum() / (found | expected).sum())


def test_exact_masks_are_what_the_client_makes_of_the_same_prompt(
    visit: Visit, small_server: TritonServer
) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    with HQSam(small_server.grpc_url, timeout_s=TIMEOUT_S) as sam:
        expected = sam.open(COINS).segment([COIN]).array
    # The browser's sums differ in the last bit.
    assert (mask(page) != expected).sum() <= 2


def test_coco_is_read_by_pycocotools(page: Page, tmp_path: Path) -> None:
    for name in ("coco", "coco-polygons"):
        path = tmp_path / f"{name}.json"
        path.write_bytes(saved(page, name))
        data = COCO(path)
        assert [each["name"] for each in data.loadCats(data.getCatIds())] == CLASSES
        annotations = data.loadAnns(data.getAnnIds())
        for annotation, expected in zip(annotations, drawn(), strict=True):
            found = data.annToMask(annotation) > 0
            assert agree(found, expected) >= (1 if name == "coco" else 0.97)
            assert annotation["area"] == expected.sum()
            assert not found[100, 90]
        assert annotations[1]["bbox"] == [180, 20, 110, 70]


def test_yolo_is_read_by_supervision(page: Page, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(saved(page, "yolo"))) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "images" / "plain.png")
    data = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(tmp_path / "images"),
        annotations_directory_path=str(tmp_path / "labels"),
        data_yaml_path=str(tmp_path / "data.yaml"),
        force_masks=True,
    )
    assert data.classes == CLASSES
    ((_, _, found),) = list(data)
    assert np.asarray(found.class_id).tolist() == [0, 1]
    for got, expected in zip(np.asarray(found.mask), drawn(), strict=True):
        assert agree(got, expected) > 0.9


def test_images_of_numbers_and_masks(page: Page) -> None:
    ring, bar = drawn()
    labels = Image.open(io.BytesIO(saved(page, "classes")))
    assert labels.mode == "P"
    np.testing.assert_array_equal(np.asarray(labels), ring + 2 * bar.astype(np.uint8))
    numbers = Image.open(io.BytesIO(saved(page, "objects")))
    np.testing.assert_array_equal(np.asarray(numbers, np.int32), ring + 2 * bar.astype(np.int32))
    with zipfile.ZipFile(io.BytesIO(saved(page, "masks"))) as archive:
        assert archive.namelist() == ["plain/1-ring-1.png", "plain/2-bar-2.png"]
        for name, expected in zip(archive.namelist(), (ring, bar), strict=True):
            found = np.asarray(Image.open(io.BytesIO(archive.read(name))))
            np.testing.assert_array_equal(found, expected * np.uint8(255))


def test_geojson_has_the_holes(page: Page) -> None:
    document: dict[str, Any] = json.loads(saved(page, "geojson"))
    ring, bar = document["features"]
    assert ring["properties"]["classification"]["name"] == "ring"
    outline, hole = ring["geometry"]["coordinates"][0]
    assert outline[0] == outline[-1]
    columns = np.asarray(hole)[:, 0]
    assert 64 <= columns.min() <= 67 and 114 <= columns.max() <= 117
    assert len(bar["geometry"]["coordinates"]) == 2


@pytest.mark.slow
def test_coco_comes_in_as_it_went_out(page: Page, visit: Visit) -> None:
    for name in ("coco", "coco-polygons"):
        document = json.loads(saved(page, name))
        other = visit()
        open_image(other, "plain.png", image_file(*SIZE))
        put(other, document)
        assert rows(other) == ["ring 1", "bar 2"]
        for found, expected in zip(exported(other), masks_of(document), strict=True):
            assert agree(found, expected) > (0.999 if name == "coco" else 0.97)


@pytest.mark.slow
def test_a_class_called_object_is_a_class_like_others(visit: Visit) -> None:
    page = visit()
    open_image(page, "plain.png", image_file(*SIZE))
    put(page, coco_of("plain.png", drawn(), ["object"]))
    assert rows(page) == ["object 1", "object 2"]
    page.locator("#class").select_option("none")
    document = json.loads(saved(page, "coco"))
    named = [each["name"] for each in document["categories"]]
    assert named == ["object", "object"]
    assert [each.get("no_class", False) for each in document["categories"]] == [False, True]
    put(page, document)
    assert rows(page)[2:] == ["Object 3", "object 4"]


@pytest.mark.slow
def test_all_images_go_into_one_file_and_come_in_by_name(visit: Visit) -> None:
    page = visit()
    page.locator("#file").set_input_files(
        [payload(name, image_file(*SIZE)) for name in ("a.png", "b.png")]
    )
    expect(page.locator("#strip li")).to_have_count(2)
    expect(page.locator("#frame")).to_be_visible()
    documents = [coco_of(name, drawn(), CLASSES) for name in ("a.png", "b.png", "c.png")]
    for i, document in enumerate(documents):
        document["images"][0]["id"] = i
        for annotation in document["annotations"]:
            annotation["image_id"] = i
    put(
        page,
        {
            "images": [each["images"][0] for each in documents],
            "annotations": [one for each in documents for one in each["annotations"]],
            "categories": documents[0]["categories"],
        },
    )
    expect(page.locator("#state")).to_contain_text("4 objects in 2 images; not here: c.png")
    data = json.loads(saved(page, "coco", "all"))
    assert [each["file_name"] for each in data["images"]] == ["a.png", "b.png"]
    np.testing.assert_array_equal(exported(page, "all"), drawn() * 2)
    with zipfile.ZipFile(io.BytesIO(saved(page, "yolo", "all"))) as archive:
        assert set(archive.namelist()) == {"data.yaml", "labels/a.txt", "labels/b.txt"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "JSON"),
        (b"[]", "no images and annotations"),
        (b'{"images": 3, "annotations": []}', "no images and annotations"),
    ],
)
def test_a_file_that_is_not_coco_is_refused(visit: Visit, content: bytes, reason: str) -> None:
    page = visit()
    page.locator("#import-file").set_input_files(payload("wrong.json", content))
    expect(page.locator("#error-text")).to_contain_text(reason)
    expect(page.locator("#error-text")).to_contain_text("wrong.json cannot be imported")


@pytest.mark.slow
def test_annotations_of_another_size_are_refused(visit: Visit) -> None:
    page = visit()
    open_image(page, "plain.png", image_file(120, 80))
    put(page, coco_of("plain.png", drawn()))
    expect(page.locator("#state")).to_have_text(
        re.compile(r"plain.png is 120 . 80 here, 300 . 200 there")
    )
    assert rows(page) == ["Object 1"]


def test_the_page_goes_on_while_a_large_file_is_made(visit: Visit) -> None:
    page = visit()
    size = (3000, 2000)
    open_plain(page, "large.png", size)
    corners = [(x, y) for x in range(0, 3000, 500) for y in range(0, 2000, 500)]
    put(page, coco_of("large.png", [rectangle(x, y, x + 490, y + 490, size) for x, y in corners]))
    # Counts the turns that others get between the click and the file.
    page.evaluate(
        """() => {
            let turns = 0;
            (function again() { turns++; setTimeout(again); })();
            document.getElementById("save").addEventListener("click", () => (turns = 0), true);
            const make = URL.createObjectURL;
            URL.createObjectURL = (blob) => {
                document.documentElement.dataset.turns = turns;
                return make.call(URL, blob);
            };
        }"""
    )
    saved(page, "coco-polygons")
    assert int(page.locator("html").get_attribute("data-turns") or 0) >= 3
