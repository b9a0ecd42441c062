"""Images to train with: cut-outs, which are objects with their alpha, and photographs.

A folder of material holds `cutouts/*.webp` (RGBA), `photos/*.jpg`, and `masked/NAME.jpg` with the
masks of some of its objects beside it: `masked/NAME-1.png`, … docs/small-model.md says where ours
come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

CUTOUT_SIDE = 384
"""Pixels along the side of a cut-out's square."""

PHOTO_SIDE = 1024
"""Most pixels along the longer side of a photograph."""

SHARES = {"photo": 0.5, "render": 0.35, "flat": 0.15}
"""How often cut-outs of each kind, which their names begin with, are used."""


@dataclass(frozen=True)
class Material:
    """Images on a device.

    Attributes:
        cutouts: for each halving of the size, uint8 [N, 4, S, S] with S = 384, 192, 96, 48: RGB
            multiplied by alpha, and alpha. Each fills its square along its longer side.
        chances: how often to use each cut-out; their sum is 1.
        photos: uint8 [3, H, W] each.
        masked: photographs, and masks of some of their objects: uint8 [3, H, W], bool [K, H, W].
    """

    cutouts: list[Tensor]
    chances: NDArray[np.float64]
    photos: list[Tensor]
    masked: list[tuple[Tensor, Tensor]]

    @classmethod
    def read(cls, folder: Path, device: str) -> Material:
        """Read a folder of material."""
        files = sorted((folder / "cutouts").glob("*.webp"))
        with ThreadPoolExecutor() as pool:
            whole = torch.from_numpy(np.stack(list(pool.map(_cutout, files)))).to(device)
            photos = [
                torch.from_numpy(photo).to(device)
                for photo in pool.map(_photo, sorted((folder / "photos").glob("*.jpg")))
            ]
            masked = [
                (torch.from_numpy(photo).to(device), torch.from_numpy(masks).to(device))
                for photo, masks in pool.map(_masked, sorted((folder / "masked").glob("*.jpg")))
            ]
        cutouts = [whole]
        while cutouts[-1].shape[-1] > 48:
            halved = [functional.avg_pool2d(part.float(), 2) for part in cutouts[-1].split(256)]
            cutouts.append(torch.cat([part.round().byte() for part in halved]))
        return cls(cutouts, _chances([file.name for file in files]), photos, masked)


def _chances(names: Sequence[str]) -> NDArray[np.float64]:
    kinds = [name.split("-")[0] for name in names]
    chances = np.array([SHARES[kind] / kinds.count(kind) for kind in kinds])
    return np.asarray(chances / chances.sum(), np.float64)


def _cutout(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        rgba = image.convert("RGBA")
    scale = CUTOUT_SIDE / max(rgba.size)
    width, height = (max(1, round(side * scale)) for side in rgba.size)
    small = np.asarray(rgba.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    alpha = small[..., 3:]
    small = np.concatenate([small[..., :3] * (alpha / 255), alpha], axis=2)
    square = np.zeros((4, CUTOUT_SIDE, CUTOUT_SIDE), np.uint8)
    top, left = (CUTOUT_SIDE - height) // 2, (CUTOUT_SIDE - width) // 2
    square[:, top : top + height, left : left + width] = small.round().transpose(2, 0, 1)
    return square


def _photo(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        image.draft("RGB", (PHOTO_SIDE, PHOTO_SIDE))
        rgb = image.convert("RGB")
    rgb.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def _masked(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    photo = _photo(file)
    masks = []
    for other in sorted(file.parent.glob(f"{file.stem}-*.png")):
        with Image.open(other) as image:
            mask = image.convert("L").resize(photo.shape[:0:-1], Image.Resampling.BILINEAR)
        masks.append(np.asarray(mask) > 127)
    return photo, np.stack(masks)
