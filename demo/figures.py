"""Draws the images of the documentation: `make figures`.

They show masks of the small model. Draw them again when its weights change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hqsam_client import EverythingOptions, HQSam, Mask, Windows, drawing
from hqsam_client.shared.modes import Mode
from hqsam_server import TritonServer
from hqsam_testing import maps
from PIL import Image

from demo.__main__ import BESIDE, BOX, COIN, OTHER, PHOTOGRAPH
from demo.drawing import Box, with_prompts

FOLDER = Path(__file__).parents[1] / "docs" / "images"

GAP_PX = 12
MAX_SIZE = (1400, 400)
"""Largest width and height of a file, in pixels: sharp on a page, and quick to load."""

GREYS, COLORS_OF_MARKS = 48, 80
"""Colours of a file's palette: greys for the photograph, others for masks and marks."""

# Pixels of the photograph.
SECOND_COIN = (46, 260)
BESIDE_IN_BOX = (247, 97)
MANY: tuple[Box, ...] = (
    (22, 101, 69, 147),
    (81, 105, 124, 147),
    (183, 102, 228, 146),
    (314, 103, 358, 147),
)
EVERYTHING = EverythingOptions(
    points_per_side=40,
    pred_iou_thresh=0.7,
    stability_score_thresh=0.9,
    box_nms_thresh=0.4,
    min_mask_region_area=100,
)
LARGE_SIDE, LARGE_OBJECT = 12 * maps.CELL, 30
"""A drawn image of small objects: its side in pixels, and which of them is clicked."""

AROUND_PX = 64
MODES: tuple[Mode, ...] = ("hq", "hq+sam", "best")


def main() -> None:
    """Serve the small model and write all images."""
    FOLDER.mkdir(exist_ok=True)
    with TritonServer() as server, HQSam(server.grpc_url) as sam:
        image = sam.open(PHOTOGRAPH)
        one = with_prompts(image.segment([COIN]).overlay(), [COIN])
        box = with_prompts(image.segment(box=BOX).overlay(), boxes=[BOX])

        first = image.segment([OTHER])
        refined = image.segment([OTHER, BESIDE], [1, 0], refine=first)
        save("coins", [one, with_prompts(refined.overlay(), [OTHER], [BESIDE]), box])
        coins = [COIN, SECOND_COIN]
        two = with_prompts(image.segment(coins).overlay(), coins)
        less = image.segment(coins, [1, 0])
        save("clicks", [one, two, with_prompts(less.overlay(), [COIN], [SECOND_COIN])])
        both = image.segment([BESIDE_IN_BOX], [0], BOX)
        save("boxes", [box, with_prompts(both.overlay(), negative=[BESIDE_IN_BOX], boxes=[BOX])])
        found = image.everything(EVERYTHING)
        save("everything", [together(sorted(found, key=lambda mask: -mask.area))])
        masks = image.segment(boxes=MANY)
        save("many", [with_prompts(together(masks), boxes=MANY)])
        modes = [image.segment([COIN], mode=mode).overlay() for mode in MODES]
        save("modes", [with_prompts(overlay, [COIN]) for overlay in modes])
        save("windows", small_object(sam))


def small_object(sam: HQSam) -> list[Image.Image]:
    """Return an object of a large image as it is, and its mask without windows and with."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.tif"
        clicked = maps.write(path, LARGE_SIDE)[LARGE_OBJECT]
        x, y = clicked.point
        area = (x - AROUND_PX, y - AROUND_PX, x + AROUND_PX, y + AROUND_PX)
        whole = sam.open(path, upload="resized")
        windowed = sam.open(path, windows=Windows())
        image = whole.full_image()
        masks = [it.segment([clicked.point]) for it in (whole, windowed)]
        drawn = [image, *(mask.overlay(image) for mask in masks)]
        return [it.crop(area).resize((400, 400)) for it in drawn]


def together(masks: Sequence[Mask]) -> Image.Image:
    """Return the image with all masks, each in its own colour."""
    drawn = drawing.together(masks)
    assert drawn is not None  # noqa: S101 - there are masks
    return drawn


def save(name: str, panels: Sequence[Image.Image]) -> None:
    """Write panels of equal size side by side, as a PNG file with a palette."""
    width, height = panels[0].size
    row = Image.new("RGB", (len(panels) * (width + GAP_PX) - GAP_PX, height), "white")
    for index, panel in enumerate(panels):
        row.paste(panel, (index * (width + GAP_PX), 0))
    row.thumbnail(MAX_SIZE, Image.Resampling.LANCZOS)
    file = FOLDER / f"{name}.png"
    row.quantize(palette=palette(row), dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.name}: {row.width} x {row.height}, {file.stat().st_size / 1000:.0f} kB")


def palette(image: Image.Image) -> Image.Image:
    """Return a palette in which the many greys of the image leave room for its colours."""
    pixels = np.asarray(image)
    colored = pixels[np.ptp(pixels, axis=2) > 8][None]  # [1, pixels, 3]
    # Maximum coverage keeps the colours of marks, which have few pixels.
    covering = Image.fromarray(colored).quantize(COLORS_OF_MARKS, Image.Quantize.MAXCOVERAGE)
    greys = [round(level) for level in np.linspace(0, 255, GREYS) for _ in "rgb"]
    few = Image.new("P", (1, 1))
    few.putpalette(greys + (covering.getpalette() or []))
    return few


if __name__ == "__main__":
    main()
