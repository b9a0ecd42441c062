"""Names, shapes, dtypes and codes that client, server and exporter share.

Every tensor name, model name and label code of the project stands here once. The
tests hold the `config.pbtxt` files, the ONNX files and a running server against it.

Shapes are in Triton's order, with ``-1`` where a dimension is dynamic. No model
uses Triton's own batching (``max_batch_size: 0``), so shapes are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INPUT_SIZE = 1024
"""Side in pixels of the square that the encoder sees: the *input frame*."""

MASK_SIZE = 256
"""Side in pixels of the low-resolution logits, a quarter of the input frame."""

EMBEDDING_SIZE = 64
"""Side in tokens of the image embeddings, a sixteenth of the input frame."""

# Limits of a server, unless its operator chose others.
MAX_PROMPTS = 256
"""Prompts in one request."""

MAX_POINTS = 128
"""Points of a prompt, including box corners and padding."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Size of an encoded image."""

MAX_IMAGE_PIXELS = 128 * 10**6
"""Width times height of an image."""

MAX_FINISHED_SIDE = 65_535
"""Longer side of an image whose masks `segment` finishes."""


def max_finished_bytes(prompts: int) -> int:
    """Return how many bytes a request's `mask_rle`, or `mask_png`, may have together.

    A mask of smooth outlines has a few kilobytes; one that is all edges has megabytes.
    """
    return max(4 * 2**20, prompts * 256 * 2**10)


IMAGE_ID_LENGTH = 64
"""Hex digits of an `image_id`: the SHA-256 of the encoded bytes, in lower case."""

IMAGE_ID_HEADER = "x-image-id"
"""gRPC metadata key that carries the `image_id` for consistent hashing."""

RETRY_AFTER_KEY = "retry-after"
"""gRPC metadata key of a refusal: seconds after which the same request may succeed."""

# Point labels, as in SAM's prompt encoder.
LABEL_PADDING = -1
LABEL_BACKGROUND = 0
LABEL_FOREGROUND = 1
LABEL_BOX_TOP_LEFT = 2
LABEL_BOX_BOTTOM_RIGHT = 3

# What SAM subtracts and divides by, RGB, in units of 0 to 255.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def resized_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) that an image of `size` has inside the input frame.

    Its longest side is scaled to 1024. A side that the official formula rounds to
    nothing, which the official code then fails on, is one pixel.
    """
    scale = INPUT_SIZE / max(size)
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the tensor's name.
        dtype: its type as Triton and KServe v2 name it, such as ``FP32``.
        shape: its dimensions, ``-1`` where dynamic.
        optional: whether a request may leave the input out.
        on_request: whether the output is made only for requests that name it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool = False
    on_request: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """A model of the repository: its name, and its inputs and outputs in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


_ENCODED_IMAGE = TensorSpec("encoded_image", "UINT8", (-1,))
_IMAGE = TensorSpec("image", "FP32", (1, 3, 1024, 1024))
_ORIGINAL_SIZE = TensorSpec("original_size", "INT32", (2,))  # (height, width), original pixels
_IMAGE_EMBEDDINGS = TensorSpec("image_embeddings", "FP32", (1, 256, 64, 64))
_INTERM_EMBEDDINGS = TensorSpec("interm_embeddings", "FP32", (4, 1, 64, 64, 768))
_HQ_FEATURES = TensorSpec("hq_features", "FP32", (1, 32, 256, 256))
_IMAGE_ID = TensorSpec("image_id", "BYTES", (1,))

# One prompt: N points of the input frame, (x, y).
_ONE_PROMPT = (
    TensorSpec("point_coords", "FP32", (1, -1, 2)),
    TensorSpec("point_labels", "FP32", (1, -1)),
    TensorSpec("mask_input", "FP32", (1, 1, 256, 256)),
    TensorSpec("has_mask_input", "FP32", (1,)),
)
# P prompts of N points each; shorter ones are padded with label -1.
_PROMPTS = (
    TensorSpec("point_coords", "FP32", (-1, -1, 2)),
    TensorSpec("point_labels", "FP32", (-1, -1)),
    TensorSpec("mask_input", "FP32", (-1, 1, 256, 256)),
    TensorSpec("has_mask_input", "FP32", (-1,)),
)
_ONE_MASK = (
    TensorSpec("masks", "FP32", (1, 1, 1024, 1024)),
    TensorSpec("iou_predictions", "FP32", (1, 1)),
    TensorSpec("low_res_masks", "FP32", (1, 1, 256, 256)),
)
_MASKS = (
    TensorSpec("low_res_masks", "FP32", (-1, 1, 256, 256)),
    TensorSpec("iou_predictions", "FP32", (-1, 1)),
    TensorSpec("sam_masks", "FP32", (-1, 4, 256, 256)),
    TensorSpec("sam_iou_predictions", "FP32", (-1, 4)),
)
# P finished masks at the image's own size.
_FINISHED = (
    TensorSpec("mask_rle", "BYTES", (-1,), on_request=True),
    TensorSpec("mask_png", "BYTES", (-1,), on_request=True),
    TensorSpec("box", "INT32", (-1, 4), on_request=True),  # (x0, y0, x1, y1), original pixels
    TensorSpec("area", "INT64", (-1,), on_request=True),
    TensorSpec("stability_score", "FP32", (-1,), on_request=True),
)

ENCODER = ModelSpec("encoder", (_IMAGE,), (_IMAGE_EMBEDDINGS, _INTERM_EMBEDDINGS))
DECODER = ModelSpec("decoder", (_IMAGE_EMBEDDINGS, _INTERM_EMBEDDINGS, *_ONE_PROMPT), _ONE_MASK)
FEATURES = ModelSpec("features", (_IMAGE_EMBEDDINGS, _INTERM_EMBEDDINGS), (_HQ_FEATURES,))
PROMPT_DECODER = ModelSpec("prompt_decoder", (_IMAGE_EMBEDDINGS, _HQ_FEATURES, *_PROMPTS), _MASKS)
PREPROCESS = ModelSpec("preprocess", (_ENCODED_IMAGE,), (_IMAGE, _ORIGINAL_SIZE))
ENCODE = ModelSpec("encode", (_IMAGE,), (_IMAGE_EMBEDDINGS, _HQ_FEATURES))
HQ_SAM = ModelSpec("hq_sam", (_ENCODED_IMAGE, *_ONE_PROMPT), (*_ONE_MASK, _ORIGINAL_SIZE))
EMBED = ModelSpec(
    "embed",
    (
        TensorSpec("encoded_image", "UINT8", (-1,), optional=True),
        TensorSpec("image_id", "BYTES", (1,), optional=True),
    ),
    (_IMAGE_ID, _ORIGINAL_SIZE, TensorSpec("already_stored", "BOOL", (1,))),
)
SEGMENT = ModelSpec(
    "segment",
    (
        _IMAGE_ID,
        *_PROMPTS[:2],
        TensorSpec("mask_input", "FP32", (-1, 1, 256, 256), optional=True),
        TensorSpec("has_mask_input", "FP32", (-1,), optional=True),
        TensorSpec("mode", "BYTES", (1,), optional=True),
        TensorSpec("mask_size", "INT32", (2,), optional=True),  # (height, width)
        TensorSpec("pred_iou_thresh", "FP32", (1,), optional=True),
        TensorSpec("stability_score_thresh", "FP32", (1,), optional=True),
        TensorSpec("stability_score_offset", "FP32", (1,), optional=True),
    ),
    (*_MASKS, _ORIGINAL_SIZE, *_FINISHED),
)

FINISHED_OUTPUTS = tuple(spec.name for spec in SEGMENT.outputs if spec.on_request)
"""Outputs of `segment` that need no further work; its input `mode` says of which mask."""

QUALITY_INPUTS = ("pred_iou_thresh", "stability_score_thresh", "stability_score_offset")
"""Inputs of `segment` that say which masks it finishes."""

MODELS = (
    ENCODER,
    DECODER,
    FEATURES,
    PROMPT_DECODER,
    PREPROCESS,
    ENCODE,
    HQ_SAM,
    EMBED,
    SEGMENT,
)

MODEL_PARAMETER = "hqsam_model"
"""Parameter of the encoder's config as `hqsam serve` serves it: the name of the family's member."""

_MEMBERS = {
    (1, 160): "Light HQ-SAM",
    (4, 768): "HQ-SAM ViT-B",
    (4, 1024): "HQ-SAM ViT-L",
    (4, 1280): "HQ-SAM ViT-H",
}


def member(interm_shape: Sequence[int]) -> str | None:
    """Name the member of the HQ-SAM family whose intermediate embeddings have a shape.

    Args:
        interm_shape: [G, 1, 64, 64, width], without padding: a ViT narrower than ViT-B pads its
            embeddings to ViT-B's shape.

    Returns:
        its name, or None if no published model has embeddings of that shape.
    """
    return _MEMBERS.get((interm_shape[0], interm_shape[-1])) if interm_shape else None
