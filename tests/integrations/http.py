"""Requests to the web services of integrations."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from hqsam_testing.waiting import TIMEOUT_S


def call(address: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON that a service answers, to a POST request if there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{address}/{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return json.load(answer)


def refusal(address: str, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Return the status and the reason phrase, which is what users of the tools read."""
    try:
        call(address, path, body)
    except urllib.error.HTTPError as error:
        return error.code, error.reason
    raise AssertionError("the service accepted it")
