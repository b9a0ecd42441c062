"""Finishes masks: logits to run lengths and PNG, beside the threads that decode.

Callers take turns, mask by mask. Requests with many masks are work in bulk: threads of their own
finish them, at the priority of an encode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hqsam_client.contract import MASK_SIZE, MAX_FINISHED_SIDE, SEGMENT, max_finished_bytes
from hqsam_client.shared.finishing import ANY_QUALITY, Quality, finish, stability_score
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.modes import Choice
from hqsam_client.shared.run_lengths import RunLengthsError
from numpy.typing import NDArray

from hqsam_server.errors import BadRequestError, RequestCancelledError, ServingError
from hqsam_server.prompt_decoding.turns import PromptTurns
from hqsam_server.prompt_decoding.workers import Workers
from hqsam_server.runtime.config import Arrays

MANY = 16
"""A caller who has more prompts than this in a request, or waiting, sends work in bulk."""

NICE = 19
"""The priority of work in bulk, which is that of the encoder's processes."""

_MOST_THREADS = 4

_OUTPUTS = {spec.name: spec for spec in SEGMENT.outputs if spec.on_request}
_DTYPES: dict[str, type] = {
    "BYTES": np.object_,
    "FP32": np.float32,
    "INT32": np.int32,
    "INT64": np.int64,
}
_STRINGS = ("mask_rle", "mask_png")


@dataclass(frozen=True)
class Finish:
    """Which finished masks a request wants.

    Attributes:
        outputs: names of the contract's `FINISHED_OUTPUTS`, one at least.
        choice: which of the decoder's masks to finish.
        size: (height, width) in original pixels.
        quality: what a mask needs; one that lacks it is left empty.
    """

    outputs: Collection[str]
    choice: Choice
    size: Size
    quality: Quality = ANY_QUALITY

    def __post_init__(self) -> None:
        """Refuse an image so long that a row of numbers for its side is too large.

        Raises:
            BadRequestError: it is.
        """
        if max(self.size) > MAX_FINISHED_SIDE:
            raise BadRequestError(
                f"the image is {self.size[1]} x {self.size[0]} pixels, and masks are finished for "
                f"sides of at most {MAX_FINISHED_SIDE}: ask for low_res_masks"
            )

    def nbytes(self, prompts: int) -> int:
        """Return the most that the masks of so many prompts take, their logits included."""
        strings = sum(name in self.outputs for name in _STRINGS)
        return 4 * prompts * MASK_SIZE**2 + strings * max_finished_bytes(prompts)


