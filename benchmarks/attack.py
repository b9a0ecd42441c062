"""Measure what another user notices of an attack: `python -m benchmarks.attack`.

Two servers of the small model run: one with the defaults, one `--public --anonymous --http`. They
are attacked in turn, one attack after the other, from 127.0.0.1. A user from 127.0.0.2 clicks and
embeds meanwhile, and before. While one server is attacked, the memory of the other settles.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hqsam_client import HQSam
from hqsam_server.launcher.process import family
from hqsam_testing import processes
from hqsam_testing.command import Command, hqsam
from hqsam_testing.image_files import png
from hqsam_testing.serve_process import ANY_PORTS, urls
from hqsam_testing.waiting import TIMEOUT_S

from benchmarks import report
from benchmarks.attackers import ATTACKS, Target, attack

MODES = {"default": (), "public": ("--public", "--anonymous", "--http")}

VICTIM = "127.0.0.2"
_CLICKS = 4
"""Clicks for each embed."""
_PAUSE_S = 0.05
_POINT = (150, 100)
_MIB = 2**20
_DECODER = "hqsam_client.decoding.child"


async def _relay(url: str, ready: threading.Event, ports: list[int]) -> None:
    """Pass connections on to a server, from the victim's address: gRPC cannot choose one."""
    host, _, port = url.rpartition(":")

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(2**18):
            sink.write(data)
            await sink.drain()
        sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port), local_addr=(VICTIM, 0))
        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    ports.append(server.sockets[0].getsockname()[1])
    ready.set()
    await server.serve_forever()


def _victims_way(url: str) -> str:
    """Return where a relay to a server listens, for as long as this process lives."""
    ready, ports = threading.Event(), list[int]()
    threading.Thread(target=lambda: asyncio.run(_relay(url, ready, ports)), daemon=True).start()
    ready.wait(TIMEOUT_S)
    return f"127.0.0.1:{ports[0]}"


