from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from hqsam_server.errors import (
    BadRequestError,
    ModelUnavailableError,
    OverloadedError,
    RequestCancelledError,
    StoreError,
)
from hqsam_server.models.caller import Caller
from hqsam_server.models.embed import Bounds, Embedded, Embedder
from hqsam_server.models.preprocess import Limits, Preprocessor
from hqsam_server.store.embedding_store import EmbeddingStore
from hqsam_server.store.entry import Embedding
from hqsam_testing import image_files
from numpy.typing import NDArray

from tests.models.fakes import Metrics

TIMEOUT_S = 60
BOUNDS = Bounds(workers=1, max_waiting=3, max_waiting_bytes=10_000_000, max_waiting_per_caller=2)


class Decoder(Preprocessor):
    """A decoder that waits for permission and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(Limits(), processes=1)
        self.given: list[bytes] = []
        self.begun: Queue[bytes] = Queue()
        self.may_go_on = threading.Event()
        self.error: Exception | None = None

    def __call__(
        self, encoded: bytes | memoryview, is_cancelled: Callable[[], bool]
    ) -> tuple[NDArray[np.float32], tuple[int, int]]:
        self.given.append(bytes(encoded))
        self.begun.put(bytes(encoded))
        waiting_s = 0.0
        while not self.may_go_on.wait(0.01):
            waiting_s += 0.01
            assert waiting_s < TIMEOUT_S
            if is_cancelled():
                raise RequestCancelledError("cancelled while the image was decoded")
        if self.error is not None:
            raise self.error
        return np.zeros((1, 3, 1024, 1024), np.float32), (40, 60)


@dataclass
class Encoder:
    """An encoder that counts."""

    count: int = 0

    def __call__(self, image: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        self.count += 1
        return image_files.embedding_arrays()


class Bench:
    """An `Embedder` on a store of its own, and what was answered."""

    def __init__(self, folder: Path, bounds: Bounds = BOUNDS) -> None:
        self.metrics = Metrics()
        self.store = EmbeddingStore(folder, "a" * 64, self.metrics.metrics)
        self.decoder = Decoder()
        self.encoder = Encoder()
        metrics = (self.metrics.metrics, self.metrics.own)
        self.embedder = Embedder(self.store, self.decoder, self.encoder, metrics, bounds)

    def ask(
        self,
        encoded: bytes | None = None,
        image_id: str | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
        name: str = "",
    ) -> Queue[Embedded | Exception]:
        """Return a queue that will hold the answer."""
        answers: Queue[Embedded | Exception] = Queue()
        self.embedder.embed(encoded, image_id, Caller(answers.put, is_cancelled, name))
        return answers


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.decoder.may_go_on.set()
    bench.embedder.close()


def digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()


def answer(answers: Queue[Embedded | Exception]) -> Embedded:
    found = answers.get(timeout=TIMEOUT_S)
    assert isinstance(found, Embedded)
    return found


def test_a_new_image_is_encoded_and_stored(bench: Bench) -> None:
    bench.decoder.may_go_on.set()
    png = image_files.png()
    assert answer(bench.ask(png)) == Embedded(digest(png), (40, 60), already_stored=False)
    assert answer(bench.ask(png)) == Embedded(digest(png), (40, 60), already_stored=True)
    assert answer(bench.ask(png, digest(png))).already_stored
    assert answer(bench.ask(image_id=digest(png))).already_stored
    assert bench.decoder.given == [png]
    assert bench.metrics["encodes_total"] == 1
    assert bench.metrics["store_hits_total"] == 3
    assert bench.metrics["store_misses_total"] == 1


def test_a_question_about_an_unknown_image_is_answered_no(bench: Bench) -> None:
    assert answer(bench.ask(image_id="0" * 64)) == Embedded("0" * 64, (0, 0), already_stored=False)
    assert bench.decoder.given == []


@pytest.mark.parametrize(
    ("encoded", "image_id", "message"),
    [
        (None, None, "got neither"),
        (None, "../../etc/passwd", "expected 64 lower-case hex digits"),
        (image_files.png(), "0" * 64, "the SHA-256 of encoded_image"),
        (b"not an image", None, "not an image"),
        (bytes(64 * 2**20 + 1), None, "67108865 bytes, expected at most 67108864"),
        (bytes(64 * 2**20 + 1), "0" * 64, "67108865 bytes, expected at most 67108864"),
    ],
)
def test_a_bad_request_is_refused_before_it_waits(
    bench: Bench, encoded: bytes | None, image_id: str | None, message: str
) -> None:
    with pytest.raises(BadRequestError, match=message):
        bench.ask(encoded, image_id)
    assert bench.decoder.given == []


def test_requests_for_the_same_image_share_one_encode(bench: Bench) -> None:
    png = image_files.png()
    first = bench.ask(png)
    bench.decoder.begun.get(timeout=TIMEOUT_S)
    second = bench.ask(png)
    bench.decoder.may_go_on.set()
    assert answer(first) == answer(second)
    assert bench.decoder.given == [png]


def test_two_servers_on_one_store_share_one_encode(tmp_path: Path) -> None:
    benches = Bench(tmp_path), Bench(tmp_path)
    png = image_files.png()
    first = benches[0].ask(png)
    second = benches[1].ask(png)
    for bench in benches:
        bench.decoder.may_go_on.set()
    assert answer(first) == answer(second)
    assert benches[0].encoder.count + benches[1].encoder.count == 1
    for bench in benches:
        bench.embedder.close()


def test_a_question_does_not_wait_behind_an_encode(bench: Bench) -> None:
    stored = image_files.png(mark=1)
    bench.store.put(digest(stored), Embedding(*image_files.embedding_arrays(), (7, 8)))
    bench.ask(image_files.png(mark=2))
    bench.decoder.begun.get(timeout=TIMEOUT_S)
    for question in (bench.ask(image_id=digest(stored)), bench.ask(stored)):
        assert question.get_nowait() == Embedded(digest(stored), (7, 8), already_stored=True)
    unknown = bench.ask(image_id="0" * 64).get_nowait()
    assert isinstance(unknown, Embedded)
    assert not unknown.already_stored


def test_a_full_queue_refuses_at_once_and_answers_all_that_wait(bench: Bench) -> None:
    waiting = [bench.ask(image_files.png(mark=mark)) for mark in (0, 1, 1)]
    for refused in (image_files.png(mark=1), image_files.png(mark=2)):
        with pytest.raises(OverloadedError, match=r"3 requests .* try again in 1 s"):
            bench.ask(refused)
    bench.decoder.may_go_on.set()
    for answers in waiting:
        assert not answer(answers).already_stored
    assert not answer(bench.ask(image_files.png(mark=2))).already_stored


def test_an_image_whose_callers_have_all_cancelled_is_not_encoded(bench: Bench) -> None:
    cancelled = threading.Event()
    busy = bench.ask(image_files.png(mark=0))
    cancelled_call = bench.ask(image_files.png(mark=1), is_cancelled=cancelled.is_set)
    also_cancelled = bench.ask(image_files.png(mark=1), is_cancelled=cancelled.is_set)
    bench.decoder.begun.get(timeout=TIMEOUT_S)
    cancelled.set()
    bench.decoder.may_go_on.set()
    answer(busy)
    for answers in (cancelled_call, also_cancelled):
        assert isinstance(answers.get(timeout=TIMEOUT_S), RequestCancelledError)
    assert bench.decoder.given == [image_files.png(mark=0)]


def test_an_image_that_one_of_two_callers_cancelled_is_still_encoded(bench: Bench) -> None:
    busy = bench.ask(image_files.png(mark=0))
    bench.ask(image_files.png(mark=1), is_cancelled=lambda: True)
    patient = bench.ask(image_files.png(mark=1))
    bench.decoder.may_go_on.set()
    answer(busy)
    assert answer(patient).image_id == digest(image_files.png(mark=1))


def broken() -> bytes:
    """Return an image whose header is fine and whose pixels are not."""
    whole = image_files.png(300, 200)
    return whole[: len(whole) // 2]


@pytest.mark.parametrize(
    "failure",
    [
        BadRequestError("the PNG image is truncated"),
        ModelUnavailableError("the model encode failed"),
        MemoryError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failed_encode_is_the_answer_and_embed_does_not_decode_the_image_itself(
    bench: Bench, failure: Exception
) -> None:
    # The image may be what killed the process that decoded it. Decoding this one would raise
    # another error.
    bench.decoder.error = failure
    bench.decoder.may_go_on.set()
    assert bench.ask(broken()).get(timeout=TIMEOUT_S) is failure
    bench.decoder.error = None
    assert not answer(bench.ask(image_files.png())).already_stored


def test_a_store_that_cannot_be_written_fails_the_one_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(image_id: str, embedding: Embedding) -> None:
        raise StoreError("no space")

    bench.decoder.may_go_on.set()
    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "put", full)
        failed = bench.ask(image_files.png()).get(timeout=TIMEOUT_S)
    assert isinstance(failed, StoreError)
    assert not answer(bench.ask(image_files.png())).already_stored


def test_callers_take_turns(bench: Bench) -> None:
    images = [image_files.png(mark=mark) for mark in range(4)]
    waiting = [bench.ask(images[0], name="a")]
    bench.decoder.begun.get(timeout=TIMEOUT_S)
    waiting += [bench.ask(images[1], name="a"), bench.ask(images[2], name="b")]
    bench.decoder.may_go_on.set()
    for answers in waiting:
        answer(answers)
    assert bench.decoder.given == [images[0], images[1], images[2]]


def test_an_image_that_waits_behind_others_of_one_caller_does_not_for_the_next(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, replace(BOUNDS, max_waiting=9, max_waiting_per_caller=9))
    images = [image_files.png(mark=mark) for mark in range(4)]
    waiting = [bench.ask(image, name="a") for image in images]
    waiting.append(bench.ask(images[3], name="b"))
    bench.decoder.may_go_on.set()
    for answers in waiting:
        answer(answers)
    assert bench.decoder.given.index(images[3]) < 3
    bench.embedder.close()


def test_a_caller_has_a_bound_and_others_have_room(bench: Bench) -> None:
    for mark in range(2):
        bench.ask(image_files.png(mark=mark), name="a")
    with pytest.raises(OverloadedError, match=r"you have 2 requests .* try again in 1 s"):
        bench.ask(image_files.png(mark=2), name="a")
    bench.decoder.may_go_on.set()
    assert answer(bench.ask(image_files.png(mark=3), name="b")).image_id


def test_the_size_of_what_waits_is_bounded(tmp_path: Path) -> None:
    size = max(len(image_files.png(mark=mark)) for mark in range(6))
    bounds = Bounds(2, max_waiting=8, max_waiting_bytes=size * 4, max_waiting_per_caller=4)
    bench = Bench(tmp_path, bounds)
    waiting = [bench.ask(image_files.png(mark=mark), name="a") for mark in range(2)]
    with pytest.raises(OverloadedError, match=rf"at most 4 of {2 * size} bytes"):
        bench.ask(image_files.png(mark=2), name="a")
    waiting += [bench.ask(image_files.png(mark=mark), name="b") for mark in (3, 4)]
    with pytest.raises(OverloadedError, match=rf"there are 4 .* at most 8 of {4 * size} bytes"):
        bench.ask(image_files.png(mark=5), name="c")
    bench.decoder.may_go_on.set()
    for answers in waiting:
        answer(answers)
    bench.embedder.close()


def test_requests_that_were_cancelled_make_room(bench: Bench) -> None:
    cancelled = threading.Event()
    busy = bench.ask(image_files.png(mark=0))
    bench.decoder.begun.get(timeout=TIMEOUT_S)
    given_up = [
        bench.ask(image_files.png(mark=mark), is_cancelled=cancelled.is_set) for mark in (1, 2)
    ]
    cancelled.set()
    patient = bench.ask(image_files.png(mark=3))
    for answers in given_up:
        assert isinstance(answers.get(timeout=TIMEOUT_S), RequestCancelledError)
    bench.decoder.may_go_on.set()
    assert answer(busy) != answer(patient)


def test_a_decode_that_nobody_waits_for_ends(bench: Bench) -> None:
    cancelled = threading.Event()
    given_up = bench.ask(image_files.png(), is_cancelled=cancelled.is_set)
    bench.decoder.begun.get(timeout=TIMEOUT_S)
    cancelled.set()
    assert isinstance(given_up.get(timeout=TIMEOUT_S), RequestCancelledError)
    assert bench.encoder.count == 0


def test_who_asks_for_an_image_that_was_just_given_up_gets_it(bench: Bench) -> None:
    png = image_files.png()
    cancelled = threading.Event()
    joined: list[Queue[Embedded | Exception]] = []

    def is_cancelled() -> bool:
        # Asked once more after the decoding has ended: at that moment somebody else comes.
        if cancelled.is_set() and not joined:
            joined.append(Queue())
            bench.embedder.embed(png, None, Caller(joined[0].put, lambda: False))
        return cancelled.is_set()

    given_up = bench.ask(png, is_cancelled=is_cancelled)
    bench.decoder.begun.get(timeout=TIMEOUT_S)
    cancelled.set()
    bench.decoder.may_go_on.set()
    given_up.get(timeout=TIMEOUT_S)
    assert answer(joined[0]).image_id == digest(png)


def test_what_waits_when_the_server_stops_is_answered(bench: Bench) -> None:
    busy = bench.ask(image_files.png(mark=0))
    bench.decoder.begun.get(timeout=TIMEOUT_S)
    waiting = bench.ask(image_files.png(mark=1))
    bench.decoder.may_go_on.set()
    bench.embedder.close()
    answer(busy)
    assert isinstance(waiting.get(timeout=TIMEOUT_S), (ModelUnavailableError, Embedded))
    with pytest.raises(ModelUnavailableError, match="the server is stopping"):
        bench.ask(image_files.png(mark=2))


def test_what_waits_and_what_runs_is_counted(bench: Bench) -> None:
    waiting = [bench.ask(image_files.png(mark=mark)) for mark in range(3)]
    assert (bench.metrics["encodes_running"], bench.metrics["encodes_waiting"]) == (1, 2)
    bench.decoder.may_go_on.set()
    for answers in waiting:
        answer(answers)
    assert bench.metrics["encodes_waiting"] == 0