@dataclass(eq=False)
class FinishedMasks:
    """Decoded masks of a request, and what is finished of them.

    Attributes:
        caller: whose they are; callers take turns.
        wanted: which outputs.
        logits: of each prompt, float32 [256, 256]; None once it is finished, or if its predicted
            IoU is too low.
        reply: takes the outputs or the error, once, from any thread.
        is_cancelled: whether nobody waits for the answer any more.
    """

    caller: str
    wanted: Finish
    logits: list[NDArray[np.float32] | None]
    reply: Callable[[Arrays | Exception], None]
    is_cancelled: Callable[[], bool]
    outputs: Arrays = field(init=False)
    taken: int = field(default=0, init=False)
    finished: int = field(default=0, init=False)
    failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Make room for the outputs."""
        self._bytes = dict.fromkeys(_STRINGS, 0)
        self.outputs = {
            name: np.full(
                (len(self.logits), *spec.shape[1:]),
                b"" if spec.dtype == "BYTES" else 0,
                _DTYPES[spec.dtype],
            )
            for name, spec in _OUTPUTS.items()
            if name in self.wanted.outputs
        }  # [P, ...]

    @property
    def left(self) -> int:
        """How many masks nobody has taken yet."""
        return len(self.logits) - self.taken

    @property
    def most_bytes(self) -> int:
        """How many bytes the files of each kind may have together."""
        return max_finished_bytes(len(self.logits))

    def finish(self, number: int) -> dict[str, Any]:
        """Return the outputs of a mask by name; without those that it is not good enough for.

        Raises:
            RequestCancelledError: nobody waits for it.
            BadRequestError: it has too many runs.
            ServingError: its logits are no numbers.
        """
        if self.is_cancelled():
            raise RequestCancelledError("cancelled before its mask was finished")
        logits, quality = self.logits[number], self.wanted.quality
        if logits is None:
            return {}
        if not np.isfinite(logits).all():
            raise ServingError("the prompt decoder's logits are not finite numbers")
        made: dict[str, Any] = {}
        if "stability_score" in self.outputs or quality.stability_score_thresh > 0:
            score = stability_score(logits, self.wanted.size, quality.stability_score_offset)
            made["stability_score"] = score
            if not quality.accepts_stability(score):
                return made
        try:
            runs, png = finish(
                logits,
                self.wanted.size,
                png="mask_png" in self.outputs,
                most_runs=self.most_bytes,  # each has a byte at least
            )
        except RunLengthsError as error:
            raise self._too_large("mask_rle") from error
        made |= {"mask_png": png, "box": runs.box or (0, 0, 0, 0), "area": runs.area}
        if "mask_rle" in self.outputs:
            made["mask_rle"] = runs.text()
        return made

    def keep(self, number: int, made: dict[str, Any]) -> None:
        """Keep what was finished of a mask.

        Raises:
            BadRequestError: the request's masks are too large together.
        """
        self.logits[number] = None
        for name, values in self.outputs.items():
            if name not in made:
                continue
            if name in _STRINGS:
                self._bytes[name] += len(made[name])
                if self._bytes[name] > self.most_bytes:
                    raise self._too_large(name)
            values[number] = made[name]
        self.finished += 1

    def _too_large(self, name: str) -> BadRequestError:
        return BadRequestError(
            f"{name} has more than {self.most_bytes} bytes, which is the limit for "
            f"{len(self.logits)} prompts: ask for low_res_masks, or for fewer prompts"
        )


class Finisher:
    """Finishes the masks of all callers."""

    def __init__(self, threads: int | None = None) -> None:
        """Start the threads.

        Args:
            threads: of each priority; None for half as many as there are processors.
        """
        if threads is None:
            threads = max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // 2))
        self._clicks = _Threads("finish", threads, 0)
        self._bulk = _Threads("finish-bulk", threads, NICE)

    def submit(self, masks: FinishedMasks) -> None:
        """Take masks; their `reply` is called later."""
        (self._bulk if masks.left > MANY else self._clicks).submit(masks)

    def close(self) -> None:
        """Answer what was submitted, and end the threads."""
        self._clicks.close()
        self._bulk.close()


class _Threads:
    """Threads of one priority, and what waits for them."""

    def __init__(self, name: str, count: int, nice: int) -> None:
        self._turns: PromptTurns[FinishedMasks] = PromptTurns()
        self._workers = Workers()
        self._changed = self._workers.changed
        self._workers.start(name, count, self._work, nice)

    def submit(self, masks: FinishedMasks) -> None:
        with self._changed:
            self._turns.add(masks.caller, masks)
            self._changed.notify()

    def close(self) -> None:
        self._workers.close()

    def _work(self, nice: int) -> None:
        os.nice(nice)  # of this thread alone
        while (turn := self._take()) is not None:
            masks, number = turn
            try:
                made = masks.finish(number)
                with self._changed:
                    if masks.failed:
                        continue
                    masks.keep(number, made)
                    is_last = masks.finished == len(masks.logits)
            except Exception as error:
                self._fail(masks, error)
            else:
                if is_last:
                    masks.reply(masks.outputs)

    def _take(self) -> tuple[FinishedMasks, int] | None:
        """Wait for the next mask; return it and its number, or None when there are no more."""
        with self._changed:
            while not self._turns:
                if self._workers.is_closed:
                    return None
                self._changed.wait()
            masks, number = self._turns.take()
            if masks.left:
                self._changed.notify()
            return masks, number

    def _fail(self, masks: FinishedMasks, error: Exception) -> None:
        with self._changed:
            if masks.failed:
                return
            masks.failed = True
            self._turns.remove(masks)
        masks.reply(error)
