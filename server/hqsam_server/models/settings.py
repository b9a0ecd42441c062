"""Options of the Python models, from their config.pbtxt and from the environment.

Every option is a parameter in the config.pbtxt of the models that use it, which documents its
default. An environment variable overrides it in all models: ``HQSAM_`` and the name in capitals,
such as ``HQSAM_STORE_FOLDER``.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from hqsam_server.errors import ServingError, StoreError
from hqsam_server.models.embed import Bounds
from hqsam_server.models.metrics import Metrics
from hqsam_server.models.preprocess import Limits
from hqsam_server.models.prompt_checks import PromptLimits
from hqsam_server.models.segment import Limits as SegmentLimits
from hqsam_server.store.embedding_store import EmbeddingStore, entries
from hqsam_server.store.producer import producer

AUTO = "auto"
"""`store_folder`: on tmpfs if there is one. `store_bytes`: a quarter of the free space.
`resident_bytes`: a sixteenth of the free memory. `encode_workers`: by the number of processors."""

_MOST_NICE = 19


def text(parameters: Mapping[str, str], name: str) -> str:
    """Return an option as text.

    Raises:
        ServingError: it is neither in the environment nor in the parameters.
    """
    value = os.environ.get(f"HQSAM_{name.upper()}", parameters.get(name))
    if value is None:
        raise ServingError(f"the option {name} is missing from the model's config.pbtxt")
    return value


def number(parameters: Mapping[str, str], name: str) -> int:
    """Return an option that is a whole number above zero.

    Raises:
        ServingError: it is missing, or not such a number.
    """
    value = text(parameters, name)
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ServingError(f"the option {name} is {value!r}, expected a whole number above 0")
    return int(value)


def niceness(parameters: Mapping[str, str]) -> int:
    """Return how far a model's processes give way to others, from 0 to 19.

    It is 0 for a model whose parameters do not have the option, whatever the environment says.

    Raises:
        ServingError: it is not such a number.
    """
    value = text(parameters, "nice") if "nice" in parameters else "0"
    if not (value.isascii() and value.isdigit() and int(value) <= _MOST_NICE):
        raise ServingError(
            f"the option nice is {value!r}, expected a whole number from 0 to {_MOST_NICE}"
        )
    return int(value)


def limits(parameters: Mapping[str, str]) -> Limits:
    """Return the limits on an image."""
    return Limits(
        number(parameters, "max_bytes"),
        number(parameters, "max_pixels"),
        number(parameters, "decode_seconds"),
        number(parameters, "decode_bytes"),
    )


def bounds(parameters: Mapping[str, str]) -> Bounds:
    """Return how many requests to `embed` may wait, and how many images are in progress at once.

    By default there is one for each processor, and there are three at least: one image is decoded
    and another one encoded, and both may be one caller's.
    """
    if text(parameters, "encode_workers") == AUTO:
        workers = max(3, len(os.sched_getaffinity(0)))
    else:
        workers = number(parameters, "encode_workers")
    return Bounds(
        workers,
        number(parameters, "max_waiting"),
        number(parameters, "max_waiting_bytes"),
        number(parameters, "max_waiting_per_caller"),
    )


def segment_limits(parameters: Mapping[str, str]) -> SegmentLimits:
    """Return the limits of `segment`."""
    return SegmentLimits(
        PromptLimits(number(parameters, "max_prompts"), number(parameters, "max_points")),
        number(parameters, "max_open_requests"),
        number(parameters, "max_open_bytes"),
        _resident_bytes(parameters),
    )


def open_store(parameters: Mapping[str, str], repository: Path, metrics: Metrics) -> EmbeddingStore:
    """Open the embedding store that the options describe, for reading and writing.

    Args:
        parameters: those of the model's config.pbtxt.
        repository: the model repository, whose weights are part of each entry's key.
        metrics: where the store reports.

    Raises:
        ServingError: an option is missing or malformed, or the store cannot be used.
    """
    precision = text(parameters, "store_precision")
    if precision not in ("fp32", "fp16"):
        raise ServingError(f"the option store_precision is {precision!r}, expected fp32 or fp16")
    folder = store_folder(parameters)
    if text(parameters, "store_bytes") == AUTO:
        max_bytes = _quarter_of_free(folder)
    else:
        max_bytes = number(parameters, "store_bytes")
    half = precision == "fp16"
    return EmbeddingStore(
        folder,
        _producer(parameters, repository),
        metrics,
        max_bytes=max_bytes,
        half_precision=half,
    )


def open_store_to_read(
    parameters: Mapping[str, str], repository: Path, metrics: Metrics
) -> EmbeddingStore:
    """Open the same store for reading only; arguments and errors are those of `open_store`."""
    return EmbeddingStore(store_folder(parameters), _producer(parameters, repository), metrics)


def _producer(parameters: Mapping[str, str], repository: Path) -> str:
    return producer(repository, text(parameters, "computed_by"))


def store_folder(parameters: Mapping[str, str]) -> Path:
    """Return the folder of the embedding store.

    Raises:
        ServingError: the option is missing, or the default folder is another user's.
    """
    option = text(parameters, "store_folder")
    return default_store_folder() if option == AUTO else Path(option)


def default_store_folder() -> Path:
    """Return the folder of this user's embedding store where no other one is set.

    Raises:
        StoreError: it is another user's.
    """
    tmpfs = Path("/dev/shm")  # noqa: S108
    base = tmpfs if os.access(tmpfs, os.W_OK) else Path(tempfile.gettempdir())
    folder = base / f"hqsam-store-{os.getuid()}"
    # Everybody may write to the folder above, so another user could have made this one, or a link.
    with suppress(FileNotFoundError):
        status = folder.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise StoreError(
                f"{folder} is no folder, or belongs to another user: set store_folder to another "
                "folder"
            )
    return folder


def _quarter_of_free(folder: Path) -> int:
    """Return a quarter of the space that would be free without the entries in the folder."""
    used = sum(entry.bytes for entry in entries(folder))
    for existing in (folder, *folder.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            return (shutil.disk_usage(existing).free + used) // 4
    raise StoreError(f"{folder} is on no file system: set store_folder to another folder")


def _resident_bytes(parameters: Mapping[str, str]) -> int:
    if text(parameters, "resident_bytes") != AUTO:
        return number(parameters, "resident_bytes")
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no control group, or one without a limit
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return free // 16
