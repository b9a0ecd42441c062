"""The embedding store: a folder of files, one for each image, shared by processes.

An entry is a file (`hqsam_server.store.entry`) named ``<producer>-<image_id>.safetensors``: the
digest of what computed it (`hqsam_server.store.producer`) and the digest of the image. So neither
other weights, nor another precision, nor another image is ever answered with it.

- Writers take turns (a lock on ``.write.lock``), write to a temporary name of their own and rename.
  Readers need no lock: they see whole entries or none. A writer holds a lock on its temporary file;
  another one removes the temporary files that nobody holds: their writer died.
- No lock is waited for without a limit, as its holder may be stopped. A process that does not get
  one goes on without it: an image is encoded twice, or the bound is exceeded for a moment.
- The folder may hold other files. Only regular files of this user with the exact names of entries,
  temporary files and locks are ever counted, read, written or removed, and no link is followed.
  Entries are readable by this user only.
- Reading an entry sets its modification time; the least recently read entry is evicted first. An
  entry from the future, after the clock was set back, is evicted before all others, as it would
  otherwise stay for ever.
- A damaged entry is a miss, and is removed. An entry that cannot be read for another reason, such
  as too many open files, stays, and the request fails.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from hqsam_client.contract import IMAGE_ID_LENGTH

from hqsam_server import file_lock
from hqsam_server.errors import BadRequestError, StoreError
from hqsam_server.models.metrics import Metrics
from hqsam_server.own_files import ForeignFileError, is_own, open_own
from hqsam_server.store.entry import Embedding, dump, load, load_size, max_file_bytes

# Change it whenever the same image and producer give other embeddings, or files another layout.
_FORMAT = "hqsam-embedding-3"
_SUFFIX = ".safetensors"
_TEMPORARY = ".writing"
_OWN_NAME = re.compile(
    rf"[0-9a-f]{{64}}-[0-9a-f]{{{IMAGE_ID_LENGTH}}}"
    rf"(?:(?P<entry>{re.escape(_SUFFIX)})|\.[0-9a-f]{{16}}{re.escape(_TEMPORARY)})"
)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
# A write takes less than a second.
_WRITE_LOCK_S = 5.0
# An encode may take longer, on busy processors; the image is then encoded twice.
_ENCODE_LOCK_S = 20.0
# How far apart the clocks of machines that share a folder may be.
_SKEW_NS = 60 * 10**9
_IMAGE_ID = re.compile(rf"[0-9a-f]{{{IMAGE_ID_LENGTH}}}")
_T = TypeVar("_T")


def checked_image_id(image_id: str) -> str:
    """Return an `image_id` that is safe as a file name.

    Raises:
        BadRequestError: it is not 64 lower-case hex digits.
    """
    if not _IMAGE_ID.fullmatch(image_id):
        raise BadRequestError(
            f"image_id is {image_id[:80]!r}, expected {IMAGE_ID_LENGTH} lower-case hex digits: "
            "the SHA-256 of the encoded image"
        )
    return image_id


class Entry(NamedTuple):
    """An entry's file, its size, and when it was last used (0 if that is in the future)."""

    used_ns: int
    bytes: int
    path: Path


def entries(folder: Path) -> list[Entry]:
    """Return the entries in a store's folder; other processes may remove some meanwhile."""
    latest_ns = time.time_ns() + _SKEW_NS
    found = []
    for path, status in _own_files(folder, temporary=False):
        used_ns = status.st_mtime_ns if status.st_mtime_ns <= latest_ns else 0
        found.append(Entry(used_ns, status.st_size, path))
    return found


def _own_files(folder: Path, *, temporary: bool) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the store's own files in a folder: its entries, or its temporary files."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as files:
        for file in files:
            name = _OWN_NAME.fullmatch(file.name)
            if name is not None and (name["entry"] is None) == temporary:
                with suppress(FileNotFoundError):
                    status = file.stat(follow_symlinks=False)
                    if is_own(status):
                        yield Path(file.path), status


