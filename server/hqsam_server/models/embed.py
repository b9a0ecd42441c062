"""The model `embed`: each image is encoded once, and no lookup waits for an encode.

A request that the store can answer is answered at once. The others wait for a few workers, in a
bounded line for each caller; the callers take turns. Requests for the same image share one encode,
also with other processes that use the same store. An image that nobody waits for any more is not
encoded, and its decoding is ended.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hqsam_server.errors import (
    BadRequestError,
    ModelUnavailableError,
    OverloadedError,
    RequestCancelledError,
    ServingError,
)
from hqsam_server.models.caller import Caller
from hqsam_server.models.metrics import EmbedMetrics, Metrics
from hqsam_server.models.preprocess import Preprocessor
from hqsam_server.models.turns import EncodeTurns
from hqsam_server.store.embedding_store import EmbeddingStore, checked_image_id
from hqsam_server.store.entry import Embedding

# How much the latest encode counts in the mean time of an encode.
_LATEST = 0.2


class Embedded(NamedTuple):
    """The answer to a request.

    Attributes:
        image_id: SHA-256 of the encoded image, 64 lower-case hex digits.
        original_size: (height, width) of the upright image in original pixels; (0, 0) if it is not
            stored.
        already_stored: whether the image was stored before this request.
    """

    image_id: str
    original_size: tuple[int, int]
    already_stored: bool


@dataclass(frozen=True)
class Bounds:
    """How much may wait.

    Attributes:
        workers: images that are decoded or encoded at once.
        max_waiting: requests that may wait for an encode, including those being encoded.
        max_waiting_bytes: total size of their images.
        max_waiting_per_caller: requests of one caller among them; the caller may use as large a
            part of the bytes. A caller without a name has no bound of its own.
    """

    workers: int
    max_waiting: int
    max_waiting_bytes: int
    max_waiting_per_caller: int


@dataclass(eq=False)
class _Job:
    """An image that waits or is being encoded, and who waits for it."""

    image_id: str
    encoded: bytes
    callers: list[Caller[Embedded]] = field(default_factory=list)

    def is_cancelled(self) -> bool:
        """Tell whether nobody waits for it any more; others may join at any time."""
        return all(caller.is_cancelled() for caller in [*self.callers])


class Embedder:
    """Answers requests to `embed`."""

    def __init__(
        self,
        store: EmbeddingStore,
        preprocess: Preprocessor,
        encode: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]],
        metrics: tuple[Metrics, EmbedMetrics],
        bounds: Bounds,
    ) -> None:
        """Start the workers.

        Args:
            store: where embeddings are looked up and written.
            preprocess: decodes images.
            encode: takes the encoder's input, and returns `image_embeddings` and `hq_features`;
                its errors become the answer.
            metrics: counts lookups and encodes.
            bounds: how much may wait.
        """
        self._store = store
        self._preprocess = preprocess
        self._encode = encode
        self._metrics, self._own_metrics = metrics
        self._bounds = bounds
        self._pool = ThreadPoolExecutor(bounds.workers, thread_name_prefix="encode")
        self._lock = Lock()
        self._jobs: dict[str, _Job] = {}
        self._turns: EncodeTurns[_Job] = EncodeTurns(bounds.workers)
        self._mean_s = 0.0
        self._is_closed = False

    def close(self) -> None:
        """Finish the encodes under way; refuse those that wait, and new ones."""
        with self._lock:
            self._is_closed = True
            for job in self._waiting_jobs():
                self._drop(job, ModelUnavailableError("the server is stopping: try again"))
        self._pool.shutdown()
        self._preprocess.close()

    def embed(
        self, encoded: bytes | memoryview | None, image_id: str | None, caller: Caller[Embedded]
    ) -> None:
        """Answer a request, at once or later.

        Args:
            encoded: the bytes of an image file, or None to ask whether the image is stored. They
                are not read after this returns.
            image_id: checked against the bytes if both are given.
            caller: gets the answer.

        Raises:
            BadRequestError: both are missing, or they do not match, or the bytes are too many, or
                begin as no image does.
            OverloadedError: too many requests are waiting.
            StoreError: the store cannot be read.
        """
        if image_id is not None:
            checked_image_id(image_id)
        if encoded is not None:
            self._preprocess.check(encoded)
            image_id = _digest(encoded, image_id)
        if image_id is None:
            raise BadRequestError("expected encoded_image, image_id or both, got neither")
        size = self._store.original_size(image_id)
        (self._metrics.store_misses if size is None else self._metrics.store_hits).increment(1)
        if size is not None:
            caller.reply(Embedded(image_id, size, already_stored=True))
        elif encoded is None:
            caller.reply(Embedded(image_id, (0, 0), already_stored=False))
        else:
            self._enqueue(image_id, encoded, caller)

    def _enqueue(
        self, image_id: str, encoded: bytes | memoryview, caller: Caller[Embedded]
    ) -> None:
        with self._lock:
            if self._refusal(caller.name, len(encoded)) is not None:
                self._drop_cancelled()
            refusal = self._refusal(caller.name, len(encoded))
            if refusal is not None:
                raise refusal
            job = self._jobs.get(image_id)
            if job is None:
                job = self._jobs[image_id] = _Job(image_id, bytes(encoded))
            job.callers.append(caller)
            if not self._turns.is_running(job):
                self._turns.add(caller.name, job)
            self._begin()

    def _refusal(self, name: str, size: int) -> ServingError | None:
        """Return why there is no room for a request, or None; the caller holds the lock."""
        if self._is_closed:
            return ModelUnavailableError("the server is stopping: try again")
        bounds = self._bounds
        all_waiting = [(job, caller) for job in self._jobs.values() for caller in job.callers]
        own = [(job, caller) for job, caller in all_waiting if name and caller.name == name]
        part = bounds.max_waiting_per_caller / bounds.max_waiting
        for who, waiting, places, room_bytes, turns in (
            ("you have", own, bounds.max_waiting_per_caller, part, self._turns.callers),
            ("there are", all_waiting, bounds.max_waiting, 1, 1),
        ):
            room_bytes = int(room_bytes * bounds.max_waiting_bytes)
            taken = sum(len(job.encoded) for job in {job for job, _ in waiting})
            if waiting and (len(waiting) >= places or taken + size > room_bytes):
                wait_s = max(1, math.ceil(self._mean_s * max(1, turns) / bounds.workers))
                return OverloadedError(
                    f"{who} {len(waiting)} requests of {taken} bytes that wait for an encode, "
                    f"expected at most {places} of {room_bytes} bytes: try again in {wait_s} s"
                )
        return None

    def _waiting_jobs(self) -> list[_Job]:
        return [job for job in self._jobs.values() if not self._turns.is_running(job)]

    def _drop_cancelled(self) -> None:
        """Make room of what nobody waits for; the caller holds the lock."""
        for job in self._waiting_jobs():
            if job.is_cancelled():
                self._drop(job, RequestCancelledError("cancelled before its turn"))

    def _drop(self, job: _Job, error: ServingError) -> None:
        del self._jobs[job.image_id]
        self._turns.remove(job)
        for caller in job.callers:
            caller.reply(error)

    def _begin(self) -> None:
        """Begin what may run now; the caller holds the lock."""
        while not self._is_closed and (job := self._turns.take()) is not None:
            self._pool.submit(self._work, job)
        self._own_metrics.encodes_waiting.set(len(self._turns))
        self._own_metrics.encodes_running.set(self._turns.running)

    def _work(self, job: _Job) -> None:
        answer: Embedded | Exception
        start = time.monotonic()
        try:
            answer = self._embedded(job)
        except Exception as error:
            answer = error
        took_s = time.monotonic() - start
        with self._lock:
            self._mean_s += (took_s - self._mean_s) * (_LATEST if self._mean_s else 1)
            self._turns.done(job)
            del self._jobs[job.image_id]
            callers = job.callers
            if isinstance(answer, RequestCancelledError):
                callers = self._wait_again(job)
            self._begin()
        for caller in callers:
            caller.reply(answer)
        # The traceback of an error refers to this frame: together they would keep the image.
        del answer

    def _wait_again(self, job: _Job) -> list[Caller[Embedded]]:
        """Have those wait again who asked for the image while it was given up; return the others.

        The caller holds the lock.
        """
        gone = [caller for caller in job.callers if caller.is_cancelled()]
        job.callers = [caller for caller in job.callers if caller not in gone]
        if job.callers and not self._is_closed:
            self._jobs[job.image_id] = job
            for caller in job.callers:
                self._turns.add(caller.name, job)
            return gone
        return gone + job.callers

    def _embedded(self, job: _Job) -> Embedded:
        if job.is_cancelled():
            raise RequestCancelledError("cancelled before the image was decoded")
        # Images share the store's locks: one that takes long to decode holds none meanwhile.
        image, size = self._preprocess(job.encoded, job.is_cancelled)
        if job.is_cancelled():
            raise RequestCancelledError("cancelled before the image was encoded")
        with self._store.exclusive(job.image_id):
            # Another process may have stored it.
            if self._store.original_size(job.image_id) is None:
                embedding = Embedding(*self._encode(image), size)
                self._metrics.encodes.increment(1)
                self._store.put(job.image_id, embedding)
        return Embedded(job.image_id, size, already_stored=False)


def _digest(encoded: bytes | memoryview, image_id: str | None) -> str:
    digest = hashlib.sha256(encoded).hexdigest()
    if image_id not in (None, digest):
        raise BadRequestError(
            f"image_id is {image_id}, expected {digest}, the SHA-256 of encoded_image: "
            "send the bytes that it was computed from, or omit image_id"
        )
    return digest
