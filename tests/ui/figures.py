"""Takes the documentation's screenshots of the page: `python -m tests.ui.figures`."""

from __future__ import annotations

import io
from collections.abc import Sequence

from hqsam_server import TritonServer
from hqsam_testing import browser
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from demo.figures import FOLDER, palette
from tests.ui.conftest import hqsam_ui
from tests.ui.driving import COIN, DESK, PHONE, answered, click, open_coins, place

SECOND_COIN = (277, 53)
SPILL = (310, 45)
"""On the first coin; the mask of the second one reaches over there."""

BOX = ((243, 92), (298, 145))


def main() -> None:
    """Serve the small model, click on coins and write the images."""
    executable = browser.find()
    if executable is None:
        raise SystemExit(browser.MISSING)
    with (
        TritonServer() as server,
        hqsam_ui("--url", server.grpc_url) as (address, _),
        sync_playwright() as playwright,
    ):
        running = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        desk = running.new_page(viewport=DESK)
        start(desk, address)
        desk.locator("#hover").uncheck()
        click(desk, COIN)
        desk.locator("#new").click()
        click(desk, SECOND_COIN)
        click(desk, SPILL, key="Alt")
        desk.locator("#new").click()
        drag(desk, *BOX)
        save(desk, "ui")
        phone = running.new_page(viewport=PHONE, has_touch=True, is_mobile=True)
        start(phone, address)
        with answered(phone):
            phone.touchscreen.tap(*place(phone, COIN))
        save(phone, "ui-phone")
        running.close()


def start(page: Page, address: str) -> None:
    """Open the coins in the page."""
    page.goto(address)
    open_coins(page)


def drag(page: Page, start: Sequence[float], end: Sequence[float]) -> None:
    """Draw a box from pixel to pixel."""
    page.mouse.move(*place(page, (start[0], start[1])))
    page.mouse.down()
    page.mouse.move(*place(page, (end[0], end[1])))
    with answered(page):
        page.mouse.up()


def save(page: Page, name: str) -> None:
    """Write a screenshot with a reduced palette."""
    page.mouse.move(0, 0)
    expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    # The port is another one at each run.
    page.evaluate("document.getElementById('server-text').textContent = 'localhost:8001'")
    with Image.open(io.BytesIO(page.screenshot())) as screenshot:
        image = screenshot.convert("RGB")
    reduced = image.quantize(palette=palette(image), dither=Image.Dither.NONE)
    reduced.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