class EmbeddingStore:
    """Embeddings in a folder, bounded in bytes."""

    def __init__(
        self,
        folder: Path,
        producer: str,
        metrics: Metrics,
        *,
        max_bytes: int | None = None,
        half_precision: bool = False,
    ) -> None:
        """Open a store, and make its folder if it is missing.

        Args:
            folder: where the entries are; other processes may use it at the same time.
            producer: digest of what computes the embeddings, 64 hex digits.
            metrics: where evictions, bytes and entries are reported.
            max_bytes: bound on the size of all entries together, those of other producers
                included; None for no bound, as in a process that only reads.
            half_precision: write entries in fp16; entries of both kinds are read.

        Raises:
            StoreError: the folder cannot be used, or there is no room for a single entry.
        """
        self._folder = folder
        self._producer = producer
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._half_precision = half_precision
        self._stuck: set[str] = set()
        entry_bytes = max_file_bytes(half_precision)
        if max_bytes is not None and max_bytes < entry_bytes:
            raise StoreError(
                f"the embedding store may take {max_bytes} bytes, expected at least the "
                f"{entry_bytes} of one entry: raise store_bytes, or free space for {folder}"
            )
        try:
            with self._locked(".write.lock", _WRITE_LOCK_S):
                self._remove_left()
                self._report()
        except OSError as error:
            raise self._unusable("written", error) from error

    def get(self, image_id: str) -> Embedding | None:
        """Return an entry, or None if it is not stored. It becomes the most recently used.

        Raises:
            BadRequestError: `image_id` is malformed.
            StoreError: the entry exists and cannot be read; it stays.
        """
        return self._read(image_id, load)

    def original_size(self, image_id: str) -> tuple[int, int] | None:
        """Return (height, width) of an entry's image, or None; reads only the entry's header.

        The entry becomes the most recently used. Raises the errors of `get`.
        """
        return self._read(image_id, load_size)

    def put(self, image_id: str, embedding: Embedding) -> None:
        """Write an entry; evicts the least recently used ones if it needs room.

        Raises:
            BadRequestError: `image_id` is malformed.
            StoreError: it cannot be written, even after all other entries were evicted.
        """
        path = self._path(image_id)
        content = dump(embedding, self._key(image_id), self._half_precision)
        try:
            with self._locked(".write.lock", _WRITE_LOCK_S):
                self._write(path, content)
                self._report()
        except OSError as error:
            raise self._unusable("written", error) from error

    @contextmanager
    def exclusive(self, image_id: str) -> Iterator[None]:
        """Hold the exclusive right, among all processes, to encode this image.

        Images share 256 locks, so that the number of lock files is bounded. The right is not
        exclusive if its holder keeps it for too long.

        Raises:
            StoreError: the lock cannot be taken.
        """
        with ExitStack() as stack:
            name = f".key-{int(image_id[:2], 16)}.lock"
            try:
                stack.enter_context(self._locked(name, _ENCODE_LOCK_S))
            except OSError as error:
                raise self._unusable("written", error) from error
            yield

    def _path(self, image_id: str) -> Path:
        name = f"{self._producer}-{checked_image_id(image_id)}{_SUFFIX}"
        return self._folder / name

    @contextmanager
    def _locked(self, name: str, timeout_s: float) -> Iterator[None]:
        """Hold a lock; go on without it if its holder keeps it for too long.

        Where that has happened, a lock is not waited for again until it was free once.
        """
        with ExitStack() as stack:
            patience_s = 0.0 if name in self._stuck else timeout_s
            try:
                stack.enter_context(file_lock.locked(self._folder / name, patience_s))
                self._stuck.discard(name)
            except TimeoutError:
                self._stuck.add(name)
            yield

    def _read(self, image_id: str, load: Callable[[BinaryIO, dict[str, str]], _T]) -> _T | None:
        path = self._path(image_id)
        try:
            with os.fdopen(open_own(path, os.O_RDONLY), "rb", buffering=0) as file:
                found = load(file, self._key(image_id))
                with suppress(OSError):  # a file system that is read-only
                    os.utime(file.fileno())
        except (FileNotFoundError, NotADirectoryError, ForeignFileError):
            return None
        except OSError as error:
            raise self._unusable("read", error) from error
        except ValueError:  # damaged
            with suppress(OSError):
                path.unlink()
                self._report()
            return None
        return found

    def _key(self, image_id: str) -> dict[str, str]:
        return {"format": _FORMAT, "producer": self._producer, "image_id": image_id}

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file in one step; the caller holds the lock, if it could be had."""
        self._remove_left()
        if self._max_bytes is not None:
            self._evict(self._max_bytes - len(content), but=path)
        temporary = path.with_suffix(f".{secrets.token_hex(8)}{_TEMPORARY}")
        while True:
            try:
                with os.fdopen(open_own(temporary, _NEW), "wb") as file:
                    # Nobody else has it yet; `_remove_left` spares what somebody holds.
                    file_lock.try_lock(file.fileno())
                    file.write(content)
                    file.flush()
                    # Otherwise a crash of the machine may leave half a file under its final name.
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
        """Remove the temporary files of dead writers: those that nobody holds."""
        for left, _ in _own_files(self._folder, temporary=True):
            # It may have been renamed, or removed, meanwhile.
            with suppress(OSError), os.fdopen(open_own(left, os.O_RDWR), "rb") as file:
                if file_lock.try_lock(file.fileno()):
                    left.unlink()

    def _entries(self) -> list[Entry]:
        """Return the entries of all producers, the least recently used first."""
        return sorted(entries(self._folder), key=lambda entry: entry.used_ns)

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

    def _unusable(self, done: str, error: OSError) -> StoreError:
        advice = "free space there, or set store_folder and store_bytes"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            advice = "raise the limit on open files"
        elif done == "read":
            advice = "see to its files and permissions, or set store_folder"
        return StoreError(
            f"the embedding store in {self._folder} cannot be {done}: "
            f"{error.strerror or error}; {advice}"
        )
