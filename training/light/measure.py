"""How good a model is on labelled photographs: `python -m training.light.measure WEIGHTS FOLDER`.

A folder holds images, and beside each `NAME.jpg` masks `NAME-1.png`, `NAME-2.png`, … of objects.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hqsam_client import contract
from hqsam_export import checkpoint
from hqsam_export.modeling import HQSamModel
from hqsam_server.models.preprocess import Limits
from hqsam_testing.preprocess import preprocess
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training.light import prompts
from training.light.samples import SIDE
from training.samples import LOW_RES

CLICKS = 3
"""Corrective clicks after the first one."""


class Labelled(NamedTuple):
    """An image and masks of its objects.

    Attributes:
        image: float [3, 1024, 1024], normalised, padded.
        size: height and width of the image in the input frame.
        masks: bool [K, H, W], at the image's own size.
    """

    name: str
    image: Tensor
    size: tuple[int, int]
    masks: Tensor


def read(folder: Path) -> list[Labelled]:
    """Read labelled images."""
    return [_read(file) for file in sorted(folder.glob("*.jpg"))]


def _read(file: Path) -> Labelled:
    masks = [
        np.asarray(Image.open(it).convert("L")) > 127
        for it in sorted(file.parent.glob(f"{file.stem}-*.png"))
    ]
    image, size = preprocess(file.read_bytes(), Limits())
    return Labelled(
        file.stem,
        torch.from_numpy(image[0]),
        contract.resized_size(size),
        torch.from_numpy(np.stack(masks)),
    )


class _Encoded:
    """An image that a model has encoded, and the objects to find in it."""

    def __init__(self, model: HQSamModel, one: Labelled) -> None:
        self._model = model
        self.device = model.prompt_encoder.no_mask_embed.weight.device
        self._size = one.size
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            embeddings, interm = model.image_encoder(one.image[None].to(self.device))
        self._embeddings = embeddings.float()
        self._features = model.mask_decoder.hq_features(self._embeddings, interm.float())
        self._masks = one.masks.to(self.device)
        framed = functional.interpolate(self._masks[:, None].float(), one.size, mode="area")
        room = (0, SIDE - one.size[1], 0, SIDE - one.size[0])
        covered = functional.avg_pool2d(functional.pad(framed, room), LOW_RES)
        self.small = covered[:, 0] > 0.5  # [K, 256, 256]

    def decode(self, coords: Tensor, labels: Tensor, logits: Tensor | None = None) -> Tensor:
        """Return the logits of the HQ masks: [K, 1, 256, 256]."""
        given = logits is not None
        if logits is None:
            logits = torch.zeros_like(self.small[:, None], dtype=torch.float)
        has_mask = torch.full((len(coords),), float(given), device=self.device)
        hq, _, _ = self._model.decode(
            self._embeddings, self._features, coords, labels, logits, has_mask
        )
        return hq

    def ious(self, logits: Tensor) -> list[float]:
        """Compare masks with the objects, in the image's own pixels."""
        whole = functional.interpolate(logits, (SIDE, SIDE), mode="bilinear")
        cut = whole[..., : self._size[0], : self._size[1]]
        own = functional.interpolate(cut, self._masks.shape[1:], mode="bilinear")[:, 0] > 0
        both, either = (own & self._masks).sum((1, 2)), (own | self._masks).sum((1, 2))
        return list((both / either).tolist())


@torch.no_grad()
def scores(model: HQSamModel, images: list[Labelled]) -> dict[str, list[float]]:
    """Return the IoU of each object's HQ mask by kind of prompt."""
    found: dict[str, list[float]] = {"click": [], "box": [], "corrected": []}
    for one in images:
        image = _Encoded(model, one)
        count, device = len(one.masks), image.device
        corners = torch.tensor([contract.LABEL_BOX_TOP_LEFT, contract.LABEL_BOX_BOTTOM_RIGHT])
        labels = corners.to(device).float().expand(count, 2)
        found["box"] += image.ious(image.decode(prompts.box(image.small), labels))
        clicks = prompts.click(image.small, torch.ones(count, device=device))
        coords = torch.stack([clicks, torch.zeros_like(clicks)], dim=1)
        kinds = torch.tensor([contract.LABEL_FOREGROUND, contract.LABEL_PADDING])
        labels = kinds.to(device).float().expand(count, 2)
        logits = image.decode(coords, labels)
        found["click"] += image.ious(logits)
        for _ in range(CLICKS):
            added = prompts.corrections(logits[:, 0], image.small)
            coords, labels = prompts.with_clicks(coords, labels, *added)
            logits = image.decode(coords, labels, logits.clamp(-20, 20))
        found["corrected"] += image.ious(logits)
    return found


def summary(model: HQSamModel, images: list[Labelled]) -> str:
    """Return the mean IoU by kind of prompt, as a line."""
    return "  ".join(
        f"{kind} {np.mean(values):.3f}" for kind, values in scores(model, images).items()
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    model = checkpoint.load_model(args.weights, attention_biases=True)
    for one in read(args.folder):
        print(f"{one.name}: {summary(model, [one])}")
    print(f"all: {summary(model, read(args.folder))}")


if __name__ == "__main__":
    main()
