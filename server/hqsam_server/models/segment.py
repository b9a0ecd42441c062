"""The model `segment`: masks for prompts on a stored image, decoded in its own process.

A request is checked and its image looked up at once; a scheduler decodes its prompts in turn with
those of others, and has their masks finished if that is requested. The images of the last clicks
stay where they are decoded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hqsam_client.contract import (
    FINISHED_OUTPUTS,
    MAX_IMAGE_PIXELS,
    PROMPT_DECODER,
    QUALITY_INPUTS,
    resized_size,
)
from hqsam_client.errors import PromptError
from hqsam_client.shared import modes
from hqsam_client.shared.finishing import Quality
from hqsam_client.shared.geometry import Size
from numpy.typing import NDArray

from hqsam_server.errors import BadRequestError, UnknownImageError
from hqsam_server.models.caller import Caller
from hqsam_server.models.metrics import Metrics
from hqsam_server.models.prompt_checks import PromptLimits, Prompts
from hqsam_server.prompt_decoding.decoder import Decoder, PlacedImage
from hqsam_server.prompt_decoding.finishing import Finish
from hqsam_server.prompt_decoding.lru import Lru
from hqsam_server.prompt_decoding.scheduler import Request, Scheduler
from hqsam_server.runtime.config import Arrays
from hqsam_server.store.embedding_store import EmbeddingStore


@dataclass(frozen=True)
class Limits:
    """Limits of `segment`.

    Attributes:
        prompts: on a request.
        open_requests: requests that may wait or be worked on.
        open_bytes: what the masks of large requests may take meanwhile.
        resident_bytes: what the images of the last clicks may take.
    """

    prompts: PromptLimits
    open_requests: int
    open_bytes: int
    resident_bytes: int


class Segmenter:
    """Answers requests to `segment`."""

    def __init__(
        self, store: EmbeddingStore, decoder: Decoder, metrics: Metrics, limits: Limits
    ) -> None:
        """Start the threads that decode.

        Args:
            store: where embeddings are looked up.
            decoder: decodes prompts.
            metrics: counts lookups and prompts, and shows what is resident.
            limits: limits on requests and images.
        """
        self._store = store
        self._decoder = decoder
        self._metrics = metrics
        self._limits = limits
        self._resident: Lru[str, PlacedImage] = Lru(
            limits.resident_bytes, lambda image: image.nbytes, self._report
        )
        self._scheduler = Scheduler(
            decoder, max_waiting=limits.open_requests, max_bytes=limits.open_bytes
        )

    def close(self) -> None:
        """Answer what was accepted, and end the threads."""
        self._scheduler.close()

    def segment(
        self,
        image_id: str | None,
        inputs: Mapping[str, NDArray[Any] | None],
        mode: str | None,
        requested: Collection[str],
        caller: Caller[Arrays],
    ) -> None:
        """Answer a request, at once or later.

        Args:
            image_id: of an embedded image. Triton only counts inputs, so a request may lack it
                and have an optional input instead.
            inputs: the other inputs of the contract's `segment` by name, but for `mode`; None where
                missing. They are not read after this returns.
            mode: which mask finished outputs are of; None for the default.
            requested: names of the outputs to return.
            caller: gets the outputs by name, with the contract's shapes and dtypes, or an error.

        Raises:
            BadRequestError: `image_id`, `mode`, a prompt or a threshold is malformed, or the image
                is too long for the finished masks that are requested.
            UnknownImageError: the image is not stored.
            OverloadedError: too much is waiting.
            StoreError: the store cannot be read.
        """
        if image_id is None:
            raise BadRequestError("expected image_id, got none")
        choice, quality = _choice(mode), _quality(inputs)
        prompts = Prompts.checked(inputs, self._limits.prompts)
        size = self._store.original_size(image_id)
        if size is None:
            self._metrics.store_misses.increment(1)
            raise _unknown(image_id)
        self._metrics.store_hits.increment(1)
        outputs: Arrays = {}
        if "original_size" in requested:
            outputs["original_size"] = np.array(size, np.int32)  # [2]
        wanted = [spec.name for spec in PROMPT_DECODER.outputs if spec.name in requested]
        finished = [name for name in FINISHED_OUTPUTS if name in requested]
        finish = None
        if finished:
            finished_size = _mask_size(inputs.get("mask_size"), size)
            finish = Finish(finished, choice, finished_size, quality)
        if not wanted and finish is None:
            caller.reply(outputs)
            return

        def reply(answer: Arrays | Exception) -> None:
            if isinstance(answer, dict):
                self._metrics.prompts.increment(len(prompts))
                answer = {**outputs, **answer}
            caller.reply(answer)

        self._scheduler.submit(
            Request(
                caller.name,
                lambda: self._resident.get(image_id, lambda: self._place(image_id)),
                prompts,
                wanted,
                reply,
                caller.is_cancelled,
                finish,
            )
        )

    def _place(self, image_id: str) -> PlacedImage:
        embedding = self._store.get(image_id)
        if embedding is None:  # evicted since it was looked up
            raise _unknown(image_id)
        return self._decoder.place(embedding)

    def _report(self, size: int, count: int) -> None:
        self._metrics.resident_bytes.set(size)
        self._metrics.resident_images.set(count)


def _choice(mode: str | None) -> modes.Choice:
    try:
        return modes.choice(modes.DEFAULT_MODE if mode is None else mode)
    except PromptError as error:
        raise BadRequestError(str(error)) from error


def _mask_size(wanted: NDArray[Any] | None, stored: Size) -> Size:
    """Return the size that finished masks are to have.

    Args:
        wanted: (height, width) as the request says, [2]; None for that of the stored image.
        stored: (height, width) of the stored image, which may be a smaller version of another.

    Raises:
        BadRequestError: an image of that size would fill another part of the input frame, or have
            too many pixels.
    """
    if wanted is None:
        return stored
    height, width = (int(side) for side in wanted)
    is_possible = min(height, width) > 0 and height * width <= MAX_IMAGE_PIXELS
    if not is_possible or resized_size((height, width)) != resized_size(stored):
        raise BadRequestError(
            f"mask_size is {height}, {width}, expected height and width of the image that the "
            f"embedded one, {stored[0]}, {stored[1]}, is a smaller version of"
        )
    return height, width


def _quality(inputs: Mapping[str, NDArray[Any] | None]) -> Quality:
    """Return what finished masks need.

    Raises:
        BadRequestError: a threshold is no number, or the offset is negative.
    """
    given = {
        name: float(array.item())
        for name in QUALITY_INPUTS
        if (array := inputs.get(name)) is not None
    }
    for name, value in given.items():
        is_offset = name == "stability_score_offset"
        if not np.isfinite(value) or (is_offset and value < 0):
            expected = "0 or more" if is_offset else "a finite number"
            raise BadRequestError(f"{name} is {value:g}, expected {expected}")
    return Quality(**given)


def _unknown(image_id: str) -> UnknownImageError:
    return UnknownImageError(
        f"no embedding is stored for image_id {image_id}: send the image to embed first"
    )
