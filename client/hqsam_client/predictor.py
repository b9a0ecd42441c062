"""Drop-in for the official `SamPredictor`: change one import, and a server does the work.

```python
from hqsam_client.predictor import SamPredictor, sam_model_registry

sam = sam_model_registry["vit_b"](checkpoint="sam_hq_vit_b.pth")
predictor = SamPredictor(sam)
predictor.set_image(image)
masks, scores, low_res = predictor.predict(point_coords=points, point_labels=labels)
```

The model is the server's: `checkpoint` is not read. The address is that of the environment
variable ``HQSAM_URL``, or ``localhost:8001``; or pass an `HQSam` in place of the model.
`set_torch_image`, `predict_torch` and `get_image_embedding`, which return the model's own
tensors, do not exist here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqsam_client import contract
from hqsam_client.client import HQSam
from hqsam_client.errors import ImageError, OptionError, PromptError
from hqsam_client.mask import Mask
from hqsam_client.shared import prompt_encoding
from hqsam_client.shared.base import DEFAULT_URL
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.modes import Choice
from hqsam_client.shared.protocol import embed_flow, segment_flow
from hqsam_client.shared.upload import Upload, prepare

__all__ = ["RemoteSam", "SamPredictor", "sam_model_registry"]


class RemoteSam:
    """Replaces the official model: takes its calls, and does nothing."""

    def __init__(self, checkpoint: Any = None) -> None:
        self.client = HQSam(os.environ.get("HQSAM_URL", DEFAULT_URL))

    def to(self, *_: Any, **__: Any) -> RemoteSam:
        """Do nothing: the server chooses its device."""
        return self

    def eval(self) -> RemoteSam:
        """Do nothing: the server's model is never in training."""
        return self


sam_model_registry: dict[str, Callable[..., RemoteSam]] = {
    "default": RemoteSam,
    "vit_b": RemoteSam,
}
"""The official registry's entries for ViT-B, the model that the server has."""


def client_of(model: RemoteSam | HQSam, name: str) -> HQSam:
    """Return the client behind a model.

    Args:
        model: what `sam_model_registry` returns, or an `HQSam`.
        name: of the argument, for the message.

    Raises:
        OptionError: it is neither.
    """
    client = model.client if isinstance(model, RemoteSam) else model
    if not isinstance(client, HQSam):
        raise OptionError(
            f"{name} is of type {type(model).__name__}, expected an HQSam or what "
            "hqsam_client.predictor.sam_model_registry returns"
        )
    return client


class SamPredictor:
    """Segments one image after the other, with the official class's methods.

    Args:
        sam_model: what `sam_model_registry` returns, or an `HQSam`.

    Attributes:
        is_image_set: whether `predict` can be called.
        original_size: (height, width) of the image that was set; None without one.
    """

    is_image_set: bool
    original_size: Size | None
    _upload: Upload | None

    def __init__(self, sam_model: RemoteSam | HQSam) -> None:
        self._client = client_of(sam_model, "sam_model")
        self.reset_image()

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Have an image encoded, for `predict` to segment.

        Args:
            image: uint8 [height, width, 3], 0 to 255.
            image_format: order of the last axis, "RGB" or "BGR".

        Raises:
            ImageError: it is not such an array.
        """
        if image_format not in ("RGB", "BGR"):
            raise ImageError(f"image_format is {image_format!r}, expected 'RGB' or 'BGR'")
        if not isinstance(image, np.ndarray):
            raise ImageError(
                f"image is of type {type(image).__name__}, expected an array; "
                "pass np.asarray(image) of a Pillow image of mode RGB"
            )
        self.reset_image()
        upload = prepare(image, channels="rgb" if image_format == "RGB" else "bgr")
        self._client.run(embed_flow(upload, ask=True))
        self._upload = upload
        self.original_size = upload.size
        self.is_image_set = True

    def predict(
        self,
        point_coords: NDArray[Any] | None = None,
        point_labels: NDArray[Any] | None = None,
        box: NDArray[Any] | None = None,
        mask_input: NDArray[np.float32] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        hq_token_only: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Segment one object of the image that was set.

        As in the official class, points and boxes may lie anywhere, also outside the image.

        Args:
            point_coords: [N, 2], (x, y) in original pixels.
            point_labels: [N], 1 foreground, 0 background.
            box: [4] or [1, 4], (x0, y0, x1, y1) in original pixels.
            mask_input: float32 [1, 256, 256], the third result of an earlier call.
            multimask_output: take the best of SAM's three masks for ambiguous prompts
                instead of its one for clear prompts. The result is one mask in either case.
            return_logits: return logits instead of booleans.
            hq_token_only: leave SAM's mask out, and return the HQ mask alone.

        Returns:
            The mask, bool (or float32) [1, height, width] in original pixels; its
            predicted IoU, float32 [1]; its logits, float32 [1, 256, 256].

        Raises:
            RuntimeError: no image was set.
            PromptError: an argument is wrong, or there is neither a point nor a box.
        """
        if self._upload is None:
            raise RuntimeError("An image must be set with .set_image(...) before mask prediction.")
        size = self._upload.size
        corners = None if box is None else np.asarray(box).reshape(-1)
        refine = None if mask_input is None else Mask(_low_res(mask_input), 0.0, size)
        prompts = prompt_encoding.build(
            size, point_coords, point_labels, corners, refine=refine, anywhere=True
        )
        choice = Choice(multimask_output, hq_token_only)
        (mask,) = self._client.run(segment_flow(self._upload, prompts, choice))
        full = mask.logits if return_logits else mask.array
        return full[None], np.array([mask.iou], np.float32), mask.low_res_logits[None]

    def reset_image(self) -> None:
        """Forget the image that was set."""
        self._upload = None
        self.original_size = None
        self.is_image_set = False


def _low_res(mask_input: Any) -> NDArray[np.float32]:
    side = contract.MASK_SIZE
    logits = np.asarray(mask_input, np.float32)
    if logits.shape not in ((1, side, side), (side, side)):
        raise PromptError(
            f"mask_input is of shape {list(logits.shape)}, expected [1, {side}, {side}]: "
            "the third result of an earlier call"
        )
    return logits.reshape(side, side)
