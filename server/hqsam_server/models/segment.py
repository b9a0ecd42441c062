"""The model `segment`: masks for prompts on a stored image, a chunk of prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hqsam_client.contract import PROMPT_DECODER
from numpy.typing import NDArray

from hqsam_server.errors import BadRequestError, UnknownImageError
from hqsam_server.models.metrics import Metrics
from hqsam_server.models.prompt_checks import PromptLimits, Prompts
from hqsam_server.store.embedding_store import EmbeddingStore
from hqsam_server.store.entry import Embedding

Arrays = dict[str, NDArray[Any]]

_OUTPUT_SHAPES = {spec.name: spec.shape[1:] for spec in PROMPT_DECODER.outputs}


@dataclass(frozen=True)
class Segmenter:
    """Answers requests to `segment`.

    Attributes:
        store: where embeddings are looked up.
        decode: runs `prompt_decoder` on its inputs by name, for the outputs named.
        metrics: counts lookups and prompts.
        limits: limits on a request.
        chunk_prompts: prompts that are decoded at once, which bounds the memory.
    """

    store: EmbeddingStore
    decode: Callable[[Arrays, Collection[str]], Arrays]
    metrics: Metrics
    limits: PromptLimits
    chunk_prompts: int

    def segment(
        self,
        image_id: str | None,
        inputs: Mapping[str, NDArray[Any] | None],
        requested: Collection[str],
    ) -> Arrays:
        """Answer a request.

        Args:
            image_id: of an embedded image. Triton only counts inputs, so a request may lack it
                and have an optional input instead.
            inputs: the other inputs of the contract's `segment` by name, None where missing.
            requested: names of the outputs to return.

        Returns:
            The outputs by name, with the contract's shapes and dtypes.

        Raises:
            BadRequestError: `image_id` or a prompt is malformed.
            UnknownImageError: the image is not stored.
            ServingError: the store cannot be read, or `prompt_decoder` failed.
        """
        if image_id is None:
            raise BadRequestError("expected image_id, got none")
        prompts = Prompts.checked(inputs, self.limits)
        embedding = self.store.get(image_id)
        if embedding is None:
            self.metrics.store_misses.increment(1)
            raise UnknownImageError(
                f"no embedding is stored for image_id {image_id}: send the image to embed first"
            )
        self.metrics.store_hits.increment(1)
        outputs: Arrays = {}
        if "original_size" in requested:
            outputs["original_size"] = np.array(embedding.original_size, np.int32)  # [2]
        wanted = [name for name in _OUTPUT_SHAPES if name in requested]
        if wanted:
            outputs |= self._decoded(embedding, prompts, wanted)
        return outputs

    def _decoded(self, embedding: Embedding, prompts: Prompts, wanted: list[str]) -> Arrays:
        count = len(prompts)
        outputs: Arrays = {
            name: np.empty((count, *_OUTPUT_SHAPES[name]), np.float32) for name in wanted
        }  # [P, ...]
        image: Arrays = {
            "image_embeddings": embedding.image_embeddings,
            "hq_features": embedding.hq_features,
        }
        for start in range(0, count, self.chunk_prompts):
            chunk = slice(start, start + self.chunk_prompts)
            decoded = self.decode({**image, **prompts.part(chunk)}, wanted)
            for name in wanted:
                outputs[name][chunk] = decoded[name]
        self.metrics.prompts.increment(count)
        return outputs
