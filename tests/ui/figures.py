"""Takes the documentation's screenshots of the page: `python -m tests.ui.figures`."""

from __future__ import annotations

import io

from hqsam_server import TritonServer
from hqsam_testing.browser import hqsam_ui, launched
from PIL import Image
from playwright.sync_api import Page, expect

from demo.figures import FOLDER, palette
from tests.ui.driving import COIN, DESK, PHONE, answered, click, drag, kept, open_coins, place

SECOND_COIN = (277, 53)
SPILL = (310, 45)
"""On the first coin; the mask of the second one reaches over there."""

BOX = ((243, 92), (298, 145))


def main() -> None:
    """Serve the small model, click on coins and write the images."""
    with (
        TritonServer() as server,
        hqsam_ui("--url", server.grpc_url) as (address, _),
        launched() as running,
    ):
        desk = running.new_page(viewport=DESK)
        start(desk, address)
        desk.locator("#hover").uncheck()
        for name in ("drachma", "obol"):
            desk.locator("#class-new").fill(name)
            desk.locator("#class-new").press("Enter")
        desk.keyboard.press("Escape")
        desk.locator("aside").evaluate("aside => aside.scrollTo(0, 0)")
        click(desk, COIN)
        desk.locator("#canvas").press("1")
        desk.locator("#new").click()
        click(desk, SECOND_COIN)
        click(desk, SPILL, key="Alt")
        desk.locator("#canvas").press("2")
        desk.locator("#new").click()
        with answered(desk):
            drag(desk, *BOX)
        save(desk, "ui")
        phone = running.new_page(viewport=PHONE, has_touch=True, is_mobile=True)
        start(phone, address)
        with answered(phone):
            phone.touchscreen.tap(*place(phone, COIN))
        phone.evaluate("scrollTo(0, 0)")
        save(phone, "ui-phone")


def start(page: Page, address: str) -> None:
    """Open the coins in the page."""
    page.goto(address)
    open_coins(page)


def save(page: Page, name: str) -> None:
    """Write a screenshot with a reduced palette."""
    page.mouse.move(0, 0)
    kept(page)
    expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    # The port is another one at each run.
    page.evaluate("document.getElementById('server-text').textContent = 'localhost:8001'")
    with Image.open(io.BytesIO(page.screenshot())) as screenshot:
        image = screenshot.convert("RGB")
    reduced = image.quantize(palette=palette(image), dither=Image.Dither.NONE)
    reduced.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
