"""The page in a real browser, with an image of 12 megapixels: clicks, and frames while moving.

A click is measured in the browser, from the mouse button to the end of the frame that shows the
mask. The server's own time, which the answer's `server-timing` header tells, is taken off.
Frames are those of `requestAnimationFrame` while the wheel zooms and the mouse moves the view
over 200 objects. The server, the small model and the browser share the machine's cores, and the
browser draws without a GPU.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from hqsam_server import TritonServer
from hqsam_testing.browser import hqsam_ui, launched
from hqsam_testing.coins import COINS
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect
from pycocotools import mask as coco

from benchmarks import report

SIZE = (4000, 3000)
"""Width and height of the photograph: 12 megapixels."""

OBJECTS = (20, 10)
"""Columns and rows of objects."""

CLICKS = 60
STEPS = 60
"""Turns of the wheel, or steps of the mouse, in a round."""

ROUNDS = 3

RECORD = """
    const ask = window.fetch;
    window.clicks = [];
    window.frames = [];
    let asked = 0;
    let answer = null;
    let drawn = null;
    addEventListener("pointerup", (event) => (asked = event.timeStamp), true);
    window.fetch = async (path, options) => {
        const response = await ask(path, options);
        if (String(path).endsWith("/mask")) {
            const own = Number(/dur=([\\d.]+)/.exec(response.headers.get("server-timing"))[1]);
            answer = { asked, own, answered: performance.now() };
        }
        return response;
    };
    const draw = CanvasRenderingContext2D.prototype.drawImage;
    CanvasRenderingContext2D.prototype.drawImage = function (...values) {
        draw.apply(this, values);
        if (!answer || this.canvas.id !== "canvas") return;
        drawn = answer;
        answer = null;
    };
    // A message that is sent in a frame arrives when the page's thread has done all work for it.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
        if (!drawn) return;
        const { asked, own, answered } = drawn;
        const now = performance.now();
        clicks.push({ whole: now - asked, own, drawing: now - answered });
        document.documentElement.dataset.clicks = clicks.length;
        drawn = null;
    };
    let last = 0;
    (function frame(now) {
        if (window.moving) frames.push(now - last);
        last = now;
        port2.postMessage(null);
        requestAnimationFrame(frame);
    })(0);
