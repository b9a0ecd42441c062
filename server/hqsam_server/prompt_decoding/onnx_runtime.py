"""A `Decoder` on ONNX Runtime's CPU provider."""

from __future__ import annotations

import queue
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnxruntime

from hqsam_server.prompt_decoding.decoder import NO_MASK, Job, Lanes, threads_of, wide_lanes
from hqsam_server.runtime.config import Arrays, ModelFile
from hqsam_server.runtime.onnx_runtime import open_session, run_session
from hqsam_server.store.entry import Embedding


@dataclass(frozen=True)
class _Placed:
    """An image in the layout of the store.

    Attributes:
        arrays: inputs of `prompt_decoder` by name.
    """

    arrays: Arrays

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(array.nbytes for array in self.arrays.values())


class OnnxRuntimeDecoder:
    """A `Decoder` on ONNX Runtime's CPU provider.

    Prompts are decoded one by one: for one prompt ONNX Runtime gives the same bits whatever the
    number of threads. For several at once it does not; they differ by 1e-7 of the largest logit.
    """

    def __init__(self, file: ModelFile) -> None:
        """Load a file.

        Args:
            file: of `prompt_decoder`.

        Raises:
            StartError: the file cannot be loaded, or contradicts its config.
        """
        threads = threads_of(file)
        wide = wide_lanes(threads)
        self.lanes = Lanes(wide=wide, narrow=threads, together=1)
        # A session has one pool of threads, so each lane has a session.
        self._wide: queue.SimpleQueue[onnxruntime.InferenceSession] = queue.SimpleQueue()
        for _ in range(wide):
            self._wide.put(open_session(file, threads // wide))
        # Without a pool: each call runs on the thread of its caller.
        self._narrow = open_session(file, 1)

    def place(self, embedding: Embedding) -> _Placed:
        """Keep an embedding as it is; see `Decoder`."""
        return _Placed(
            {
                "image_embeddings": embedding.image_embeddings,
                "hq_features": embedding.hq_features,
            }
        )

    def run(self, jobs: Sequence[Job], requested: Collection[str], *, narrow: bool) -> list[Arrays]:
        """Decode prompts; see `Decoder`."""
        if narrow:
            return [run_session(self._narrow, _inputs(job), requested) for job in jobs]
        session = self._wide.get()
        try:
            return [run_session(session, _inputs(job), requested) for job in jobs]
        finally:
            self._wide.put(session)


def _inputs(job: Job) -> Arrays:
    mask = job.mask_input
    return {
        **cast(_Placed, job.image).arrays,
        "point_coords": job.point_coords,
        "point_labels": job.point_labels,
        "mask_input": NO_MASK if mask is None else mask,
        "has_mask_input": np.array([mask is not None], np.float32),
    }