@dataclass
class Seconds:
    """What the victim measured, and what went wrong."""

    clicks: list[float] = field(default_factory=list)
    embeds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Server:
    """A server with a victim."""

    def __init__(self, stack: ExitStack, options: tuple[str, ...]) -> None:
        """Start it, and warm everything up."""
        self.command = stack.enter_context(Command(hqsam("serve", "--small", *ANY_PORTS, *options)))
        self.target = Target(*(_loopback(it) for it in urls(self.command.line("serving "))))
        self._sam = stack.enter_context(
            HQSam(_victims_way(self.target.grpc), timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S)
        )
        self._images = 0
        self._image = self._sam.open(png(300, 200))
        self._expected = self._click()
        self.settled_at = 0.0
        # Triton keeps the memory that the largest requests at a time have taken.
        many = [[_POINT]] * 256
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: self._image.segment(points=many), range(4)))
        for _ in range(10):
            self._embed()

    def _click(self) -> Any:
        return self._image.segment(points=[_POINT]).low_res_logits

    def _embed(self) -> None:
        self._images += 1
        self._sam.open(png(320, 100 + self._images))

    def use(self, seconds: float) -> Seconds:
        """Click and embed for some time."""
        found = Seconds()
        end = time.monotonic() + seconds
        while time.monotonic() < end or not found.embeds:
            for number in range(_CLICKS + 1):
                time.sleep(_PAUSE_S)
                start = time.perf_counter()
                try:
                    if number < _CLICKS:
                        if not np.array_equal(self._click(), self._expected):
                            found.wrong.append("a wrong mask")
                        found.clicks.append(time.perf_counter() - start)
                    else:
                        self._embed()
                        found.embeds.append(time.perf_counter() - start)
                except Exception as error:
                    found.wrong.append(repr(error))
        return found

    def memory(self) -> int:
        """Return the memory of all of its processes in bytes."""
        return processes.memory_bytes(self.command.process.pid)

    def processes(self) -> set[tuple[int, float]]:
        """Return its processes, but for those that decode image files, which come and go."""
        found = set()
        for it in family(self.command.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                if _DECODER not in it.cmdline():
                    found.add((it.pid, it.create_time()))
        return found


def _loopback(url: str) -> str:
    """Return ``host:port`` of what `hqsam serve` says, which is a URL for the metrics."""
    place = url.removeprefix("http://").removesuffix("/metrics")
    return place.replace("0.0.0.0", "127.0.0.1")  # noqa: S104


@contextmanager
def _attacked(name: str, target: Target) -> Iterator[dict[str, int]]:
    """Attack within the block; the dictionary is filled with the answers at its end."""
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    here, there = context.Pipe(duplex=False)
    attacker = context.Process(target=attack, args=(name, target, started, stop, there))
    attacker.start()
    there.close()
    answers: dict[str, int] = {}
    try:
        started.wait(TIMEOUT_S)
        yield answers
        stop.set()
        answers.update(here.recv() if here.poll(TIMEOUT_S) else {})
    finally:
        attacker.kill()
        attacker.join()


def measure(server: Server, name: str, seconds: float) -> dict[str, Any]:
    """Attack a server once; return what the victim noticed, without the settled memory."""
    idle = server.use(seconds / 2)
    memory, before = server.memory(), server.processes()
    with _attacked(name, server.target) as answers:
        attacked = server.use(seconds)
    after = server.memory()
    quiet = Seconds()
    quiet.wrong = server.use(0).wrong
    return {
        "idle": _figures(idle),
        "attacked": _figures(attacked),
        "click_ratio": statistics.median(attacked.clicks) / statistics.median(idle.clicks),
        "embed_ratio": statistics.median(attacked.embeds) / statistics.median(idle.embeds),
        "wrong": sorted(set(idle.wrong + attacked.wrong + quiet.wrong)),
        "answers": answers,
        "memory_mib": [round(memory / _MIB), round(after / _MIB)],
        "same_processes": before <= server.processes(),
    }


def _figures(found: Seconds) -> dict[str, dict[str, float]]:
    return {"click": report.summary(found.clicks), "embed": report.summary(found.embeds)}


def _settle(server: Server, result: dict[str, Any]) -> None:
    """Wait until a minute after the attack, and add the memory."""
    time.sleep(max(0.0, server.settled_at - time.monotonic()))
    result["memory_mib"].append(round(server.memory() / _MIB))
    print(f"memory of the last one {result['memory_mib']}", flush=True)


def run(names: list[str], modes: list[str], seconds: float, settle_s: float) -> list[Any]:
    """Return (mode, attack, result) of each."""
    results: list[Any] = []
    with ExitStack() as stack:
        servers = {mode: Server(stack, MODES[mode]) for mode in modes}
        pending: dict[str, dict[str, Any]] = {}
        for name in names:
            for mode, server in servers.items():
                if mode in pending:
                    _settle(server, pending.pop(mode))
                pending[mode] = result = measure(server, name, seconds)
                server.settled_at = time.monotonic() + settle_s
                results.append((mode, name, result))
                print(mode, name, result, flush=True)
        for mode, result in pending.items():
            _settle(servers[mode], result)
    return results


def _row(mode: str, name: str, result: dict[str, Any]) -> dict[str, str]:
    idle, attacked = (
        {what: result[when][what] for what in ("click", "embed")} for when in ("idle", "attacked")
    )
    clicks = " / ".join(
        f"{it['click']['median_ms']:.0f} and {it['click']['p99_ms']:.0f} ms"
        for it in (idle, attacked)
    )
    embeds = " / ".join(f"{it['embed']['median_ms']:.0f} ms" for it in (idle, attacked))
    before, after, settled = result["memory_mib"]
    answers = ", ".join(f"{count} {answer}" for answer, count in result["answers"].items())
    harm = ", ".join(
        [*result["wrong"], *([] if result["same_processes"] else ["a process was replaced"])]
    )
    return {
        "what": f"{ATTACKS[name].what}; {mode}",
        "figure": f"click {result['click_ratio']:.1f}, embed {result['embed_ratio']:.1f} times",
        "detail": f"clicks, median and p99, idle / attacked: {clicks}; embeds: {embeds}; memory "
        f"{before} MiB, {after} right after, {settled} when settled "
        f"({(settled - before) / before:+.0%}); harm: {harm or 'none'}; attacker got {answers}",
    }


def main(arguments: list[str] | None = None) -> int:
    """Run, write the result, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=__doc__)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seconds", type=float, default=15.0, help="of each attack")
    parser.add_argument(
        "--settle", type=float, default=60.0, help="seconds until memory is read again"
    )
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder")
    options = parser.parse_args(arguments)
    results = run(options.attacks, options.modes, options.seconds, options.settle)
    report.write(
        "attack",
        "What another user notices of an attack",
        f"python -m benchmarks.attack --seconds {options.seconds:g} --settle {options.settle:g}",
        [_row(*it) for it in results],
        options.output,
    )
    harmed = [it for _, _, it in results if it["wrong"] or not it["same_processes"]]
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
