"""The embedding store: a folder of files, one for each image, shared by processes.

An entry is a file (`hqsam_server.store.entry`) named ``<fingerprint>-<image_id>.safetensors``:
the fingerprint of the weights and the digest of the image, so that neither new weights
nor another image are ever answered with old embeddings.

- Writers take turns (a lock on ``.write.lock``), write to a temporary name and rename,
  so that readers, who need no lock, see whole entries or none. A temporary file that
  a writer finds in its turn belongs to one that died, and is removed.
- Reading an entry sets its modification time; the least recently read goes first. One from
  the future, where the clock was set back, goes before them: it would stay for ever.
- An entry that cannot be read or is not what its name says is a miss, and is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from hqsam_client.contract import IMAGE_ID_LENGTH

from hqsam_server.errors import BadRequestError, StoreError
from hqsam_server.models.metrics import Metrics
from hqsam_server.store.entry import Embedding, dump, load, load_size, max_file_bytes

# Changes whenever the same image and weights are to give other embeddings, or the file
# another layout.
_FORMAT = "hqsam-embedding-2"
_SUFFIX = ".safetensors"
_TEMPORARY = ".writing"
# How far the clocks of machines that share a folder may be apart.
_SKEW_NS = 60 * 10**9
_IMAGE_ID = re.compile(rf"[0-9a-f]{{{IMAGE_ID_LENGTH}}}")
_T = TypeVar("_T")


def checked_image_id(image_id: str) -> str:
    """Return an `image_id` that is safe as a file name.

    Raises:
        BadRequestError: it is anything but 64 lower-case hex digits.
    """
    if not _IMAGE_ID.fullmatch(image_id):
        raise BadRequestError(
            f"image_id is {image_id[:80]!r}, expected {IMAGE_ID_LENGTH} lower-case hex digits: "
            "the SHA-256 of the encoded image"
        )
    return image_id


class EmbeddingStore:
    """Embeddings in a folder, bounded in bytes."""

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        metrics: Metrics,
        *,
        max_bytes: int | None = None,
        half_precision: bool = False,
    ) -> None:
        """Open a store, making its folder where it is missing.

        Args:
            folder: where the entries are; other processes may use it at the same time.
            fingerprint: of the weights that the embeddings are from.
            metrics: where evictions, bytes and entries are reported.
            max_bytes: what all entries together may take, of whatever weights; None for
                no bound, as fits a process that only reads.
            half_precision: write entries in fp16; entries of both kinds are read.

        Raises:
            StoreError: the folder cannot be used, or not one entry would fit.
        """
        self._folder = folder
        self._fingerprint = fingerprint
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._half_precision = half_precision
        self._last: tuple[tuple[Path, int, int], Embedding] | None = None
        entry_bytes = max_file_bytes(half_precision)
        if max_bytes is not None and max_bytes < entry_bytes:
            raise StoreError(
                f"the embedding store may take {max_bytes} bytes, expected at least the "
                f"{entry_bytes} of one entry: raise store_bytes, or free space for {folder}"
            )
        try:
            with self._locked(".write.lock"):
                self._remove_left()
                self._report()
        except OSError as error:
            raise self._unusable(error) from error

    def get(self, image_id: str) -> Embedding | None:
        """Return an entry, which thereby becomes the most recently used, or None.

        Raises:
            BadRequestError: `image_id` is malformed.
        """
        return self._read(image_id, self._load)

    def original_size(self, image_id: str) -> tuple[int, int] | None:
        """Return (height, width) of an entry's image, reading little more, or None.

        The entry becomes the most recently used.

        Raises:
            BadRequestError: `image_id` is malformed.
        """
        return self._read(image_id, load_size)

    def put(self, image_id: str, embedding: Embedding) -> None:
        """Write an entry, after removing the least recently used ones if it needs room.

        Raises:
            BadRequestError: `image_id` is malformed.
            StoreError: it cannot be written, though all other entries were removed.
        """
        path = self._path(image_id)
        content = dump(embedding, self._key(image_id), self._half_precision)
        try:
            with self._locked(".write.lock"):
                self._write(path, content)
                self._report()
        except OSError as error:
            raise self._unusable(error) from error

    @contextmanager
    def exclusive(self, image_id: str) -> Iterator[None]:
        """Hold the only right, among all processes, to encode this image.

        Some images share a lock, so that there is a bounded number of lock files.

        Raises:
            StoreError: the lock cannot be taken.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locked(f".key-{int(image_id[:2], 16)}.lock"))
            except OSError as error:
                raise self._unusable(error) from error
            yield

    def _path(self, image_id: str) -> Path:
        name = f"{self._fingerprint}-{checked_image_id(image_id)}{_SUFFIX}"
        return self._folder / name

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        # The folder may have been removed under a running server.
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / name).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released by closing, and by dying
            yield

    def _read(self, image_id: str, load: Callable[[Path, dict[str, str]], _T]) -> _T | None:
        path = self._path(image_id)
        try:
            found = load(path, self._key(image_id))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            with suppress(OSError):
                path.unlink()
                self._report()
            return None
        with suppress(OSError):  # evicted meanwhile, or a folder that is read-only
            os.utime(path)
        return found

    def _load(self, path: Path, key: dict[str, str]) -> Embedding:
        """Load an entry, or return it as it is if it is that of the last call."""
        status = path.stat()
        file = (path, status.st_ino, status.st_size)
        if self._last is None or self._last[0] != file:
            self._last = (file, load(path, key))
        return self._last[1]

    def _key(self, image_id: str) -> dict[str, str]:
        return {"format": _FORMAT, "fingerprint": self._fingerprint, "image_id": image_id}

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file in one step; the caller holds the lock."""
        self._remove_left()
        if self._max_bytes is not None:
            self._evict(self._max_bytes - len(content), but=path)
        temporary = path.with_suffix(_TEMPORARY)
        while True:
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    # Else a crash of the machine may leave a whole name on half a file.
                    os.fsync(file.fileno())
                temporary.replace(path)
                return
            except OSError as error:
                temporary.unlink(missing_ok=True)
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                others = sum(entry.bytes for entry in self._entries() if entry.path != path)
                if not (full and self._evict(others - 1, but=path)):
                    raise

    def _remove_left(self) -> None:
        """Remove what dead writers left; the caller holds the lock."""
        for left in self._folder.glob(f"*{_TEMPORARY}"):
            left.unlink(missing_ok=True)

    def _entries(self) -> list[_Entry]:
        """Return the entries of all weights, the least recently used first."""
        latest_ns = time.time_ns() + _SKEW_NS
        found = []
        with os.scandir(self._folder) as files:
            for file in files:
                if file.name.endswith(_SUFFIX):
                    with suppress(FileNotFoundError):
                        status = file.stat()
                        used_ns = status.st_mtime_ns if status.st_mtime_ns <= latest_ns else 0
                        found.append(_Entry(used_ns, status.st_size, Path(file.path)))
        return sorted(found, key=lambda entry: entry.used_ns)

    def _evict(self, max_bytes: int, but: Path) -> int:
        """Remove the least recently used of the other entries until they fit; return how many."""
        others = [entry for entry in self._entries() if entry.path != but]
        used = sum(entry.bytes for entry in others)
        evicted = 0
        for entry in others:
            if used <= max_bytes:
                break
            entry.path.unlink(missing_ok=True)
            used -= entry.bytes
            evicted += 1
        self._metrics.store_evictions.increment(evicted)
        return evicted

    def _report(self) -> None:
        entries = self._entries()
        self._metrics.store_bytes.set(sum(entry.bytes for entry in entries))
        self._metrics.store_entries.set(len(entries))

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(
            f"the embedding store in {self._folder} cannot be written: "
            f"{error.strerror or error}; free space there, or set store_folder and store_bytes"
        )


class _Entry(NamedTuple):
    used_ns: int
    bytes: int
    path: Path
