"""Decodes the prompts of many requests: who waits, what runs beside what, and on how many threads.

Few prompts get all threads each. As soon as at least as many wait or run as there are narrow lanes,
each gets a share of the threads: two decodes of one thread take less time than two in turn on two
threads. Which way a prompt is decoded changes no bit of its answer.

Large requests are work in bulk. Their prompts are decoded in narrow lanes of their own, at the
priority of an encode: a click does not wait for them, and leaves them next to no processor time.

A request that wants finished masks is handed on, once it is decoded, to threads that finish them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from hqsam_client.contract import PROMPT_DECODER
from hqsam_client.shared.modes import combine
from numpy.typing import NDArray

from hqsam_server.errors import OverloadedError, RequestCancelledError, ServingError
from hqsam_server.models.prompt_checks import Prompts
from hqsam_server.prompt_decoding.decoder import Decoder, Job, PlacedImage
from hqsam_server.prompt_decoding.finishing import MANY, NICE, Finish, FinishedMasks, Finisher
from hqsam_server.prompt_decoding.turns import PromptTurns
from hqsam_server.prompt_decoding.workers import Workers
from hqsam_server.runtime.config import Arrays

_OUTPUT_SHAPES = {spec.name: spec.shape[1:] for spec in PROMPT_DECODER.outputs}


@dataclass(eq=False)
class Request:
    """Prompts on one image that wait for their masks.

    Attributes:
        caller: who sent it; callers take turns.
        image: returns the placed image, or raises why there is none. Called when a prompt is about
            to be decoded.
        prompts: what to decode.
        requested: names of the outputs to return.
        reply: takes the outputs or the error, once, from any thread.
        is_cancelled: whether nobody waits for the answer any more.
        finish: the finished masks to return besides; None for none.
    """

    caller: str
    image: Callable[[], PlacedImage]
    prompts: Prompts
    requested: Sequence[str]
    reply: Callable[[Arrays | Exception], None]
    is_cancelled: Callable[[], bool]
    finish: Finish | None = None
    outputs: Arrays = field(default_factory=dict, init=False)
    logits: list[NDArray[np.float32] | None] = field(default_factory=list, init=False)
    taken: int = field(default=0, init=False)
    decoded: int = field(default=0, init=False)
    failed: bool = field(default=False, init=False)

    @property
    def left(self) -> int:
        """How many prompts nobody has taken yet."""
        return len(self.prompts) - self.taken

    @property
    def needed(self) -> set[str]:
        """Names of the outputs to decode: those to return, and those to finish masks of."""
        return {*self.requested, *(self.finish.choice.outputs() if self.finish else ())}

    @property
    def nbytes(self) -> int:
        """What its masks take while it is worked on, those to refine included."""
        answer = sum(4 * int(np.prod(_OUTPUT_SHAPES[name])) for name in self.requested)
        mask = self.prompts.mask_input
        count = len(self.prompts)
        finished = 0 if self.finish is None else self.finish.nbytes(count)
        return answer * count + finished + (0 if mask is None else mask.nbytes)

    def keep(self, number: int, outputs: Arrays) -> None:
        """Keep the outputs of a prompt, and the logits of its mask if it is to be finished."""
        if not self.outputs:
            count = len(self.prompts)
            self.outputs = {
                name: np.empty((count, *_OUTPUT_SHAPES[name]), np.float32)
                for name in self.requested
            }  # [P, ...]
        for name in self.requested:
            self.outputs[name][number] = outputs[name][0]
        if self.finish is not None:
            self.logits = self.logits or [None] * len(self.prompts)
            logits, ious = combine(outputs, self.finish.choice)  # [1, 256, 256], [1]
            if self.finish.quality.accepts_iou(float(ious[0])):
                self.logits[number] = logits[0]


class _Turn(NamedTuple):
    """A call of the decoder: prompts by number, each with its request."""

    prompts: list[tuple[Request, int]]
    narrow: bool


class _Line:
    """Requests of one priority: those that wait, and the calls that run.

    Attributes:
        turns: whose prompt is next.
        running: calls of the decoder by whether they are narrow.
    """

    def __init__(self) -> None:
        self.turns: PromptTurns[Request] = PromptTurns()
        self.running = {True: 0, False: 0}


class Scheduler:
    """Runs a decoder on the requests of all callers."""

    def __init__(self, decoder: Decoder, *, max_waiting: int, max_bytes: int) -> None:
        """Start the threads.

        Args:
            decoder: what decodes.
            max_waiting: requests that may wait or be worked on.
            max_bytes: what the masks of large requests may take together; a request is large if it
                takes more than its share of this, one of `max_waiting`.
        """
        self._decoder = decoder
        self._lanes = decoder.lanes
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._workers = Workers()
        self._changed = self._workers.changed
        self._clicks, self._bulk = _Line(), _Line()
        self._open: list[Request] = []
        self._finisher = Finisher()
        count = max(self._lanes.wide, self._lanes.narrow)
        self._workers.start("decode", count, self._work, self._clicks, self._click_mode)
        self._workers.start("bulk", self._lanes.narrow, self._work_in_bulk)

    def submit(self, request: Request) -> None:
        """Take a request; its `reply` is called later.

        Raises:
            OverloadedError: too much is waiting.
        """
        with self._changed:
            if len(self._open) >= self._max_waiting:
                raise OverloadedError(
                    f"{len(self._open)} requests are waiting for masks, the limit is "
                    f"{self._max_waiting}: try again later"
                )
            size = request.nbytes
            if size > self._max_bytes // self._max_waiting:
                held = sum(other.nbytes for other in self._open)
                if held and held + size > self._max_bytes:
                    raise OverloadedError(
                        f"the masks that others wait for take {held} bytes and these {size}, the "
                        f"limit is {self._max_bytes}: try again later, or send fewer prompts"
                    )
            self._open.append(request)
            self._line_of(request).turns.add(request.caller, request)
            self._changed.notify_all()

    def close(self) -> None:
        """Answer what was submitted, and end the threads."""
        self._workers.close()
        self._finisher.close()

    def _line_of(self, request: Request) -> _Line:
        """Return the line for a new request; one of many small requests is work in bulk, too."""
        together = len(request.prompts) + self._clicks.turns.waiting_of(request.caller)
        return self._bulk if self._lanes.narrow and together > MANY else self._clicks

    def _work_in_bulk(self) -> None:
        os.nice(NICE)  # of this thread alone
        self._work(self._bulk, self._bulk_mode)

    def _work(self, line: _Line, mode: Callable[[], bool | None]) -> None:
        """Decode what waits in a line; `mode` says whether and how a call may begin now."""
        while True:
            with self._changed:
                while (narrow := mode()) is None:
                    if self._workers.is_closed and not line.turns:
                        return
                    self._changed.wait()
                turn = self._take(line, narrow)
                line.running[narrow] += 1
                self._changed.notify_all()  # the next turn may be one of the other threads
            try:
                self._decode(turn)
            finally:
                with self._changed:
                    line.running[narrow] -= 1
                    self._changed.notify_all()

    def _bulk_mode(self) -> bool | None:
        """Return whether the next call of work in bulk is narrow; None if none may begin now."""
        may_begin = self._bulk.turns and self._bulk.running[True] < self._lanes.narrow
        return True if may_begin else None

    def _click_mode(self) -> bool | None:
        """Return whether the next call for a click is narrow; None if none may begin now."""
        waiting, running = len(self._clicks.turns), self._clicks.running
        if not waiting:
            return None
        together = waiting + running[True] + running[False]
        if self._lanes.narrow and together >= self._lanes.narrow:
            may_begin = not running[False] and running[True] < self._lanes.narrow
            return True if may_begin else None
        return False if running[False] < self._lanes.wide else None

    def _take(self, line: _Line, narrow: bool) -> _Turn:
        taken: list[tuple[Request, int]] = []
        while line.turns and len(taken) < self._lanes.together:
            taken.append(line.turns.take())
        return _Turn(taken, narrow)

    def _decode(self, turn: _Turn) -> None:
        jobs: list[Job] = []
        prompts: list[tuple[Request, int]] = []
        for request, number in turn.prompts:
            try:
                if request.is_cancelled():
                    raise RequestCancelledError("cancelled before it was decoded")
                jobs.append(Job(request.image(), *request.prompts.one(number)))
                prompts.append((request, number))
            except Exception as error:
                self._fail(request, error)
        if not jobs:
            return
        requested = [name for name in _OUTPUT_SHAPES if any(name in it.needed for it, _ in prompts)]
        try:
            decoded = self._decoder.run(jobs, requested, narrow=turn.narrow)
        except Exception as error:
            if len(prompts) == 1:
                failure = ServingError(f"the prompt decoder failed: {error}")
                failure.__cause__ = error
                self._fail(prompts[0][0], failure)
            else:  # so that none fails for its neighbour
                for prompt in prompts:
                    self._decode(_Turn([prompt], turn.narrow))
            return
        for (request, number), outputs in zip(prompts, decoded, strict=True):
            self._finish(request, number, outputs)

    def _finish(self, request: Request, number: int, outputs: Arrays) -> None:
        with self._changed:
            if request.failed:
                return
            request.keep(number, outputs)
            request.decoded += 1
            if request.decoded < len(request.prompts):
                return
        if request.finish is None:
            self._answer(request, request.outputs)
            return

        def reply(answer: Arrays | Exception) -> None:
            whole = {**request.outputs, **answer} if isinstance(answer, dict) else answer
            self._answer(request, whole)

        self._finisher.submit(
            FinishedMasks(
                request.caller, request.finish, request.logits, reply, request.is_cancelled
            )
        )

    def _answer(self, request: Request, answer: Arrays | Exception) -> None:
        with self._changed:
            self._open.remove(request)
        request.reply(answer)

    def _fail(self, request: Request, error: Exception) -> None:
        with self._changed:
            if request.failed:
                return
            request.failed = True
            for line in (self._clicks, self._bulk):
                line.turns.remove(request)
            self._open.remove(request)
        request.reply(error)
