"""What runs the file of `prompt_decoder` for clicks on placed images."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from hqsam_client.contract import MASK_SIZE
from numpy.typing import NDArray

from hqsam_server.runtime.config import Arrays, ModelFile
from hqsam_server.store.entry import Embedding

NO_MASK = np.zeros((1, 1, MASK_SIZE, MASK_SIZE), np.float32)
"""What a graph gets as `mask_input` of a prompt that refines no mask."""

_THREADS_OF_A_CALL = 8
"""More threads make one decode hardly any faster."""


class Lanes(NamedTuple):
    """How a decoder likes to be used.

    Attributes:
        wide: calls that may run at once while few wait; they share all threads.
        narrow: calls that may run at once while as many wait; they share the threads between them,
            one each at the least. 0 if there is no such way.
        together: prompts that one call takes.
    """

    wide: int
    narrow: int
    together: int


def threads_of(file: ModelFile) -> int:
    """Return the threads of a decoder on the CPU: those of the config, or all processors."""
    return file.intra_op_threads or len(os.sched_getaffinity(0))


def wide_lanes(threads: int) -> int:
    """Return how many calls share the threads while few wait."""
    return max(1, threads // _THREADS_OF_A_CALL)


class PlacedImage(Protocol):
    """An image's embedding where its decoder computes, in the decoder's own layout."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""


@dataclass(frozen=True)
class Job:
    """One prompt on one image.

    Attributes:
        image: what the same decoder's `place` returned.
        point_coords: float32 [1, N, 2], (x, y) in the input frame; N is a power of two.
        point_labels: float32 [1, N], label codes of the contract.
        mask_input: float32 [1, 1, 256, 256], logits to refine, or None.
    """

    image: PlacedImage
    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    mask_input: NDArray[np.float32] | None


class Decoder(Protocol):
    """A loaded prompt decoder. Its methods can be called from several threads."""

    lanes: Lanes

    def place(self, embedding: Embedding) -> PlacedImage:
        """Copy an embedding to where the decoder computes."""

    def run(self, jobs: Sequence[Job], requested: Collection[str], *, narrow: bool) -> list[Arrays]:
        """Decode up to `lanes.together` prompts.

        Args:
            jobs: the prompts, on any images.
            requested: names of `prompt_decoder`'s outputs to return.
            narrow: whether to use a share of the threads only; never with `lanes.narrow` 0.

        Returns:
            The outputs of each job by name, [1, ...] each, in arrays that belong to the caller.
            They do not depend on `narrow`.

        Raises:
            Exception: the runtime failed; the jobs are not at fault.
        """
