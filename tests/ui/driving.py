"""What the tests of the page do in the browser."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hqsam_testing.coins import COINS, LABELS
from hqsam_testing.oracle import images
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, ViewportSize, expect
from pycocotools import mask as coco

_SERIAL = itertools.count(1)

COIN = (335, 44)
BESIDE = (346, 92)
OTHER = (44, 124)

DESK: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}

Visit = Callable[..., Page]


def image_file(width: int, height: int, file_format: str = "PNG") -> bytes:
    """Return an image file that no other test has sent."""
    array = images.draw(width, height)
    array[:8, :8] = (next(_SERIAL), 7, 7)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, file_format)
    return buffer.getvalue()


def payload(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def choose(page: Page, name: str, content: bytes) -> None:
    page.locator("#file").set_input_files(payload(name, content))


def open_image(page: Page, name: str, content: bytes) -> None:
    """Choose a file; wait until it is encoded and shown."""
    choose(page, name, content)
    shown(page, name)


def shown(page: Page, name: str) -> None:
    """Wait until an image is encoded and shown."""
    expect(page.locator("#image")).to_have_attribute("alt", name)
    expect(page.locator("#time-encode")).to_have_text(re.compile("encoded"))
    expect(page.locator("#frame")).to_be_visible()


def open_coins(page: Page) -> None:
    open_image(page, COINS.name, COINS.read_bytes())


def place(page: Page, point: tuple[float, float]) -> tuple[float, float]:
    """Return the window's position of the centre of an image's pixel, (column, row)."""
    box = page.locator("#image").bounding_box()
    assert box is not None
    width, height = page.locator("#image").evaluate(
        "({style}) => [parseFloat(style.width), parseFloat(style.height)]"
    )
    return (
        box["x"] + (point[0] + 0.5) * box["width"] / width,
        box["y"] + (point[1] + 0.5) * box["height"] / height,
    )


def drag(page: Page, *track: tuple[float, float]) -> None:
    """Drag the mouse over pixels of the image."""
    page.mouse.move(*place(page, track[0]))
    page.mouse.down()
    for point in track[1:]:
        page.mouse.move(*place(page, point), steps=3)
    page.mouse.up()


def click(page: Page, point: tuple[float, float], key: str | None = None) -> None:
    """Click on a pixel of the image, with a key held down, and wait for the mask."""
    where = place(page, point)
    with answered(page):
        if key is not None:
            page.keyboard.down(key)
        page.mouse.click(*where)
        if key is not None:
            page.keyboard.up(key)


@contextmanager
def answered(page: Page) -> Iterator[None]:
    """Wait until the page shows the mask that the block asks for."""
    with page.expect_response(re.compile(r"/mask$")):
        yield
    expect(page.locator("#state")).not_to_have_text(re.compile("Segmenting"))


def kept(page: Page) -> None:
    """Wait until the work is saved."""
    expect(page.locator("#saved")).to_have_text(re.compile("^saved"))


def saved(page: Page, file_format: str, scope: str = "this") -> bytes:
    """Download the objects."""
    page.locator("#format").select_option(file_format)
    page.locator("#scope").select_option(scope)
    with page.expect_download() as download:
        page.locator("#save").click()
    return Path(download.value.path()).read_bytes()


def mask(page: Page) -> NDArray[np.bool_]:
    """Return the mask of the selected object as a user downloads it."""
    return np.asarray(Image.open(io.BytesIO(saved(page, "mask")))) > 127


def screenshot(target: Locator | Page) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(target.screenshot())).convert("RGB"), np.int16)


def coin_at(point: tuple[int, int]) -> NDArray[np.bool_]:
    labels = np.asarray(Image.open(LABELS))
    coin: NDArray[np.bool_] = labels == labels[point[1], point[0]]
    return coin


def covered(found: NDArray[np.bool_], coin: NDArray[np.bool_]) -> float:
    return float((found & coin).sum() / coin.sum())


def rows(page: Page) -> list[str]:
    """Return the titles of the objects."""
    return page.locator("#objects .pick span:nth-child(2)").all_inner_texts()


def open_plain(page: Page, name: str = "plain.png", size: tuple[int, int] = (300, 200)) -> None:
    """Open an image of (width, height) that no other test has sent."""
    open_image(page, name, image_file(*size))


def put(page: Page, document: dict[str, Any]) -> None:
    """Import annotations in COCO's format."""
    content = json.dumps(document).encode()
    page.locator("#import-file").set_input_files(payload("coco.json", content))
    expect(page.locator("#state")).to_have_text(re.compile("Imported"))


def coco_of(
    name: str, masks: Sequence[NDArray[np.bool_]], categories: Sequence[str] = ()
) -> dict[str, Any]:
    """Return annotations of one image, exact masks; their classes in turn."""
    height, width = masks[0].shape
    encoded = [coco.encode(np.asfortranarray(each.astype(np.uint8))) for each in masks]
    return {
        "images": [{"id": 7, "file_name": name, "width": width, "height": height}],
        "categories": [{"id": 40 + i, "name": each} for i, each in enumerate(categories)],
        "annotations": [
            {
                "id": i,
                "image_id": 7,
                "category_id": 40 + i % max(1, len(categories)),
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
            }
            for i, rle in enumerate(encoded)
        ],
    }


def masks_of(document: dict[str, Any]) -> list[NDArray[np.bool_]]:
    """Return the masks of annotations, exact or polygons."""
    sizes = {each["id"]: (each["height"], each["width"]) for each in document["images"]}
    found = []
    for annotation in document["annotations"]:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            segmentation = coco.merge(
                coco.frPyObjects(segmentation, *sizes[annotation["image_id"]])
            )
        found.append(coco.decode(segmentation) > 0)
    return found


def exported(page: Page, scope: str = "this") -> list[NDArray[np.bool_]]:
    """Return the exact masks of all objects."""
    return masks_of(json.loads(saved(page, "coco", scope)))


def rectangle(
    x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (300, 200)
) -> NDArray[np.bool_]:
    """Return a mask of an image of (width, height)."""
    mask = np.zeros(size[::-1], np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask
