"""HQ-SAM as a serverless function of CVAT: points and a box in, a mask out.

It stores nothing. The client asks the server for the mask by the frame's content, and sends the
frame only to a server that does not have it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from typing import Any

from hqsam_client import (
    ConnectionLostError,
    HQSam,
    HQSamError,
    ImageError,
    InvalidRequestError,
    Mask,
    PromptError,
    TooLargeError,
)


def init_context(context: Any) -> None:
    """Connect a worker of the function to the server."""
    context.user_data.sam = HQSam(
        os.environ.get("HQSAM_URL", "localhost:8001"), token=os.environ.get("HQSAM_TOKEN")
    )


def handler(context: Any, event: Any) -> Any:
    """Answer one interaction.

    Args:
        context: has the connection.
        event: its body has `image`, a base64 image file; `pos_points` and `neg_points`, lists of
            [x, y] in pixels from the frame's edge; `obj_bbox`, its two corners, or none.

    Returns:
        Status 200 with `mask`, rows of 0 and 1, and `bounds`, the first and the last column and
        row of the frame that it covers: [left, top, right, bottom]. Else a status and a text.
    """
    try:
        answer = crop(segment(context.user_data.sam, event.body))
    except (KeyError, TypeError, ValueError, InvalidRequestError, TooLargeError) as error:
        return refusal(context, 400, error)
    except ConnectionLostError as error:
        return refusal(context, 503, error)
    except HQSamError as error:
        return refusal(context, 502, error)
    return context.Response(
        body=json.dumps(answer), content_type="application/json", status_code=200
    )


def segment(sam: HQSam, body: Any) -> Mask:
    """Return the mask for the prompts of a request."""
    if not isinstance(body, dict):
        raise ValueError("the body is not a JSON object; send it as application/json")
    try:
        frame = base64.b64decode(body["image"], validate=True)
    except binascii.Error as error:
        raise ImageError(f"image is not base64: {error}") from error
    inside, beside, corners = body["pos_points"], body["neg_points"], body.get("obj_bbox")
    if not inside and not corners:
        raise PromptError("click on the object, or draw a box around it")
    # CVAT counts from the edge of the frame: the pixel under the pointer is meant.
    points = [(int(x), int(y)) for x, y in (*inside, *beside)]
    labels = [1] * len(inside) + [0] * len(beside)
    box = (*corners[0], *corners[1]) if corners else None
    return sam.segment(frame, points or None, labels or None, box)


def crop(mask: Mask) -> dict[str, Any]:
    """Return the part of a mask that holds the object, and its place in the frame.

    A mask without a pixel is its top left pixel, as in `cvat_sdk.masks.encode_mask`.
    """
    x0, y0, x1, y1 = mask.box or (0, 0, 1, 1)
    return {
        "mask": mask.array[y0:y1, x0:x1].astype(int).tolist(),
        "bounds": [x0, y0, x1 - 1, y1 - 1],
    }


def refusal(context: Any, status: int, error: Exception) -> Any:
    """Return an answer that says what is wrong, and log it."""
    missing = isinstance(error, KeyError)
    text = f"the request has no {error}" if missing else str(error)
    context.logger.warn(text)
    return context.Response(body=text, content_type="text/plain", status_code=status)
