"""Image files from browsers, read in processes that have a budget of time and memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from hqsam_client.decoding.pool import Budget, Decoders
from hqsam_client.shared.upload import Upload, prepare
from PIL import Image

PROCESSES = 2
"""Files that are read at once, so that one that takes long does not hold up the next one."""

BUDGET = Budget(cpu_s=10, memory_bytes=2 * 2**30)


class ImageFiles:
    """Reads image files; errors are those of `Decoders.run`."""

    def __init__(self) -> None:
        """Prepare the processes; none is started yet."""
        self._decoders = Decoders(f"{__name__}:{read.__name__}", PROCESSES, BUDGET)
        # Its own threads: files that wait must not take those of the event loop.
        self._threads = ThreadPoolExecutor(PROCESSES)

    async def open(self, encoded: bytes) -> Upload:
        """Return what the server gets to see of a file, as `prepare` does."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._open, encoded)

    def _open(self, encoded: bytes) -> Upload:
        height, width = self._decoders.run(encoded, {"pixels": False}).values["size"]
        return Upload(encoded, hashlib.sha256(encoded).hexdigest(), (height, width))

    def full_image(self, encoded: bytes) -> Image.Image:
        """Return the upright image of a file in mode RGB, original pixels."""
        values, pixels = self._decoders.run(encoded, {"pixels": True})
        height, width = values["size"]
        return Image.frombytes("RGB", (width, height), pixels)

    def close(self) -> None:
        """End the processes when they are done."""
        self._threads.shutdown()
        self._decoders.close()


def read(encoded: bytes, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Read a file in such a process: its size, and the pixels if they are wanted."""
    upload = prepare(encoded)
    pixels = np.asarray(upload.full_image()) if options["pixels"] else b""
    return {"size": upload.size}, pixels
