"""Modes: which of the decoder's masks make up a result, and how they are added.

Client and server share it, so it needs no gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hqsam_client.errors import PromptError

Mode: TypeAlias = Literal["hq", "hq+sam", "best"]

DEFAULT_MODE: Mode = "hq"

_SAM_MASKS = slice(1, 4)
"""SAM's three masks for ambiguous prompts; its mask 0 is the one for clear prompts."""


class Choice(NamedTuple):
    """Which of the decoder's masks make up the result; the official predictor's two flags.

    Attributes:
        multimask: take the best of SAM's three masks instead of its single one.
        hq_only: leave SAM's mask out.
    """

    multimask: bool
    hq_only: bool

    def outputs(self) -> list[str]:
        """Return the names of the outputs of `segment` that make it up."""
        names = ["low_res_masks", self.scores_output()]
        return names if self.hq_only else [*names, "sam_masks"]

    def scores_output(self) -> str:
        """Return the name of the output of `segment` with its predicted IoU."""
        return "sam_iou_predictions" if self.multimask else "iou_predictions"


_CHOICES: dict[str, Choice] = {
    "hq": Choice(multimask=False, hq_only=True),
    "hq+sam": Choice(multimask=False, hq_only=False),
    "best": Choice(multimask=True, hq_only=False),
}


def choice(mode: str) -> Choice:
    """Return what a mode stands for.

    Raises:
        PromptError: there is no such mode.
    """
    if mode not in _CHOICES:
        shown = repr(mode) if len(str(mode)) <= 40 else f"{str(mode)[:40]!r}..."
        raise PromptError(f"mode is {shown}, expected one of {', '.join(map(repr, _CHOICES))}")
    return _CHOICES[mode]


def combine(
    tensors: Mapping[str, NDArray[np.float32]], choice: Choice
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits [P, 256, 256] and predicted IoU [P], combined as the authors do.

    Args:
        tensors: `choice.outputs()` by name, in the contract's shapes.
        choice: which masks to take.
    """
    hq = tensors["low_res_masks"][:, 0]  # [P, 256, 256]
    best, ious = _best(tensors[choice.scores_output()], choice)
    if choice.hq_only:
        return hq, ious
    if not choice.multimask:
        return hq + tensors["sam_masks"][:, 0], ious
    return hq + tensors["sam_masks"][:, _SAM_MASKS][np.arange(len(best)), best], ious


def scores(tensors: Mapping[str, NDArray[np.float32]], choice: Choice) -> NDArray[np.float32]:
    """Return the predicted IoU [P] alone; `tensors` has `choice.scores_output()`."""
    return _best(tensors[choice.scores_output()], choice)[1]


def _best(
    ious: NDArray[np.float32], choice: Choice
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the number of each prompt's best mask among SAM's, and its predicted IoU, [P]."""
    if not choice.multimask:
        return np.zeros(len(ious), np.intp), ious[:, 0]
    three = ious[:, _SAM_MASKS]  # [P, 3]
    best = three.argmax(axis=1)
    return best, three[np.arange(len(best)), best]
