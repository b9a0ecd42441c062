"""The function that a CVAT agent runs: points and a box in, a mask out.

    cvat-cli function create-native HQ-SAM --function-module hqsam_cvat.agent
    cvat-cli function run-agent FUNCTION_ID --function-module hqsam_cvat.agent

Parameters, each as ``-p NAME=TYPE:VALUE``: those of `create`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import PIL.Image
from cvat_sdk.masks import encode_mask
from hqsam_client import HQSam, HQSamError, RemoteImage


def create(url: str | None = None, mode: str = "hq", tls: bool = False) -> Interactor:
    """Return the function, connected to an HQ-SAM server.

    Args:
        url: the server's address; without it, ``$HQSAM_URL`` or ``localhost:8001``.
        mode: see `RemoteImage.segment`.
        tls: encrypt; ``$HQSAM_TOKEN``, if set, is sent as a bearer token.
    """
    address = url or os.environ.get("HQSAM_URL", "localhost:8001")
    return Interactor(HQSam(address, tls=tls, token=os.environ.get("HQSAM_TOKEN")), mode)


class Interactor:
    """An interaction function of `cvat_sdk.auto_annotation`."""

    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, sam: HQSam, mode: str = "hq") -> None:
        self._sam = sam
        self._mode: Any = mode

    def preprocess_image(
        self, context: cvataa.InteractionFunctionContext, image: PIL.Image.Image
    ) -> RemoteImage:
        """Have the frame encoded. The agent keeps the result for the next clicks.

        The result holds what the server was sent. So a click after the server has lost the
        frame costs one more encoding, and is no error.
        """
        with _function_errors():
            return self._sam.open(image)

    def detect(
        self,
        context: cvataa.InteractionFunctionContext,
        pp_image: RemoteImage,
        prompts: cvataa.InteractionPrompts,
    ) -> list[cvataa.InteractionResultShape]:
        """Return the object at the points and in the box, as one mask."""
        if not prompts.pos_points and prompts.bounding_box is None:
            raise cvataa.BadFunctionError("click on the object, or draw a box around it")
        # CVAT counts from the edge of the image: the pixel under the pointer is meant.
        points = [(int(x), int(y)) for x, y in (*prompts.pos_points, *prompts.neg_points)]
        labels = [1] * len(prompts.pos_points) + [0] * len(prompts.neg_points)
        box = prompts.bounding_box and (*prompts.bounding_box[0], *prompts.bounding_box[1])
        with _function_errors():
            mask = pp_image.segment(points or None, labels or None, box, mode=self._mode)
        return [cvataa.InteractionResultShape(type="mask", points=encode_mask(mask.array))]


@contextmanager
def _function_errors() -> Iterator[None]:
    """Raise errors as CVAT's: the agent hides the text of all others from the annotator."""
    try:
        yield
    except HQSamError as error:
        raise cvataa.BadFunctionError(str(error)) from error
