"""Image files from browsers, read in processes that have a budget of time and memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from hqsam_client.decoding.pool import Budget, Decoded, Decoders
from hqsam_client.image_files import Percentiles, ValueRange
from hqsam_client.shared.upload import Upload, prepare

from hqsam_ui import pictures

PROCESSES = 2
"""Files that are read at once, so that one that takes long does not hold up the next one."""

BUDGET = Budget(cpu_s=10, memory_bytes=2 * 2**30)


class Opened(NamedTuple):
    """A file that was read.

    Attributes:
        upload: what the server gets to see of it: the file, or its pixels.
        sha256: of the file, 64 lower-case hex digits.
    """

    upload: Upload
    sha256: str


class ImageFiles:
    """Reads image files; errors are those of `Decoders.run`."""

    def __init__(self, value_range: ValueRange | None = None) -> None:
        """Prepare the processes; none is started yet.

        Args:
            value_range: as in `HQSam.open`, for all files.
        """
        self._value_range = _sent(value_range)
        self._decoders = Decoders(f"{__name__}:{read.__name__}", PROCESSES, BUDGET)
        # Its own threads: files that wait must not take those of the event loop.
        self._threads = ThreadPoolExecutor(PROCESSES)

    async def open(self, encoded: bytes) -> Opened:
        """Return what the server gets to see of a file, as `prepare` does."""
        values, pixels = await self._run(encoded, None)
        height, width = values["size"]
        upload = Upload(pixels or encoded, values["image_id"], (height, width), values["is_shrunk"])
        return Opened(upload, values["sha256"])

    async def picture(self, kind: Literal["shown", "thumbnail"], encoded: bytes) -> bytes:
        """Return a JPEG of a file, as the function of that name in `pictures` draws it."""
        return (await self._run(encoded, kind)).content

    async def _run(self, encoded: bytes, kind: str | None) -> Decoded:
        loop = asyncio.get_running_loop()
        options = {"picture": kind, "value_range": self._value_range}
        return await loop.run_in_executor(self._threads, self._decoders.run, encoded, options)

    def close(self) -> None:
        """End the processes when they are done."""
        self._threads.shutdown()
        self._decoders.close()


def read(encoded: bytes, options: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Read a file in such a process: what the server gets of it, or the picture that is asked for.

    What the server gets is empty where it is the file itself.
    """
    value_range = _received(options["value_range"])
    if options["picture"] is not None:
        return {}, _PICTURES[options["picture"]](encoded, value_range)
    upload = prepare(encoded, value_range=value_range)
    is_file = upload.encoded == encoded
    values = {
        "image_id": upload.image_id,
        "size": upload.size,
        "is_shrunk": upload.is_shrunk,
        "sha256": upload.image_id if is_file else hashlib.sha256(encoded).hexdigest(),
    }
    return values, b"" if is_file else upload.encoded


def _sent(value_range: ValueRange | None) -> dict[str, Any] | None:
    """Return a range as the processes are told it."""
    if value_range is None:
        return None
    if isinstance(value_range, Percentiles):
        return {"percentiles": [value_range.low, value_range.high]}
    return {"values": list(value_range)}


def _received(sent: Mapping[str, Any] | None) -> ValueRange | None:
    if sent is None:
        return None
    if "percentiles" in sent:
        return Percentiles(*sent["percentiles"])
    low, high = sent["values"]
    return low, high


_PICTURES = {"shown": pictures.shown, "thumbnail": pictures.thumbnail}
