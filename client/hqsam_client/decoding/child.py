"""The program of the processes of `hqsam_client.decoding.pool`: one function, file after file."""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import signal
import sys
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hqsam_client.errors import HQSamError


def main(descriptor: int, options: dict[str, Any]) -> None:
    """Answer files until the connection ends.

    Args:
        descriptor: of the connection.
        options: the function, and the fields of the budget.
    """
    connection = Connection(descriptor)
    module, _, name = options["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    os.nice(options["nice"])
    # Ctrl-C is for the program that started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)
    memory_bytes = options["memory_bytes"]
    with suppress(FileNotFoundError):  # only Linux has /proc
        _limit(resource.RLIMIT_AS, _size_bytes() + memory_bytes)
        # When the machine's memory runs out, the kernel ends this process first.
        Path("/proc/self/oom_score_adj").write_text("1000")
    # Pillow warns of what it can do without.
    warnings.simplefilter("ignore")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
            _limit(resource.RLIMIT_CPU, math.ceil(_used_s()) + options["cpu_s"])
            values, content = function(connection.recv_bytes(), request)
        except EOFError:
            return
        except HQSamError as error:
            values, content = {"refusal": str(error)}, b""
        except MemoryError:
            values = {
                "refusal": f"the image takes more than {memory_bytes // 10**6} MB of memory to "
                "decode: send it smaller, or save it again in a simpler format"
            }
            content = b""
        with suppress(BrokenPipeError):
            connection.send_bytes(json.dumps(values).encode())
            connection.send_bytes(memoryview(content).cast("B"))
        # What it was sent and has answered is not kept until the next file comes.
        del values, content


def _limit(kind: int, value: int) -> None:
    """Lower a soft limit of this process, or raise it as far as the hard one."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _used_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _size_bytes() -> int:
    """Return the size of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
