"""OpenCV, which only some calls need."""

from __future__ import annotations

from typing import Any

from hqsam_client.errors import MissingPackageError


def opencv(what: str) -> Any:
    """Return the module `cv2`.

    Args:
        what: needs it, for the message.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(
            f"{what} needs OpenCV: pip install 'hqsam-triton[masks]'"
        ) from error
    return cv2
