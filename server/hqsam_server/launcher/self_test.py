"""A real encode and a real click before a server says that it is ready.

Triton is ready as soon as its models are loaded, whether or not they can compute. The two calls go
past the front, so they count in no metric of calls. Their image was never sent before, so it is
encoded also where the store is kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from hqsam_client.contract import EMBED, SEGMENT
from PIL import Image
from safetensors.numpy import load_file

from hqsam_server.errors import StartError
from hqsam_server.store.embedding_store import entries

_SIDE_PX = 8
_HINT = "read the log above, or start without --self-test"

# The model that computes what is stored, in the order in which they run.
_COMPUTED_BY = {"image_embeddings": "encoder", "hq_features": "features"}


class Call(Protocol):
    """Runs a model on inputs in KServe's JSON."""

    def __call__(
        self, model: str, inputs: list[dict[str, Any]], timeout_s: float, outputs: tuple[str, ...]
    ) -> tuple[int, str]:
        """Return HTTP status and text of the named outputs, or 0 and why there is no answer."""


def run(call: Call, store: Path, timeout_s: float) -> None:
    """Embed an image and click on it; the store is left without the image.

    Args:
        call: calls the server.
        store: folder of its embedding store.
        timeout_s: how long that may take.

    Raises:
        StartError: a call failed or its answer cannot be used; the message says which part failed.
    """
    deadline = time.monotonic() + timeout_s
    encoded = _new_image()
    image_id = hashlib.sha256(encoded).hexdigest()
    try:
        image = _tensor("encoded_image", "UINT8", [len(encoded)], list(encoded))
        size = _answer(call, EMBED.name, [image], deadline, "original_size")
        _check(size == [_SIDE_PX, _SIDE_PX], EMBED.name, f"the size of its image is {size}")
        _check_stored(store, image_id)
        prompt = [
            _tensor("image_id", "BYTES", [1], [image_id]),
            _tensor("point_coords", "FP32", [1, 2, 2], [512, 512, 0, 0]),
            _tensor("point_labels", "FP32", [1, 2], [1, -1]),
        ]
        logits = _answer(call, SEGMENT.name, prompt, deadline, "low_res_masks")
        _check(_is_finite(logits), SEGMENT.name, "low_res_masks has NaN or infinite numbers")
    finally:
        for entry in _entries(store, image_id):
            entry.unlink(missing_ok=True)


def _new_image() -> bytes:
    """Return a PNG that nobody has ever sent."""
    pixels = Image.frombytes("RGB", (_SIDE_PX, _SIDE_PX), os.urandom(3 * _SIDE_PX**2))
    file = io.BytesIO()
    pixels.save(file, "PNG")
    return file.getvalue()


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _answer(
    call: Call, model: str, inputs: list[dict[str, Any]], deadline: float, output: str
) -> list[Any]:
    """Return the data of an output."""
    status, text = call(model, inputs, max(1.0, deadline - time.monotonic()), (output,))
    _check(status != 0, model, f"no answer ({text})")
    _check(status == HTTPStatus.OK, model, text)
    try:
        (tensor,) = json.loads(text)["outputs"]
        return list(tensor["data"])
    except (ValueError, KeyError, TypeError):
        # Triton writes no JSON of a NaN.
        raise _failed(model, f"{output} cannot be read; it may have NaN") from None


def _check_stored(store: Path, image_id: str) -> None:
    for entry in _entries(store, image_id):
        arrays = load_file(entry)
        for name, model in _COMPUTED_BY.items():
            _check(_is_finite(arrays[name]), model, f"{name} has NaN or infinite numbers")


def _is_finite(values: Any) -> bool:
    return bool(np.isfinite(values).all())


def _entries(store: Path, image_id: str) -> list[Path]:
    return [entry.path for entry in entries(store) if image_id in entry.path.name]


def _check(holds: bool, part: str, why: str) -> None:
    if not holds:
        raise _failed(part, why)


def _failed(part: str, why: str) -> StartError:
    return StartError(f"the self-test failed in {part}: {why}; {_HINT}")
