"""Functions for the processes that decode images, each of which does one thing to its process."""

from __future__ import annotations

import os
import signal
from typing import Any

from hqsam_client import HQSamError

Result = tuple[dict[str, Any], bytes]


def echo(encoded: bytes, options: dict[str, Any]) -> Result:
    """Return the file, the options and the process."""
    policy = os.sched_getscheduler(0)
    return {"options": options, "pid": os.getpid(), "nice": os.nice(0), "policy": policy}, encoded


def act(encoded: bytes, options: dict[str, Any]) -> Result:
    """Do what the file says."""
    word = encoded.decode()
    if word == "refuse":
        raise HQSamError("not that one")
    if word == "spin":
        while True:
            pass
    if word == "wait until idle":
        while os.sched_getscheduler(0) != os.SCHED_IDLE:
            pass
    if word.startswith("take"):
        bytearray(int(word.removeprefix("take")) * 2**20)
    if word == "fail":
        raise ZeroDivisionError
    if word.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[word])
    return echo(encoded, options)
