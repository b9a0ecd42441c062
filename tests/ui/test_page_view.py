"""Looking closely, and working by keyboard, by touch, and with a screen reader."""

from __future__ import annotations

import io
import itertools
import re
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FloatRect, Page, expect

from tests.ui.driving import (
    COIN,
    PHONE,
    Visit,
    answered,
    click,
    coco_of,
    coin_at,
    covered,
    mask,
    open_coins,
    open_plain,
    place,
    put,
    rectangle,
    rows,
    screenshot,
)

MOVERS: list[tuple[str | None, Literal["middle", "left"]]] = [(None, "middle"), ("Space", "left")]

ORANGE = np.array([230, 159, 0])


def scale(page: Page) -> float:
    """Return CSS pixels for an original pixel."""
    (one, _), (two, _) = place(page, (0, 0)), place(page, (1, 0))
    return two - one


def test_the_wheel_zooms_at_the_pointer(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    fitted = scale(page)
    where = place(page, COIN)
    page.mouse.move(*where)
    page.mouse.wheel(0, -700)
    page.wait_for_function("document.getElementById('zoom').value !== '179 %'")
    assert scale(page) > 2 * fitted
    # Browsers round the place of a wheel's event to a whole pixel.
    assert place(page, COIN) == pytest.approx(where, abs=3)
    # What is under the pointer is what is clicked, at any zoom.
    with answered(page):
        page.mouse.click(*where)
    expect(page.locator("#prompts button")).to_have_text("+ 335, 44 ✕")
    page.keyboard.press("0")
    assert scale(page) == pytest.approx(1)
    expect(page.locator("#zoom")).to_have_text("100 %")
    page.keyboard.press("+")
    assert scale(page) == pytest.approx(1.4)
    page.keyboard.press("f")
    assert scale(page) == pytest.approx(fitted)


def test_a_drag_with_the_space_bar_or_the_middle_button_moves_the_view(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    page.mouse.move(*place(page, COIN))
    page.mouse.wheel(0, -1500)
    for key, button in MOVERS:
        x, y = place(page, COIN)
        page.mouse.move(500, 400)
        if key:
            page.keyboard.down(key)
        page.mouse.down(button=button)
        page.mouse.move(560, 430, steps=4)
        page.mouse.up(button=button)
        if key:
            page.keyboard.up(key)
        assert place(page, COIN) == pytest.approx((x + 60, y + 30), abs=1)
    expect(page.locator("#objects")).to_contain_text("empty")


def test_masks_are_sharp_at_any_zoom(visit: Visit) -> None:
    page = visit()
    open_plain(page)
    put(page, coco_of("plain.png", [rectangle(100, 80, 160, 120)]))
    page.locator("#opacity").fill("100")
    page.mouse.move(*place(page, (100, 80)))
    page.mouse.wheel(0, -5000)
    page.wait_for_function("document.getElementById('image').style.imageRendering === 'pixelated'")
    x, y = map(round, place(page, (104, 84)))
    side = scale(page)
    page.mouse.move(2, 2)
    clip: FloatRect = {"x": x - 8 * side, "y": y - 2, "width": 8 * side, "height": 4}

    expect(page.locator("#zoom")).to_have_text(re.compile(r"\d{4} %"))
    # Until the mask is drawn for this zoom.
    for _ in range(50):
        content = page.screenshot(clip=clip)
        row = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int16)[0]
        inside = (np.abs(row - ORANGE) < 12).all(axis=1)
        # From the border on, all pixels have the colour: there is no soft edge.
        start = int(np.argmax(inside))
        if inside[start:].all() and start == pytest.approx(3.5 * side, abs=1.5):
            return
    pytest.fail(f"the border is at {start} of {len(inside)} pixels, expected {3.5 * side}")


@pytest.mark.slow
def test_masks_are_hidden_outlined_and_faded(visit: Visit) -> None:
    page = visit()
    open_plain(page)
    page.locator("#hover").uncheck()
    plain = screenshot(page.locator("#image"))
    put(page, coco_of("plain.png", [rectangle(100, 80, 160, 120)]))
    inside = slice(plain.shape[0] * 95 // 200, plain.shape[0] * 105 // 200)
    columns = slice(plain.shape[1] * 120 // 300, plain.shape[1] * 140 // 300)

    def is_plain(part: tuple[slice, slice] | slice = (inside, columns)) -> bool:
        now = screenshot(page.locator("#image"))
        return bool(np.abs(now[part] - plain[part]).max() <= 2)

    assert not is_plain()
    for key, back in (("h", "h"), ("Shift+H", "Shift+H")):
        page.keyboard.press(key)
        assert is_plain(slice(None))
        page.keyboard.press(back)
        assert not is_plain()
    page.keyboard.press("l")
    assert is_plain() and not is_plain(slice(None))


@pytest.mark.slow
def test_all_can_be_done_by_keys(visit: Visit) -> None:
    page = visit()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = "document.activeElement.id"
    for _ in range(40):
        if page.evaluate(focused) == "sample":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#time-encode")).to_have_text(re.compile("encoded"))
    page.keyboard.press("i")
    assert page.evaluate(focused) == "canvas"
    page.keyboard.press("ArrowRight")
    with answered(page):
        page.keyboard.press("Enter")
    expect(page.locator("#prompts li")).to_have_count(1)
    # Again at the same place takes the point away.
    page.keyboard.press("Enter")
    expect(page.locator("#prompts li")).to_have_count(0)
    page.keyboard.press("p")
    page.keyboard.press("Enter")
    expect(page.locator("#objects")).to_contain_text("brush")
    page.keyboard.press("r")
    page.keyboard.type("dot")
    page.keyboard.press("Enter")
    assert rows(page) == ["dot"]
    page.keyboard.press("Control+Enter")
    expect(page.locator("#progress")).to_have_text("1 of 1, 1 done")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()


def test_every_control_has_a_name(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    page.locator("#class-new").fill("coin")
    page.locator("#class-new").press("Enter")
    page.keyboard.press("Escape")
    snapshot = page.locator("body").aria_snapshot()
    controls = re.findall(
        r"- (button|textbox|combobox|checkbox|slider|application)\b(.*)", snapshot
    )
    assert len(controls) > 40
    assert [each for each in controls if '"' not in each[1]] == []


def test_a_phone_zooms_with_two_fingers_and_fits(visit: Visit) -> None:
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    open_coins(page)
    page.locator("#canvas").scroll_into_view_if_needed()
    before = scale(page)
    x, y = place(page, (192, 150))
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *places: float) -> None:
        points = [{"x": x + each, "y": y, "id": i} for i, each in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", -20, 20)
    for reach in (30, 40, 60):
        send("touchMove", -reach, reach)
    send("touchEnd")
    assert scale(page) == pytest.approx(3 * before, rel=0.05)
    expect(page.locator("#objects")).to_contain_text("empty")
    page.locator("#fit").tap()
    with answered(page):
        page.touchscreen.tap(*place(page, COIN))
    assert covered(mask(page), coin_at(COIN)) > 0.6
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input[type=text]")]
            .filter((each) => each.offsetParent && each.getBoundingClientRect().height < 28)
            .map((each) => each.id || each.textContent)"""
    )
    assert small == []


def test_colour_blind_people_tell_the_first_classes_apart(visit: Visit) -> None:
    page = visit()
    colors = page.evaluate("import('/js/model/classes.js').then(({COLORS}) => COLORS)")
    # Machado, Oliveira and Fernandes 2009: full protanopia and deuteranopia, linear RGB.
    blind = (
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    )
    linear = (np.asarray(colors[:7]) / 255) ** 2.2
    for matrix in blind:
        seen = 255 * np.clip(linear @ np.transpose(matrix), 0, 1) ** (1 / 2.2)
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(distances) > 25
