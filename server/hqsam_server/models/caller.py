"""Who sent a request that is answered later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

A = TypeVar("A")

CALLER_PARAMETER = "hqsam_caller"
"""The request parameter that tells models who calls. The front sets it, and removes what a client
wrote there."""


@dataclass(frozen=True)
class Caller(Generic[A]):
    """The sender of a request.

    Attributes:
        reply: takes the answer or the error, once, from any thread.
        is_cancelled: whether the request was cancelled or its deadline has passed.
        name: whose turn it is; "" if nobody says.
    """

    reply: Callable[[A | Exception], None]
    is_cancelled: Callable[[], bool]
    name: str = ""
