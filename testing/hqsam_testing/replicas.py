"""Replicas that tests kill, stop, suspend and start again, and clients that load them."""

from __future__ import annotations

import operator
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import psutil
from hqsam_client import RemoteImage
from hqsam_client.server_status import read_metrics
from hqsam_server.launcher.process import family
from numpy.typing import NDArray

from hqsam_testing.ports import free_port
from hqsam_testing.serve_process import Serve
from hqsam_testing.waiting import TIMEOUT_S, wait_until

CLICK = (20, 30)
_HOST = "127.0.0.1"


class Replica:
    """An `hqsam serve` that keeps its addresses when it is started again."""

    def __init__(self, repository: Path, temporary: Path) -> None:
        """Choose the addresses."""
        self._repository = repository
        self._temporary = temporary
        self._ports = {name: free_port() for name in ("grpc", "http", "metrics")}
        self.address = (_HOST, self._ports["grpc"])
        self._serve: Serve | None = None

    def start(self) -> None:
        """Start it with an empty store, and wait until it is ready."""
        self._temporary.mkdir(exist_ok=True)
        flags = [f"--{name}-port={port}" for name, port in self._ports.items()]
        options = {"HQSAM_STORE_PRECISION": "fp16"}
        self._serve = Serve(self._repository, self._temporary, *flags, options=options)

    def is_running(self) -> bool:
        return self._serve is not None and self._serve.process.poll() is None

    def terminate(self) -> int:
        """Tell it to end, and return the exit status."""
        assert self._serve is not None
        return self._serve.stop(signal.SIGTERM)

    def kill(self) -> None:
        """End all its processes at once, as when a machine is lost."""
        if self._serve is not None:
            self._serve.kill()

    def kill_process(self, instance: str) -> None:
        """End the process of a model's instance, such as ``segment_0_0``, once it lives."""
        serve = self._serve
        assert serve is not None
        # After `hang`, Triton may have given it up or crashed, and it is loaded again.
        wait_until(lambda: instance in serve.instances(), f"{instance} to live")
        psutil.Process(serve.instances()[instance]).kill()

    def hang(self) -> None:
        """Stop all its processes without ending them."""
        for process in self._family():
            process.suspend()

    def go_on(self) -> None:
        for process in self._family():
            process.resume()

    def _family(self) -> list[psutil.Process]:
        assert self._serve is not None
        return family(self._serve.process.pid)

    def encodes(self) -> int:
        """Return how many images it has encoded since it was started."""
        return int(read_metrics(_HOST, self._ports["metrics"], TIMEOUT_S)["encodes"])


class Load:
    """Clients that click on images without a pause, and compare every mask.

    ::

        with Load(images) as load:
            replica.kill()
            load.wait_for(100)  # more clicks
        assert load.errors == []
    """

    def __init__(self, images: Sequence[RemoteImage], clients: int = 8) -> None:
        """Click once on each image to get the expected masks; each client gets its share."""
        self.clients = clients
        shares = [images[number::clients] for number in range(clients)]
        self._rounds = [0] * clients
        self._clicks = 0
        self._ending = False
        self._news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, args=(number, share, [*map(click, share)]))
            for number, share in enumerate(shares)
        ]
        self.errors: list[BaseException] = []

    def __enter__(self) -> Load:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End after the calls that are under way."""
        self._ending = True
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        assert not any(thread.is_alive() for thread in self._threads)

    def wait_for(self, clicks: int) -> None:
        """Wait until so many more clicks were answered, or one failed."""
        with self._news:
            wanted = self._clicks + clicks
            self._wait(lambda: self._clicks >= wanted)

    def wait_for_all(self) -> None:
        """Wait until each image was clicked on once more, or a click failed."""
        with self._news:
            # The round that is under way began earlier.
            wanted = [rounds + 2 for rounds in self._rounds]
            self._wait(lambda: all(map(operator.ge, self._rounds, wanted)))

    def _wait(self, done: Callable[[], bool]) -> None:
        assert self._news.wait_for(lambda: bool(self.errors) or done(), TIMEOUT_S)

    def _run(
        self, number: int, share: Sequence[RemoteImage], expected: Sequence[NDArray[np.float32]]
    ) -> None:
        while True:
            for image, right in zip(share, expected, strict=True):
                error = None
                try:
                    np.testing.assert_allclose(click(image), right, rtol=1e-3)
                except BaseException as caught:
                    error = caught
                with self._news:
                    self._clicks += 1
                    self.errors.extend([error] if error else [])
                    self._news.notify_all()
                if self._ending or self.errors:
                    return
            with self._news:
                self._rounds[number] += 1
                self._news.notify_all()


def click(image: RemoteImage) -> NDArray[np.float32]:
    """Return the logits of a click, float32 [256, 256]."""
    return image.segment(points=[CLICK]).low_res_logits
