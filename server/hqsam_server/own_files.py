"""Opens files in folders that may hold files, links and pipes of others."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class ForeignFileError(OSError):
    """It is a link, no regular file, or another user's; it is left alone."""


def open_own(path: Path, flags: int) -> int:
    """Open a regular file of this user; return its descriptor. A new one is for this user only.

    No link is followed, and a named pipe does not block.

    Args:
        path: the file.
        flags: those of `os.open`.

    Raises:
        ForeignFileError: it is something else, or another user's.
        OSError: it cannot be opened.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # A link; a pipe that nobody reads, or a socket; a folder.
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _foreign(path) from error
        raise
    if not is_own(os.fstat(file)):
        os.close(file)
        raise _foreign(path)
    return file


def is_own(status: os.stat_result) -> bool:
    """Tell whether an `lstat` or `fstat` is that of a regular file of this user."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _foreign(path: Path) -> ForeignFileError:
    return ForeignFileError(errno.EPERM, "it is a link, no file, or another user's", str(path))
