"""The page in a browser, on the small model."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from hqsam_server import Endpoint, TritonServer
from hqsam_testing.browser import hqsam_ui
from hqsam_testing.coins import COINS
from PIL import Image
from playwright.sync_api import Page, expect
from pycocotools import mask as coco

from tests.ui.driving import (
    BESIDE,
    COIN,
    OTHER,
    PHONE,
    Visit,
    answered,
    choose,
    click,
    coin_at,
    covered,
    image_file,
    mask,
    open_coins,
    open_image,
    place,
    saved,
    screenshot,
)


def test_a_click_shows_and_saves_the_mask_of_the_object(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    # Otherwise the preview would be in the first screenshot.
    page.locator("#hover").uncheck()
    plain = screenshot(page.locator("#image"))
    click(page, COIN)
    found, coin = mask(page), coin_at(COIN)
    assert found.shape == (303, 384)
    assert covered(found, coin) > 0.75
    assert (found & coin).sum() / found.sum() > 0.5

    changed = np.abs(screenshot(page.locator("#image")) - plain).max(axis=2) > 16
    height, width = changed.shape
    # The page and the client enlarge the logits each on their own.
    drawn = np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.NEAREST))
    assert changed[drawn].mean() > 0.98
    assert changed[~drawn].mean() < 0.05
    expect(page.locator("#time-click")).to_have_text(re.compile(r"\d (ms|s)$"))


def test_a_click_can_remove_a_part_of_the_mask(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    click(page, OTHER)
    assert mask(page)[OTHER[1], OTHER[0]]
    page.locator("#undo").click()
    click(page, OTHER, key="Alt")
    found = mask(page)
    assert not found[OTHER[1], OTHER[0]]
    assert covered(found, coin_at(COIN)) > 0.6
    # The button does the same as the key.
    page.locator("#undo").click()
    page.locator("#remove").click()
    click(page, OTHER)
    np.testing.assert_array_equal(mask(page), found)


def test_a_box_is_dragged(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    rows, columns = np.nonzero(coin_at(OTHER))
    page.mouse.move(*place(page, (columns.min() - 3, rows.min() - 3)))
    page.mouse.down()
    page.mouse.move(*place(page, OTHER))
    page.mouse.move(*place(page, (columns.max() + 3, rows.max() + 3)))
    with answered(page):
        page.mouse.up()
    expect(page.locator("#objects")).to_contain_text("box")
    assert covered(mask(page), coin_at(OTHER)) > 0.6


def test_undo_redo_clear_and_several_objects(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    first = mask(page)
    click(page, BESIDE, key="Shift")
    page.keyboard.press("z")
    expect(page.locator("#objects")).to_contain_text("1 point")
    np.testing.assert_array_equal(mask(page), first)
    page.keyboard.press("Shift+Z")
    expect(page.locator("#objects")).to_contain_text("2 points")
    page.locator("#new").click()
    click(page, OTHER)
    expect(page.locator("#objects li")).to_have_count(2)
    document = json.loads(saved(page, "coco"))
    areas = [coco.decode(each["segmentation"]).sum() for each in document["annotations"]]
    assert [each["area"] for each in document["annotations"]] == areas
    assert len(areas) == 2
    np.testing.assert_array_equal(
        coco.decode(document["annotations"][1]["segmentation"]) > 0, mask(page)
    )
    overlay = Image.open(io.BytesIO(saved(page, "overlay")))
    assert overlay.size == (384, 303)
    page.locator("#clear").click()
    assert len(json.loads(saved(page, "coco"))["annotations"]) == 1


def test_refining_sends_the_previous_mask(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    page.locator("#refine").check()
    click(page, COIN)
    with page.expect_request(re.compile(r"/mask$")) as sent, answered(page):
        page.mouse.click(*place(page, BESIDE), button="right")
    # The prompt's line, and the logits of the previous mask.
    assert int(sent.value.all_headers()["content-length"]) > 256 * 256 * 4


def test_the_same_image_is_not_encoded_again(visit: Visit) -> None:
    page = visit()
    content = image_file(320, 200)
    choose(page, "new.png", content)
    expect(page.locator("#time-encode")).to_have_text(re.compile("encoded in"))
    page.reload()
    choose(page, "new.png", content)
    expect(page.locator("#time-encode")).to_have_text(re.compile("already encoded"))


def wait_for_drawing(page: Page, point: tuple[int, int], *, there: bool) -> None:
    """Wait until something, or nothing, is drawn on a pixel of the image."""
    page.wait_for_function(
        """([x, y, there]) => {
            const canvas = document.getElementById("canvas");
            const context = canvas.getContext("2d");
            const image = document.getElementById("image").getBoundingClientRect();
            const stage = canvas.getBoundingClientRect();
            const column = image.x - stage.x + (x * image.width) / 384;
            const row = image.y - stage.y + (y * image.height) / 303;
            return context.getImageData(column, row, 1, 1).data[3] > 0 === there;
        }""",
        arg=[point[0] + 0.5, point[1] + 0.5, there],
    )


def test_hovering_previews_the_mask(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    page.mouse.move(*place(page, COIN))
    wait_for_drawing(page, COIN, there=True)
    # A preview is not a prompt: there is nothing to undo or to save.
    expect(page.locator("#objects")).to_contain_text("empty")
    expect(page.locator("#undo")).to_be_disabled()
    page.mouse.move(5, 5)
    wait_for_drawing(page, COIN, there=False)


def test_hovering_asks_for_nothing_when_previews_are_off(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    page.locator("#hover").uncheck()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.mouse.move(*place(page, OTHER))
    click(page, COIN)
    assert len([url for url in sent if url.endswith("/mask")]) == 1


def sent_prompt(page: Page) -> dict[str, Any]:
    """Return the prompt of the newest mask that the page asked for."""
    prompt: dict[str, Any] = json.loads(page.evaluate("sentPrompts.at(-1)"))
    return prompt


def dot(page: Page) -> tuple[float, float]:
    """Return the centre of the dot of a point, as a share of the image."""
    x, y = page.evaluate(
        """async () => {
            await new Promise(requestAnimationFrame);
            const canvas = document.getElementById("canvas");
            const image = document.getElementById("image").getBoundingClientRect();
            const stage = canvas.getBoundingClientRect();
            const [x, y] = [image.x - stage.x, image.y - stage.y];
            const width = Math.floor(image.width);
            const height = Math.floor(image.height);
            const { data } = canvas.getContext("2d").getImageData(x, y, width, height);
            const columns = [], rows = [];
            for (let i = 0; i < width * height; i++) {
                const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
                if (red !== 0 || green !== 0x72 || blue !== 0xb2) continue;
                columns.push(i % width);
                rows.push(Math.floor(i / width));
            }
            const middle = (values) => (Math.min(...values) + Math.max(...values) + 1) / 2;
            return [middle(columns) / width, middle(rows) / height];
        }"""
    )
    return x, y


SMALL_IMAGE = (32, 20)


@pytest.mark.parametrize("place_in_pixel", [0.05, 0.5, 0.95])
def test_a_point_is_the_pixel_under_the_pointer(visit: Visit, place_in_pixel: float) -> None:
    page = visit()
    open_image(page, "pixels.png", image_file(*SMALL_IMAGE))
    shift = place_in_pixel - 0.5
    with answered(page):
        page.mouse.click(*place(page, (10 + shift, 7 + shift)))
    assert sent_prompt(page)["points"] == [[10, 7]]
    assert dot(page) == pytest.approx((10.5 / 32, 7.5 / 20), abs=0.1 / 32)


def test_a_tap_is_the_pixel_under_the_finger(visit: Visit) -> None:
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    open_image(page, "pixels.png", image_file(*SMALL_IMAGE))
    with answered(page):
        page.touchscreen.tap(*place(page, (31.3, 9.3)))
    assert sent_prompt(page)["points"] == [[31, 9]]


def test_a_box_is_where_it_is_drawn(visit: Visit) -> None:
    page = visit()
    open_image(page, "pixels.png", image_file(*SMALL_IMAGE))
    page.mouse.move(*place(page, (3.75, 2.75)))
    page.mouse.down()
    page.mouse.move(*place(page, (15.25, 9.25)))
    with answered(page):
        page.mouse.up()
    assert sent_prompt(page)["box"] == pytest.approx([4.25, 3.25, 15.75, 9.75], abs=0.1)


def test_keys_alone_make_a_mask(visit: Visit) -> None:
    page = visit()
    open_image(page, "pixels.png", image_file(*SMALL_IMAGE))
    page.locator("#canvas").focus()
    # From the middle, (16, 10), by steps of a pixel: the image is small.
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    with answered(page):
        page.keyboard.press("Enter")
    assert sent_prompt(page)["points"] == [[18, 9]]
    assert dot(page) == pytest.approx((18.5 / 32, 9.5 / 20), abs=0.1 / 32)

    page.keyboard.press("b")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("ArrowDown")
    with answered(page):
        page.keyboard.press("b")
    assert sent_prompt(page)["box"] == [16.5, 9.5, 18.5, 10.5]
    expect(page.locator("#iou")).to_have_text(re.compile(r"\d"))


def test_a_phone_taps_and_nothing_is_cut_off(visit: Visit) -> None:
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    open_coins(page)
    page.locator("#canvas").scroll_into_view_if_needed()
    with answered(page):
        page.touchscreen.tap(*place(page, COIN))
    assert covered(mask(page), coin_at(COIN)) > 0.6
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_twelve_megapixels(visit: Visit) -> None:
    page = visit()
    width, height = 4000, 3000
    content = io.BytesIO()
    Image.open(COINS).convert("RGB").resize((width, height)).save(content, "JPEG")
    choose(page, "large.jpg", content.getvalue())
    expect(page.locator("#state")).to_have_text(re.compile(r"4000 \W 3000"))
    click(page, (COIN[0] * width / 384, COIN[1] * height / 303))
    found = mask(page)
    assert found.shape == (height, width)
    coin = Image.fromarray(coin_at(COIN)).resize((width, height), Image.Resampling.NEAREST)
    assert covered(found, np.asarray(coin)) > 0.6


def test_a_broken_file_is_reported_below_the_image(visit: Visit) -> None:
    page = visit()
    choose(page, "broken.jpg", COINS.read_bytes()[:5000])
    expect(page.locator("#error")).to_be_visible()
    expect(page.locator("#error-text")).to_have_text(re.compile("image"))
    open_coins(page)
    expect(page.locator("#error")).to_be_hidden()
    click(page, COIN)


@pytest.mark.slow
def test_the_page_waits_for_a_stopped_server_and_continues(visit: Visit) -> None:
    here = Endpoint().with_port()
    with hqsam_ui("--url", here.url) as (address, _):
        with TritonServer(grpc=here):
            page = visit(address)
            open_coins(page)
        page.mouse.click(*place(page, COIN))
        expect(page.locator("#error-text")).to_have_text(re.compile("does not answer"))
        expect(page.locator("#server")).to_have_attribute("data-state", "gone")
        with TritonServer(grpc=here):
            expect(page.locator("#error")).to_be_hidden()
            expect(page.locator("#iou")).to_have_text(re.compile(r"\d"))
            assert covered(mask(page), coin_at(COIN)) > 0.6