"""


def main() -> None:
    """Run the benchmark."""
    with (
        TritonServer() as server,
        hqsam_ui("--url", server.grpc_url) as (address, _),
        launched() as running,
    ):
        page = running.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(RECORD)
        page.goto(address)
        open_photograph(page)
        rows = [*click_rows(clicks(page)), *frame_rows(page)]
    rows.append(
        {
            "what": "load of the machine while measuring",
            "figure": f"{os.getloadavg()[0]:.1f}",
            "detail": "average over a minute, with the benchmark's own",
        }
    )
    report.write("page", "The page in a browser", "make bench-page", rows)


def open_photograph(page: Page) -> None:
    """Open the coins, enlarged, without previews and without encoding ahead."""
    with Image.open(COINS) as photograph:
        enlarged = photograph.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    enlarged.save(buffer, "JPEG", quality=90)
    file: FilePayload = {
        "name": "coins.jpg",
        "mimeType": "image/jpeg",
        "buffer": buffer.getvalue(),
    }
    page.locator("#hover").uncheck()
    page.locator("#file").set_input_files(file)
    expect(page.locator("#time-encode")).to_contain_text("encoded")
    expect(page.locator("#frame")).to_be_visible()


def clicks(page: Page) -> list[dict[str, float]]:
    """Click on coins, each click another object; returns milliseconds."""
    box = page.locator("#image").bounding_box()
    assert box is not None  # noqa: S101 - it is visible
    places = itertools.cycle([(0.87, 0.15), (0.11, 0.41), (0.72, 0.17), (0.36, 0.41)])
    for count, (x, y) in zip(range(1, CLICKS + 6), places, strict=False):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        expect(page.locator("html")).to_have_attribute("data-clicks", str(count))
        # Its exact mask is cut and saved.
        expect(page.locator("#saved")).to_have_text("saved in this browser")
        page.locator("#clear" if count % 8 else "#new").click()
    found: list[dict[str, float]] = page.evaluate("clicks.slice(5)")
    return found


def click_rows(found: list[dict[str, float]]) -> list[dict[str, str]]:
    """Return the rows of the report for clicks."""
    own = [each["whole"] - each["own"] for each in found]
    drawing = [each["drawing"] for each in found]
    server = statistics.median(each["own"] for each in found)
    return [
        row("click to overlay, without the server's own time", own, "aim: 20 ms"),
        row(
            "of it, from the answer's first byte to the overlay",
            drawing,
            f"the server's own time, taken off: median {server:.1f} ms",
        ),
    ]


def frame_rows(page: Page) -> list[dict[str, str]]:
    """Put 200 objects on the image, and return the rows of the report for frames."""
    content = json.dumps(discs()).encode()
    file: FilePayload = {
        "name": "coco.json",
        "mimeType": "application/json",
        "buffer": content,
    }
    page.locator("#import-file").set_input_files(file)
    expect(page.locator("#state")).to_contain_text("Imported 200")
    expect(page.locator("#saved")).to_have_text("saved in this browser")
    zooms: list[float] = []
    pans: list[float] = []
    for _ in range(ROUNDS):
        page.locator("#fit").click()
        centre(page)
        zooms += moving(page, lambda step: page.mouse.wheel(0, -40 if step < STEPS / 2 else 40))
        page.mouse.wheel(0, -600)
        page.wait_for_timeout(500)
        page.mouse.down(button="middle")
        x, y = centre(page)
        pans += moving(page, partial(_drag, page, x, y))
        page.mouse.up(button="middle")
    aim = "aim: 17 to 20 ms at the median, none over 100 ms"
    return [
        row("frame while the wheel zooms over 200 objects", zooms, aim),
        row("frame while the view moves over 200 objects, enlarged", pans, aim),
    ]


def _drag(page: Page, x: float, y: float, step: int) -> None:
    page.mouse.move(x + step % 30 * 8, y + step)


def centre(page: Page) -> tuple[float, float]:
    """Move the mouse to the middle of the stage, and return it."""
    box = page.locator("#stage").bounding_box()
    assert box is not None  # noqa: S101 - it is visible
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    return x, y


def moving(page: Page, act: Callable[[int], None]) -> list[float]:
    """Return the milliseconds of each frame while something is done step by step, and after."""
    page.evaluate("frames.length = 0; moving = true")
    for step in range(STEPS):
        act(step)
    # Masks are drawn sharply when the view rests.
    page.wait_for_timeout(600)
    found: list[float] = page.evaluate("moving = false, frames.slice(1)")
    return found


def discs() -> dict[str, Any]:
    """Return annotations of 200 discs, exact masks, in COCO's format."""
    columns, rows = OBJECTS
    width, height = SIZE
    step_x, step_y = width // columns, height // rows
    y, x = np.mgrid[:height, :width]
    radius = 0.45 * min(step_x, step_y)
    annotations = []
    for i in range(columns * rows):
        centre_x = (i % columns + 0.5) * step_x
        centre_y = (i // columns + 0.5) * step_y
        disc: NDArray[np.bool_] = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
        rle = coco.encode(np.asfortranarray(disc.astype(np.uint8)))
        annotations.append(
            {
                "id": i,
                "image_id": 1,
                "category_id": 1,
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
            }
        )
    image = {"id": 1, "file_name": "coins.jpg", "width": width, "height": height}
    return {
        "images": [image],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": annotations,
    }


def row(what: str, milliseconds: list[float], detail: str) -> dict[str, str]:
    """Return a row of the report."""
    figure = report.summary([each / 1e3 for each in milliseconds])
    largest = max(milliseconds)
    return {
        "what": what,
        "figure": f"{figure['median_ms']:.1f} ms",
        "detail": f"fastest {figure['min_ms']:.1f} ms, p95 {figure['p95_ms']:.1f} ms, "
        f"slowest {largest:.1f} ms of {figure['runs']}; {detail}",
    }


if __name__ == "__main__":
    main()
