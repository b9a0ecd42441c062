"""Shared by the benchmarks: timing in turns, a description of the machine, writing results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

_PAUSE_S = 0.1

_PACKAGES = (
    "hqsam-triton",
    "nvidia-pytriton",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    "tritonclient",
)


def in_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time each contestant once a round, so that changes of the machine's speed affect all.

    There is a pause before each run: threads of the one before may still spin, and would slow
    it down.

    Returns:
        Seconds of each round by name, without the warm-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(warm_up + rounds):
        for name, run in contestants.items():
            time.sleep(_PAUSE_S)
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if index >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Return median, minimum, 95th and 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "median_ms": 1e3 * statistics.median(ordered),
        "min_ms": 1e3 * ordered[0],
        "p95_ms": 1e3 * ordered[min(last, int(0.95 * len(ordered)))],
        "p99_ms": 1e3 * ordered[min(last, int(0.99 * len(ordered)))],
        "runs": len(ordered),
    }


def machine() -> dict[str, Any]:
    """Return a description of the machine, and the date."""
    flags = ""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
        if line.startswith("flags"):
            flags = line
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": date.today().isoformat(),
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "bf16": "avx512_bf16" in flags or "amx_bf16" in flags,
        "python": platform.python_version(),
        "versions": versions,
    }


def precision() -> str:
    """Return the default precision of a server on this machine."""
    return "bf16" if machine()["bf16"] else "fp32"


def table(title: str, command: str, rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown, with a heading and the machine.

    Args:
        title: heading of the table.
        command: the command that measures these figures.
        rows: each with `what`, `figure` and `detail`.
    """
    about = machine()
    versions = ", ".join(f"{package} {number}" for package, number in about["versions"].items())
    lines = [
        f"# {title}",
        "",
        f"`{command}`, {about['date']}, {about['cores']} cores of {about['processor']}"
        f"{' with bf16' if about['bf16'] else ''}, Python {about['python']}, {versions}.",
        "",
        "| what | figure | detail |",
        "|---|---|---|",
        *(f"| {row['what']} | {row['figure']} | {row['detail']} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def write(
    name: str, title: str, command: str, rows: list[dict[str, Any]], folder: Path = RESULTS
) -> None:
    """Print the table, and write it to `<name>.json` and `.md` in a folder; see `table`."""
    print(save(name, title, command, rows, folder))


def save(
    name: str, title: str, command: str, rows: list[dict[str, Any]], folder: Path = RESULTS
) -> str:
    """Write the table to `<name>.json` and `.md` in a folder, and return it; see `table`."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(
        json.dumps({"machine": machine(), "command": command, "rows": rows}, indent=2) + "\n",
        encoding="utf-8",
    )
    text = table(title, command, rows)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return text
