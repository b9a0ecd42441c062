"""Image files from browsers, read in processes that have a budget of time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from hqsam_client.decoding.pool import Budget, Decoded, Decoders
from hqsam_client.shared.upload import Upload, prepare

from hqsam_ui import pictures

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
        values, _ = await self._run(encoded, None)
        height, width = values["size"]
        return Upload(encoded, values["image_id"], (height, width))

    async def picture(self, kind: Literal["shown", "thumbnail"], encoded: bytes) -> bytes:
        """Return a JPEG of a file, as the function of that name in `pictures` draws it."""
        return (await self._run(encoded, kind)).content

    async def _run(self, encoded: bytes, kind: str | None) -> Decoded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, self._decoders.run, encoded, {"picture": kind}
        )

    def close(self) -> None:
        """End the processes when they are done."""
        self._threads.shutdown()
        self._decoders.close()


def read(encoded: bytes, options: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Read a file in such a process: its ID and size, or the picture that is asked for."""
    if options["picture"] is not None:
        return {}, _PICTURES[options["picture"]](encoded)
    upload = prepare(encoded)
    return {"image_id": upload.image_id, "size": upload.size}, b""


_PICTURES = {"shown": pictures.shown, "thumbnail": pictures.thumbnail}
