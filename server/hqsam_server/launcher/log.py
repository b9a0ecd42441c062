"""Triton's log: what of it is shown, and what it says about a start that fails."""

from __future__ import annotations

import collections
import contextlib
import re
import threading
from collections.abc import Iterable
from typing import TextIO

# A line of Triton's log: severity and time, process, source file, message.
_LINE = re.compile(r"^(?P<severity>[EWI])\d{4} \S+ \d+ \S+\] (?P<message>.*)$")

_TABLE = re.compile(r"^([+|].*)?$")

_BAD_OPTION = re.compile(r"(unrecognized|Bad) option")

# Complaints on every machine without a GPU.
# Triton's HTTP services listen on Unix-domain sockets, which have no such option.
_NO_NEWS = re.compile(r"NODELAY NOT SUPPORTED")

_NO_GPU = re.compile(r"CudaDriverHelper|pinned system memory|CUDA driver version is insufficient")

_LOADING = re.compile(r'\] "?loading: (\S+):\d+"?$')
_LOADED = re.compile(r"(?:successfully loaded|failed to load) '([^']+)'")

# Triton says this once every request is answered.
_DRAINED = "All models are stopped"

# Where the stack begins in an error of a Python model; Triton escapes line ends.
_STACK = "\\n\\nAt:"


class Log:
    """Reads the output of `tritonserver` and shows what an operator needs.

    That is: warnings, errors, and what the models print, but neither Triton's reports of
    normal operation nor, without a GPU, its complaints about CUDA.

    Attributes:
        drained: set once Triton stops and has answered every request, or the output has ended.
        loading: names of the models that are being loaded.
    """

    def __init__(self, output: TextIO | None, *, gpu: bool, everything: bool) -> None:
        """Prepare to read.

        Args:
            output: where to show lines; None for nowhere.
            gpu: whether complaints about CUDA are errors.
            everything: whether to show all lines.
        """
        self._output = output
        self._gpu = gpu
        self._everything = everything
        self._recent: collections.deque[str] = collections.deque(maxlen=1000)
        self._hides = False
        self.drained = threading.Event()
        self.loading: set[str] = set()

    def reset(self) -> None:
        """Forget the process that was read; another one follows."""
        self._recent.clear()
        self._hides = False
        self.drained.clear()
        self.loading.clear()

    def say(self, text: str) -> None:
        """Show a line of the launcher's own."""
        self._show(f"hqsam: {text}\n")

    def read(self, lines: Iterable[str]) -> None:
        """Read lines until there are no more."""
        for line in lines:
            if _DRAINED in line:
                self.drained.set()
            if match := _LOADING.search(line):
                self.loading.add(match[1])
            elif match := _LOADED.search(line):
                self.loading.discard(match[1])
            self._recent.append(line.rstrip("\n"))
            if self._everything or self._is_shown(line.rstrip("\n")):
                self._show(line)
        self.drained.set()

    def _is_shown(self, line: str) -> bool:
        if match := _LINE.match(line):
            self._hides = match["severity"] == "I" or self._is_noise(match["message"])
            return not self._hides
        if _NO_NEWS.search(line):
            return False
        # Reports go on in tables and blank lines. Anything else was printed by a model.
        return not (self._hides and _TABLE.match(line))

    def _is_noise(self, message: str) -> bool:
        return not self._gpu and _NO_GPU.search(message) is not None

    def _show(self, line: str) -> None:
        if self._output is None:
            return
        # The reader of our output may be gone. Triton's output must be read all the same, or
        # Triton would block on a full pipe.
        with contextlib.suppress(OSError, ValueError):
            print(line, end="", file=self._output, flush=True)

    def reason(self) -> str:
        """Return in one line what the log says went wrong."""
        errors = [
            match["message"]
            for line in list(self._recent)
            if (match := _LINE.match(line)) and match["severity"] == "E"
        ]
        errors = [message for message in errors if not self._is_noise(message)]
        errors.sort(key=lambda message: "failed to " not in message)
        errors += filter(_BAD_OPTION.search, self._recent)
        errors += filter(None, reversed(self._recent))
        first = next(iter(errors), "it printed nothing")
        return first.partition(_STACK)[0].strip('"').replace("\\n", " ")
