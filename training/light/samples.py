"""Training batches: photographs, collages and drawn scenes, and prompts for objects in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from hqsam_client import contract
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from training import scenes
from training.light import collages, prompts
from training.light.material import Material
from training.samples import LOW_RES, MEAN, STD

SIDE = contract.INPUT_SIZE

LEAST_PIXELS = 25
"""An object with fewer low-resolution pixels is not asked for."""

KEPT_SCENES = 1500
"""Drawn scenes that are used again."""

BEYOND = 255
"""Label of what is beyond a drawn scene."""


@dataclass(frozen=True)
class Batch:
    """The input of a training step: B images, P prompts on each.

    Attributes:
        images: float32 [B, 3, 1024, 1024], normalised, padded with zeros.
        masks: float32 [B * P, 256, 256], covered fraction of each low-resolution pixel.
        coords: float32 [B * P, N, 2], (x, y) in the input frame.
        labels: float32 [B * P, N], the contract's label codes.
    """

    images: Tensor
    masks: Tensor
    coords: Tensor
    labels: Tensor


class Drawn(IterableDataset[tuple[Tensor, Tensor]]):
    """Drawn scenes without end: uint8 [3, 1024, 1024], and labels [1024, 1024] of its objects."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        cv2.setNumThreads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self._seed, worker.id if worker else 0])
        while True:
            scene = _scene(rng)
            image = np.zeros((3, SIDE, SIDE), np.uint8)
            labels = np.full((SIDE, SIDE), BEYOND, np.uint8)
            height, width = scene.image.shape[:2]
            image[:, :height, :width] = scene.image.transpose(2, 0, 1)
            labels[:height, :width] = 0
            for number, mask in enumerate(scene.masks, start=1):
                labels[:height, :width][mask] = number
            yield torch.from_numpy(image), torch.from_numpy(labels)


def _scene(rng: Generator) -> scenes.Scene:
    """Draw a scene that fills the input frame along its longer side."""
    height, width = collages.size(rng)
    objects = float(np.exp(rng.uniform(-0.4, 1.1)))
    return scenes.draw(int(rng.integers(1 << 62)), width, height, scale=objects, min_area_px=900)


class Source:
    """Makes batches on a device."""

    def __init__(self, material: Material, seed: int, workers: int, device: str) -> None:
        """Begin to draw scenes, in `workers` processes; without any, in this one."""
        self._material = material
        self._rng = np.random.default_rng(seed)
        self._device = device
        self._drawn = iter(
            DataLoader(
                Drawn(seed),
                batch_size=None,
                num_workers=workers,
                prefetch_factor=2 if workers else None,
            )
        )
        self._kept: list[tuple[Tensor, Tensor]] = []

    def batch(self, images: int, each: int, masked: int, drawn: int, new: int) -> Batch:
        """Make a batch.

        Args:
            images: number of images.
            each: prompts on each.
            masked: how many images are photographs with masks.
            drawn: how many are drawn scenes; the rest are collages.
            new: how many of the drawn scenes have not been used before.
        """
        for _ in range(new):
            scene = tuple(part.to(self._device) for part in next(self._drawn))
            self._kept.append((scene[0], scene[1]))
        self._kept = self._kept[-KEPT_SCENES:]
        chosen: list[tuple[Tensor, Tensor]] = []
        for number in range(images):
            make = self._photo if number < masked else self._collage
            if masked <= number < masked + drawn:
                make = self._scene
            image, masks = make()
            while not len(masks):
                image, masks = make()
            taken = self._rng.choice(len(masks), each, replace=len(masks) < each)
            chosen.append((image, masks[torch.from_numpy(taken).to(masks.device)]))
        masks = torch.cat([masks for _, masks in chosen])
        coords, labels = prompts.first(masks > 0.5)
        return Batch(
            _normalised(torch.stack([image for image, _ in chosen])), masks, coords, labels
        )

    def _photo(self) -> tuple[Tensor, Tensor]:
        """Return a part of a photograph, turned, enlarged and developed anew, and its objects."""
        rng = self._rng
        photo, masks = self._material.masked[rng.integers(len(self._material.masked))]
        _, rows, columns = photo.shape
        tall, wide = (max(32, int(side * rng.uniform(0.45, 1.0))) for side in (rows, columns))
        if rng.random() < 0.5:
            tall, wide = rows, columns
        top, left = rng.integers(rows - tall + 1), rng.integers(columns - wide + 1)
        part = torch.cat([photo.float() / 255, masks.float()])[
            None, :, top : top + tall, left : left + wide
        ]
        if rng.random() < 0.5:
            part = part.flip(-1)
        scale = SIDE / max(tall, wide)
        stretch = float(np.exp(rng.normal(0, 0.08)))
        height, width = (
            min(SIDE, int(tall * scale / stretch)),
            min(SIDE, int(wide * scale * stretch)),
        )
        part = functional.interpolate(part, (height, width), mode="bilinear", antialias=True)[0]
        image = collages.developed(part[:3], rng)
        room = (0, SIDE - width, 0, SIDE - height)
        return functional.pad(image, room, value=collages.PADDING), _large(
            functional.pad(part[3:], room)
        )

    def _collage(self) -> tuple[Tensor, Tensor]:
        image, labels = collages.draw(self._material, self._rng)
        return image, _objects(labels)

    def _scene(self) -> tuple[Tensor, Tensor]:
        """Return one of the newest scenes, or any."""
        count = len(self._kept)
        newest = self._rng.random() < 0.3
        image, labels = self._kept[
            int(self._rng.integers(max(0, count - 4) if newest else 0, count))
        ]
        beyond = labels == BEYOND
        image = torch.where(beyond, collages.PADDING, image.float() / 255)
        return image, _objects(labels.masked_fill(beyond, 0))


def _objects(labels: Tensor) -> Tensor:
    """Return the masks of the objects in a map of their numbers; see `_large`."""
    numbers = torch.arange(1, int(labels.max()) + 1, device=labels.device)
    return _large((labels[None] == numbers[:, None, None]).float())


def _large(masks: Tensor) -> Tensor:
    """Return low-resolution masks of [K, 1024, 1024] that are large enough: [M, 256, 256]."""
    if not len(masks):
        return torch.zeros(0, contract.MASK_SIZE, contract.MASK_SIZE, device=masks.device)
    small = functional.avg_pool2d(masks, LOW_RES)
    sizes = (small > 0.5).sum((1, 2))
    # What fills the image cannot be told from anything.
    return small[(sizes >= LEAST_PIXELS) & (sizes < 0.9 * contract.MASK_SIZE**2)]


def _normalised(images: Tensor) -> Tensor:
    """Return images as the encoder takes them, of [B, 3, H, W] from 0 to 1."""
    mean, std = (torch.from_numpy(it / 255)[:, None, None].to(images.device) for it in (MEAN, STD))
    return torch.where(images == collages.PADDING, 0.0, (images - mean) / std)
