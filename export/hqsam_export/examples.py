"""Example inputs: to trace graphs with, and to compare files with PyTorch."""

from __future__ import annotations

import torch
from hqsam_client import contract
from torch import Tensor
from torch.nn import functional


class Examples:
    """Deterministic inputs. The outputs of one model are inputs of the next."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        # Smooth colours with hard edges, in the range of a normalised image.
        coarse = torch.randn(1, 3, 16, 16, generator=generator)
        image = functional.interpolate(coarse, (1024, 1024), mode="bicubic")
        image[..., 300:700, 200:600] += 1.5
        image[..., 900:, :] = 0.0  # padding
        self._known: dict[str, Tensor] = {"image": image}
        coarse = torch.randn(3, 1, 16, 16, generator=generator)
        self._masks = 4.0 * functional.interpolate(coarse, (256, 256), mode="bicubic")

    def inputs(self, spec: contract.ModelSpec) -> dict[str, Tensor]:
        """Return a tensor for each input of `spec`, in order."""
        prompts = _ONE_PROMPT if spec is contract.DECODER else _THREE_PROMPTS
        coords, labels, has_mask = (torch.tensor(values) for values in prompts)
        known = self._known | {
            "point_coords": coords,
            "point_labels": labels,
            "mask_input": self._masks[: len(coords)],
            "has_mask_input": has_mask,
        }
        return {tensor.name: known[tensor.name] for tensor in spec.inputs}

    def keep(self, spec: contract.ModelSpec, outputs: tuple[Tensor, ...]) -> None:
        """Keep the outputs of `spec` as inputs of later models."""
        for tensor, output in zip(spec.outputs, outputs, strict=True):
            self._known[tensor.name] = output


# Coordinates in the input frame, labels, and whether there is a mask to refine.
_ONE_PROMPT = (
    [[[400.0, 500.0], [100.5, 800.0], [0.0, 0.0]]],
    [[1.0, 0.0, -1.0]],
    [1.0],
)
_THREE_PROMPTS = (
    [
        [[400.0, 500.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        [[200.0, 300.0], [600.0, 700.0], [0.0, 0.0], [0.0, 0.0]],
        [[50.0, 60.0], [70.0, 800.0], [210.0, 310.0], [590.0, 690.0]],
    ],
    [[1.0, -1.0, -1.0, -1.0], [2.0, 3.0, -1.0, -1.0], [1.0, 0.0, 2.0, 3.0]],
    [0.0, 1.0, 0.0],
)
