"""A folder of images, with the work on each image beside it.

Beside `photo.jpg` lies `photo.jpg.hqsam.json`, which the page writes and reads; the classes of
all images are in `classes.hqsam.json`. Files are replaced at once, so a crash leaves the old or
the new one. A write says which revision it replaces, so two people do not overwrite each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import threading
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from hqsam_client import OptionError
from hqsam_client.image_files import IMAGE_ENDINGS

from hqsam_ui.errors import PageError

WORK_ENDING = ".hqsam.json"
CLASSES = "classes" + WORK_ENDING
NOTHING = "none"
"""The revision of a file that does not exist."""


class Folder:
    """The folder that the page works on.

    Args:
        path: the folder; subfolders count, hidden ones and links out of it do not.

    Raises:
        OptionError: it is not a folder that can be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
            raise OptionError(f"{path} is not a folder that can be read: give a folder of images")
        self._root = path.resolve()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self._root.name

    def images(self) -> list[dict[str, Any]]:
        """Return name, bytes, objects and done of each image, in natural order."""
        found = []
        for folder, folders, files in os.walk(self._root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                relative = (Path(folder) / name).relative_to(self._root).as_posix()
                with suppress(PageError):
                    found.append(self._summary(relative, self._image(relative)))
        return sorted(found, key=lambda image: _natural(image["name"]))

    def read(self, name: str) -> bytes:
        """Return an image file.

        Raises:
            PageError: there is none of that name, or it cannot be read.
        """
        try:
            return self._image(name).read_bytes()
        except OSError as error:
            raise PageError(404, "file", f"{name} cannot be read: {error.strerror}") from error

    def load(self, name: str) -> tuple[bytes, str]:
        """Return the work on an image, or the classes, and its revision; see `NOTHING`."""
        return self._load(self._beside(name))

    def save(self, name: str, content: bytes, revision: str) -> str:
        """Replace the work on an image, or the classes, and return its new revision.

        Args:
            name: of the image; `CLASSES` for the classes.
            content: JSON.
            revision: the one that is replaced; "*" replaces any.

        Raises:
            PageError: "changed": it has another revision; "not-saved": it cannot be written.
        """
        path = self._beside(name)
        with self._lock:
            if revision != "*" and self._load(path)[1] != revision:
                raise PageError(
                    409,
                    "changed",
                    f"the work on {name} was changed elsewhere, in another tab or by someone "
                    "else: reload the page to see it, or try again to replace it",
                )
            try:
                _replace(path, content)
            except OSError as error:
                raise PageError(
                    507, "not-saved", f"{path.name} cannot be written: {error.strerror}"
                ) from error
        return _revision(content)

    def _image(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        path = self._root.joinpath(*parts)
        if (
            parts
            and not any(part.startswith((".", "/")) or "\0" in part for part in parts)
            and path.suffix.lower() in IMAGE_ENDINGS
            and path.is_file()
            and path.resolve().is_relative_to(self._root)
        ):
            return path
        raise PageError(404, "file", f"the folder has no image {name!r}")

    def _beside(self, name: str) -> Path:
        if name == CLASSES:
            return self._root / CLASSES
        path = self._image(name)
        return path.with_name(path.name + WORK_ENDING)

    def _summary(self, name: str, path: Path) -> dict[str, Any]:
        summary = {"name": name, "bytes": path.stat().st_size, "objects": 0, "done": False}
        with suppress(OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
            work = json.loads(path.with_name(path.name + WORK_ENDING).read_bytes())
            summary |= {
                "objects": sum(not each.get("found") for each in work["objects"]),
                "done": work.get("done") is True,
            }
        return summary

    @staticmethod
    def _load(path: Path) -> tuple[bytes, str]:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return b"null", NOTHING
        except OSError as error:
            raise PageError(500, "file", f"{path.name} cannot be read: {error.strerror}") from error
        return content, _revision(content)


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's files are private; work is as readable as any other new file.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _revision(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that puts image 2 before image 10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
