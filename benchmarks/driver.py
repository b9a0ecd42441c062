"""The clients of one server, as a program that `benchmarks.compare` commands.

It runs in the environment of any checkout, so it uses only what all of their clients have:
`HQSam.open`, `segment(points=…)` and `array`, the mask in the image's pixels.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hqsam_client import HQSam

CLIENTS = 8
"""Clients that click at once, and images that they click on."""

_TIMEOUT_S = 600.0

# Between two clicks of somebody: threads of the one before no longer spin.
_PAUSE_S = 0.1


class Driver:
    """Clients that stay connected.

    Args:
        url: of the server.
        file: a JPEG; variants of it are the images.
        points: (x, y) in original pixels; a prompt takes as many of them as it needs.
    """

    def __init__(self, url: str, file: bytes, points: list[tuple[int, int]]) -> None:
        self._file = file
        self._points = points
        self._serial = time.time_ns()  # no server has seen these images
        self._open = ExitStack()
        self._clients = [
            self._open.enter_context(HQSam(url, timeout_s=_TIMEOUT_S, embed_timeout_s=_TIMEOUT_S))
            for _ in range(CLIENTS + 1)
        ]
        files = [self._new_file() for _ in range(CLIENTS)]
        self._one = [client.open(files[0]) for client in self._clients[:CLIENTS]]
        self._different = [
            client.open(file) for client, file in zip(self._clients[:CLIENTS], files, strict=True)
        ]

    def close(self) -> None:
        """Close the connections."""
        self._open.close()

    def _new_file(self) -> bytes:
        """Return the image with another digest: decoders ignore bytes after a JPEG's end."""
        self._serial += 1
        return self._file + self._serial.to_bytes(8, "big")

    def _click_s(self, image: Any, points: int) -> float:
        start = time.perf_counter()
        mask = image.segment(points=self._points[:points]).array
        elapsed = time.perf_counter() - start
        if mask.ndim != 2:
            raise RuntimeError(f"a mask has shape {mask.shape}, expected height and width")
        return elapsed

    def click(self, points: int) -> float:
        """Return the seconds of a click on one image, after a pause."""
        time.sleep(_PAUSE_S)
        return self._click_s(self._one[0], points)

    def rate(self, different: bool, seconds: float) -> float:
        """Return the clicks a second of all clients together, on one image or one each."""
        images = self._different if different else self._one
        stop = threading.Event()

        def use(image: Any) -> int:
            done = 0
            while not stop.is_set():
                self._click_s(image, points=1)
                done += 1
            return done

        with ThreadPoolExecutor(CLIENTS) as pool:
            start = time.perf_counter()
            futures = [pool.submit(use, image) for image in images]
            time.sleep(seconds)
            stop.set()
            done = sum(future.result() for future in futures)
        return done / (time.perf_counter() - start)

    def burst(self, bursts: int) -> list[float]:
        """Return the seconds of the slowest of clicks that come together after a pause, each time.

        Clients that click without a pause keep the server awake; people do not.
        """
        slowest = []
        with ThreadPoolExecutor(CLIENTS) as pool:
            for _ in range(bursts):
                time.sleep(_PAUSE_S)
                clicks = [pool.submit(self._click_s, image, 1) for image in self._different]
                slowest.append(max(click.result() for click in clicks))
        return slowest

    def embed(self) -> float:
        """Return the seconds that a new image takes, on an idle server."""
        file = self._new_file()
        start = time.perf_counter()
        self._clients[CLIENTS].open(file)
        return time.perf_counter() - start

    def click_while_embedding(self, clicks: int) -> tuple[float, float]:
        """Click while another client embeds new images without a pause.

        Returns:
            the medians of the seconds of a click and of an encode.
        """
        stop = threading.Event()
        started = threading.Event()

        def embed() -> list[float]:
            seconds = []
            while not stop.is_set():
                started.set()
                seconds.append(self.embed())
            return seconds

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(embed)
            started.wait()
            seconds = [self.click(points=1) for _ in range(clicks)]
            stop.set()
            return statistics.median(seconds), statistics.median(future.result())


def main() -> None:
    """Run each line of the input, `[name, {arguments}]`, and print what it returns, in JSON."""
    url, file, points = sys.argv[1:]
    driver = Driver(url, Path(file).read_bytes(), json.loads(points))
    try:
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            name, arguments = json.loads(line)
            print(json.dumps(getattr(driver, name)(**arguments)), flush=True)
    finally:
        driver.close()


if __name__ == "__main__":
    main()
