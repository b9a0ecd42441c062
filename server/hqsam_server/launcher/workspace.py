"""What a server owns on this machine while it lives: a folder, shared memory, a janitor."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from hqsam_server import file_lock
from hqsam_server.front.settings import FRONT_GRPC
from hqsam_server.launcher import cleanup
from hqsam_server.own_files import open_own

_LOCK = "lock"
_PREFIX = "hqsam-"
_CLAIM = re.compile(rf"(?P<prefix>{_PREFIX}[0-9a-f]{{16}}-){_LOCK}")
_JANITOR_TIMEOUT_S = 15.0


class Workspace:
    """A folder and a prefix in shared memory; all of it is removed when the server ends.

    Attributes:
        folder: the folder that Triton runs in.
        shared_memory_prefix: what the names of its shared memory start with.
        marks: environment variables for its processes.
    """

    def __init__(self) -> None:
        """Choose names; `open` creates them."""
        token = secrets.token_hex(8)
        self.folder = Path(tempfile.gettempdir()).absolute() / f"{_PREFIX}{token}"
        self.shared_memory_prefix = f"{_PREFIX}{token}-"
        self._restarts = self.folder / "restarts"
        self.marks = {cleanup.MARK: str(self.folder), "HQSAM_RESTARTS_FILE": str(self._restarts)}
        self._janitor: subprocess.Popen[bytes] | None = None
        self._claim: int | None = None

    @property
    def store(self) -> Path:
        """A folder for embeddings on tmpfs, which ends with the server."""
        return cleanup.SHARED_MEMORY / f"{self.shared_memory_prefix}store"

    def open(self) -> None:
        """Create the folder, and start the process that removes everything in the end.

        Raises:
            OSError: there is no space, no memory or no permission.
        """
        _remove_abandoned()
        # First of all: from here on nothing stays behind, whatever happens.
        self._janitor = subprocess.Popen(  # noqa: S603
            [sys.executable, "-IS", cleanup.__file__, self.folder, self.shared_memory_prefix],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._claim = _claim(self.shared_memory_prefix)
        self.folder.mkdir(mode=0o700)
        self._restarts.touch()

    def close(self) -> None:
        """End what is left of the server's processes and remove everything."""
        if self._janitor is not None and self._janitor.stdin is not None:
            self._janitor.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it goes on alone
                self._janitor.wait(_JANITOR_TIMEOUT_S)
            self._janitor = None
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def count_restart(self) -> None:
        """Count a restart of a model or of the server: one byte each, which a model reads."""
        with self._restarts.open("ab") as file:
            file.write(b"+")

    def add_environment(self, folder: Path) -> None:
        """Have a folder for packed Python environments removed in the end, if it is empty."""
        with (self.folder / cleanup.ENVIRONMENT).open("a", encoding="utf-8") as file:
            file.write(f"{folder}\n")

    def remove_shared_memory(self, used: Collection[str] = ()) -> None:
        """Remove shared memory of processes that ended, but not the parts with these names."""
        kept = {*used, f"{self.shared_memory_prefix}{_LOCK}"}
        for path in cleanup.SHARED_MEMORY.glob(f"{self.shared_memory_prefix}*"):
            # The store is a folder, and stays.
            if not path.is_dir() and path.name not in kept:
                cleanup.remove(path)


def local_servers() -> list[str]:
    """Return gRPC's names of this user's servers on this machine.

    Their processes call each other there, without a key, without TLS, and whatever their ports.
    """
    socket = FRONT_GRPC.removeprefix("unix:")
    found = Path(tempfile.gettempdir()).absolute().glob(f"{_PREFIX}{'[0-9a-f]' * 16}/{socket}")
    return sorted(f"unix:{path}" for path in found if path.stat().st_uid == os.getuid())


def _claim(shared_memory_prefix: str) -> int:
    """Lock a file in shared memory while the server lives; return its descriptor."""
    path = cleanup.SHARED_MEMORY / f"{shared_memory_prefix}{_LOCK}"
    new = path.with_suffix(".new")
    lock = open_own(new, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    file_lock.try_lock(lock)
    new.rename(path)  # only now do other servers see it, already locked
    return lock


def _remove_abandoned() -> None:
    """Remove the shared memory of this user's servers that were killed with their janitor."""
    for path in cleanup.SHARED_MEMORY.iterdir():
        name = _CLAIM.fullmatch(path.name)
        if name is None:
            continue
        try:
            lock = open_own(path, os.O_RDWR)
        except OSError:  # it is gone, or it is another user's, or no file
            continue
        with os.fdopen(lock):
            if file_lock.try_lock(lock):  # its server lives no longer
                cleanup.remove(*cleanup.SHARED_MEMORY.glob(f"{name['prefix']}*"))
