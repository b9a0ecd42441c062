"""Writes scenes that are not used for training: `python -m training.unseen FOLDER`.

Images go to `FOLDER/images`, label maps of the objects to segment to `FOLDER/masks`, for
`hqsam evaluate`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training import scenes

FIRST_SEED = 1 << 62
"""Training uses smaller seeds only."""

OBJECTS = 2
"""Number of objects to segment in a scene, chosen at random."""


def main() -> None:
    """Write the scenes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500)
    args = parser.parse_args()
    for name in ("images", "masks"):
        (args.folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(args.count):
        image, labels = scene(number)
        Image.fromarray(image).save(args.folder / "images" / f"{number:03}.png", compress_level=1)
        Image.fromarray(labels).save(args.folder / "masks" / f"{number:03}.png")


def scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image, uint8 [H, W, 3], and a label map, uint8 [H, W], 0 for no object."""
    for attempt in range(100):
        seed = FIRST_SEED + 1000 * number + attempt
        rng = np.random.default_rng(seed)
        longest = int(np.exp(rng.uniform(np.log(256), np.log(2048))))
        sides = [longest, max(64, int(longest * rng.uniform(0.45, 1.0)))]
        rng.shuffle(sides)
        scale = longest / 1024
        drawn = scenes.draw(seed, *sides, scale=scale, texture=1.0, min_area_px=int(900 * scale**2))
        if len(drawn.masks):
            labels = np.zeros(drawn.masks.shape[1:], np.uint8)
            count = min(OBJECTS, len(drawn.masks))
            for value, index in enumerate(rng.choice(len(drawn.masks), count, replace=False), 1):
                labels[drawn.masks[index]] = value
            return drawn.image, labels
    raise RuntimeError(f"scene {number} has no objects after 100 attempts")


if __name__ == "__main__":
    main()
