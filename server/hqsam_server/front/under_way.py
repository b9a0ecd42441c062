"""Calls that Triton works on, and what becomes of them when their process dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc

from hqsam_server.front.admission import RETRY_AFTER_S
from hqsam_server.front.errors import RefusedError

_LOOK_S = 0.25


class UnderWay:
    """Calls that Triton works on.

    `embed` and `segment` answer from threads of their own. When their process dies, Triton never
    answers what it worked on. So these calls are given up when the model is loaded again.
    """

    def __init__(self) -> None:
        self._calls: dict[Any, str] = {}
        self._given_up: set[Any] = set()

    async def answer(self, model: str, call: Any) -> bytes:
        """Return Triton's answer to a call.

        Raises:
            RefusedError: the process that worked on it died.
        """
        self._calls[call] = model
        try:
            return bytes(await call)
        except asyncio.CancelledError:
            if call in self._given_up:
                raise lost(f"a process of the model {model} died") from None
            raise
        finally:
            del self._calls[call]
            self._given_up.discard(call)

    async def watch(self, models: Iterable[str]) -> None:
        """Give up the calls of each model that is loaded again, for ever."""
        loads = {model: _loads(model) for model in models}
        while True:
            await asyncio.sleep(_LOOK_S)
            for model, before in loads.items():
                loads[model] = _loads(model)
                if loads[model] != before:
                    self._give_up(model)

    def _give_up(self, model: str) -> None:
        for call in [call for call, its_model in self._calls.items() if its_model == model]:
            self._given_up.add(call)
            call.cancel()


def _loads(model: str) -> int:
    """Return what changes when the launcher loads a model again: the front runs in its folder."""
    try:
        return Path("repository", model, "generation").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def lost(why: str) -> RefusedError:
    """Return the answer to a call that was lost, and may be repeated."""
    return RefusedError(grpc.StatusCode.UNAVAILABLE, f"{why}: try again in a moment", RETRY_AFTER_S)
