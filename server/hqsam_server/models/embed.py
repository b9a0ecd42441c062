"""What `embed` does: images are encoded once, and questions never wait for an encode.

A request that the store can answer is answered at once. The others wait in a bounded
queue for a few workers; those that ask for the same image share one encode, also
with other processes that use the same store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from hqsam_server.errors import (
    BadRequestError,
    OverloadedError,
    RequestCancelledError,
)
from hqsam_server.models.metrics import Metrics
from hqsam_server.models.preprocess import Limits, check_header
from hqsam_server.store.embedding_store import EmbeddingStore, checked_image_id
from hqsam_server.store.entry import Embedding


class Embedded(NamedTuple):
    """The answer to a request.

    Attributes:
        image_id: the image's.
        original_size: (height, width) of the upright image in original pixels, (0, 0)
            for one that is not stored.
        already_stored: whether the image was stored before the request came.
    """

    image_id: str
    original_size: tuple[int, int]
    already_stored: bool


@dataclass(frozen=True)
class Caller:
    """Who waits for an answer.

    Attributes:
        reply: takes the answer or the error, once, from any thread.
        is_cancelled: whether nobody waits any more.
    """

    reply: Callable[[Embedded | Exception], None]
    is_cancelled: Callable[[], bool]


class Embedder:
    """Answers requests to `embed`."""

    def __init__(
        self,
        store: EmbeddingStore,
        encode: Callable[[bytes], Embedding],
        metrics: Metrics,
        limits: Limits,
        *,
        workers: int,
        max_waiting: int,
    ) -> None:
        """Start without work.

        Args:
            store: where embeddings are looked up and put.
            encode: embeds an image, or raises `ModelCallError`.
            metrics: where lookups and encodes are counted.
            limits: what an image may cost.
            workers: how many images are encoded at once.
            max_waiting: how many requests may wait for an encode, those at work included.
        """
        self._store = store
        self._encode = encode
        self._metrics = metrics
        self._limits = limits
        self._max_waiting = max_waiting
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
        self._lock = Lock()
        self._waiting: dict[str, list[Caller]] = {}

    def close(self) -> None:
        """Wait for the work at hand, and take no more."""
        self._pool.shutdown()

    def embed(
        self, encoded: bytes | memoryview | None, image_id: str | None, caller: Caller
    ) -> None:
        """Answer a request, at once or later.

        Args:
            encoded: an image's bytes, or None to ask whether it is stored. They are not
                read after this returns.
            image_id: the image's, or None to take the digest of its bytes.
            caller: who gets the answer.

        Raises:
            BadRequestError: there is neither, or they do not belong together, or it is no
                image.
            OverloadedError: too many requests are waiting.
        """
        if image_id is not None:
            checked_image_id(image_id)
        if encoded is not None:
            image_id = self._digest(encoded, image_id)
        if image_id is None:
            raise BadRequestError("expected encoded_image, image_id or both, got neither")
        size = self._store.original_size(image_id)
        (self._metrics.store_misses if size is None else self._metrics.store_hits).increment(1)
        if size is not None:
            caller.reply(Embedded(image_id, size, already_stored=True))
        elif encoded is None:
            caller.reply(Embedded(image_id, (0, 0), already_stored=False))
        else:
            check_header(encoded, self._limits)
            self._enqueue(image_id, bytes(encoded), caller)

    def _digest(self, encoded: bytes | memoryview, image_id: str | None) -> str:
        digest = hashlib.sha256(encoded).hexdigest()
        if image_id not in (None, digest):
            raise BadRequestError(
                f"image_id is {image_id}, expected {digest}, the SHA-256 of encoded_image: "
                "send the bytes that belong to it, or leave image_id out"
            )
        return digest

    def _enqueue(self, image_id: str, encoded: bytes, caller: Caller) -> None:
        with self._lock:
            waiting = sum(map(len, self._waiting.values()))
            if waiting >= self._max_waiting:
                raise OverloadedError(
                    f"{waiting} requests are waiting for an encode, at most {self._max_waiting} "
                    "may: try again later"
                )
            if image_id in self._waiting:
                self._waiting[image_id].append(caller)
                return
            self._waiting[image_id] = [caller]
        self._pool.submit(self._work, image_id, encoded)

    def _work(self, image_id: str, encoded: bytes) -> None:
        answer: Embedded | Exception
        if callers := self._given_up(image_id):
            answer = RequestCancelledError("cancelled before the encode had begun")
        else:
            try:
                answer = self._embedded(image_id, encoded)
            except Exception as error:
                answer = error
            with self._lock:
                callers = self._waiting.pop(image_id)
        for caller in callers:
            caller.reply(answer)

    def _given_up(self, image_id: str) -> list[Caller]:
        """Return the callers of an image that none of them waits for any more."""
        with self._lock:
            if all(caller.is_cancelled() for caller in self._waiting[image_id]):
                return self._waiting.pop(image_id)
            return []

    def _embedded(self, image_id: str, encoded: bytes) -> Embedded:
        with self._store.exclusive(image_id):
            size = self._store.original_size(image_id)  # another process may have been first
            if size is None:
                embedding = self._encode(encoded)
                self._metrics.encodes.increment(1)
                self._store.put(image_id, embedding)
                size = embedding.original_size
        return Embedded(image_id, size, already_stored=False)
