"""A supervised server on the small model, its store, and clients that click all the time."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import HQSam, HQSamError, Mask
from hqsam_server import small_model
from hqsam_testing import image_files
from hqsam_testing.serve_process import Serve
from hqsam_testing.waiting import TIMEOUT_S

CLIENTS = 3


class Clicks:
    """Clients that click all the time, and the answers that they got.

    Attributes:
        right: number of masks that were right to the last bit.
        wrong: number of all other masks.
        errors: number of errors by the name of their class.
        last_error: the last of them.
    """

    def __init__(self, url: str, files: list[bytes]) -> None:
        self._url = url
        self._files = files
        self._more = threading.Condition()
        self.right = self.wrong = 0
        self.errors: Counter[str] = Counter()
        self.last_error: HQSamError | None = None
        self._over = False
        with HQSam(url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam:
            self._expected = [self._click(sam, file) for file in files]

    def _click(self, sam: HQSam, file: bytes) -> Mask:
        return sam.segment(file, points=[(150, 100)])

    def work(self, first: int) -> None:
        """Click as one client, until `stop`."""
        with HQSam(self._url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam:
            number = first
            while not self._over:
                number = (number + 1) % len(self._files)
                try:
                    mask = self._click(sam, self._files[number])
                except HQSamError as error:
                    with self._more:
                        self.errors[type(error).__name__] += 1
                        self.last_error = error
                    continue
                expected = self._expected[number].low_res_logits
                with self._more:
                    if np.array_equal(mask.low_res_logits, expected):
                        self.right += 1
                    else:
                        self.wrong += 1
                    self._more.notify_all()

    def go_on(self, count: int = 2 * CLIENTS) -> None:
        """Wait for `count` more masks that are right."""
        with self._more:
            wanted = self.right + count
            self._more.wait_for(lambda: self.wrong or self.right >= wanted, TIMEOUT_S)
            assert not self.wrong
            assert self.right >= wanted, (self.errors, self.last_error)

    def stop(self) -> None:
        self._over = True


class World:
    """A server, its store, and clients."""

    def __init__(self, server: Serve, store: Path) -> None:
        self.server = server
        self.store = store
        self.files = [image_files.png(300, 200, mark) for mark in (1, 2)]

    @contextmanager
    def clicks(self) -> Iterator[Clicks]:
        """Have clients click during the block and a little longer; all masks have to be right."""
        clicks = Clicks(self.server.grpc_url, self.files)
        with ThreadPoolExecutor(CLIENTS) as pool:
            working: list[Future[None]] = [pool.submit(clicks.work, n) for n in range(CLIENTS)]
            try:
                clicks.go_on()
                yield clicks
                clicks.go_on()
            except AssertionError:
                print(self.server.output())  # pytest shows it
                raise
            finally:
                clicks.stop()
        for future in working:
            future.result()
        assert not clicks.wrong

    def entry(self, number: int = 0) -> Path:
        """Return the file of an image's embedding."""
        digest = hashlib.sha256(self.files[number]).hexdigest()
        (path,) = self.store.glob(f"*{digest}.safetensors")
        return path


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model_repository"
    small_model.write(folder)
    return folder


@contextmanager
def servers(repository: Path, make_folder: Callable[[str], Path]) -> Iterator[Callable[..., World]]:
    """Yield what starts servers, which end with the block."""
    started: list[Serve] = []

    def start(store: Path | None = None, **options: str) -> World:
        folder = make_folder("faults")
        (folder / "temporary").mkdir()
        store = store or folder / "store"
        environment = {"HQSAM_STORE_FOLDER": str(store), **options}
        server = Serve(repository, folder / "temporary", options=environment)
        started.append(server)
        return World(server, store)

    try:
        yield start
    finally:
        for server in started:
            server.kill()


@pytest.fixture
def start(
    small_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., World]]:
    """Starts `hqsam serve` with a new store, or the given one, until the test ends."""
    with servers(small_repository, tmp_path_factory.mktemp) as start:
        yield start


@pytest.fixture(scope="package")
def world(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that tests share; each one has to leave it as it was."""
    with servers(small_repository, tmp_path_factory.mktemp) as start:
        yield start()
