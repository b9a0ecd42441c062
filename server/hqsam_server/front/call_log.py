"""A line of JSON for each call to a model: who called what, how it ended, where the time went."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from hqsam_server.errors import StartError

_HEADERS = {
    "x-image-id": "image_id",
    "x-request-id": "request_id",
    # W3C trace context.
    "traceparent": "traceparent",
}
"""What a caller may say about its call, and the name of the field."""

# A caller's text is cut: its metadata may be kilobytes.
_LONGEST = 128


class CallLog:
    """Writes lines to a file, which other programs may move away, such as logrotate."""

    def __init__(self, file: Path) -> None:
        """Open the file, which only this user can read if it is new.

        Raises:
            StartError: it cannot be written.
        """
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            self._handler = WatchedFileHandler(file, encoding="utf-8")
        except OSError as error:
            raise StartError(
                f"the log of calls cannot be written: {error}; check --call-log"
            ) from error
        self._logger = logging.Logger("calls")  # no other handlers, unlike `getLogger`
        self._logger.addHandler(self._handler)

    def close(self) -> None:
        """Close the file."""
        self._handler.close()

    def write(self, metadata: Mapping[str, str], fields: Mapping[str, Any]) -> None:
        """Write a line.

        Args:
            metadata: of the call.
            fields: what the front knows of it; None is left out.
        """
        said = {
            field: str(metadata[name])[:_LONGEST]
            for name, field in _HEADERS.items()
            if name in metadata
        }
        known = {name: value for name, value in fields.items() if value is not None}
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._logger.info(json.dumps({"time": now, **known, **said}))
