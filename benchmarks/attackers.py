"""Attacks on a server, each by several threads of one process until it is told to stop."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import grpc
import numpy as np
from hqsam_testing import http_attacks, slow_files
from hqsam_testing.image_files import png
from hqsam_testing.raw import Raw, floats, request, text, valid
from hqsam_testing.waiting import TIMEOUT_S

_MIB = 2**20
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_PROMPTS = 256
_CANCEL_S = 0.1
_STRANGERS = "127.0.0.3"
_NICE = 19


@dataclass(frozen=True)
class Target:
    """Where a server answers.

    Attributes:
        grpc: ``host:port``, as the others.
        http: of KServe v2, or of the health answers alone.
        metrics: of the metrics.
    """

    grpc: str
    http: str
    metrics: str


@dataclass(frozen=True)
class Attack:
    """What is sent.

    Attributes:
        what: a description for the table.
        make: takes the target, and returns what one thread does again and again; that returns the
            code or status of the answer.
        threads: how many do it.
    """

    what: str
    make: Callable[[Target], Callable[[], str]]
    threads: int


class _Channel:
    """Sends messages as they are, over a connection of its own."""

    def __init__(self, target: Target) -> None:
        self._channel = grpc.insecure_channel(
            target.grpc,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._infer = self._channel.unary_unary(_INFER)

    def send(self, message: bytes, **options: Any) -> str:
        """Return the code of the answer."""
        try:
            self._infer(message, timeout=TIMEOUT_S, **options)
        except grpc.RpcError as error:
            code: str = error.code().name
            return code
        return "OK"

    def cancel(self, message: bytes, after_s: float) -> str:
        """Send a message, and cancel the call."""
        call = self._infer.future(message, timeout=TIMEOUT_S)
        time.sleep(after_s)
        return "cancelled" if call.cancel() else "answered"


def _message(
    model: str, inputs: dict[str, Raw], outputs: tuple[str, ...] = (), parameter: str = ""
) -> bytes:
    made = request(model, inputs, outputs)
    if parameter:
        made.outputs.add(name="sam_masks").parameters[parameter].int64_param = 2**31 - 1
    message: bytes = made.SerializeToString()
    return message


def _file(content: bytes) -> bytes:
    return _message("embed", {"encoded_image": Raw("UINT8", (len(content),), content)})


def _many_prompts(channel: _Channel) -> bytes:
    """Embed an image, and return a request for as many masks as one may ask for."""
    image = png(300, 200)
    while channel.send(_file(image)) != "OK":
        time.sleep(1)
    coords = np.random.default_rng(0).uniform(0, 680, (_PROMPTS, 2, 2))
    inputs = {
        "image_id": text(hashlib.sha256(image).hexdigest().encode()),
        "point_coords": floats(coords),
        "point_labels": floats(np.ones((_PROMPTS, 2))),
    }
    return _message("segment", inputs)


def _http(target: Target) -> Callable[[], str]:
    requests = list(http_attacks.ATTACKS.values())
    ports = (target.http, target.metrics, target.grpc)
    turns = itertools.cycle(itertools.product(requests, ports))

    def step() -> str:
        attack, url = next(turns)
        with contextlib.suppress(OSError):
            return str(http_attacks.answer(url, attack) or "closed")
        return "closed"

    return step


def _malformed(target: Target) -> Callable[[], str]:
    channel = _Channel(target)
    messages = [_message("segment", valid("segment"), parameter="classification")]
    for shape in ((2**62 + 1, 1), (2**32, 2**32), (2**63 - 1,), (1, 5 * 10**9)):
        inputs = valid("segment")
        inputs["point_labels"] = Raw("FP32", shape, inputs["point_labels"].content)
        messages.append(_message("segment", inputs))
    turns = itertools.cycle(messages)
    return lambda: channel.send(next(turns))


def _large(target: Target) -> Callable[[], str]:
    channel = _Channel(target)
    makers: list[tuple[Callable[[], bytes], Any]] = [
        (lambda: bytes(1024 * _MIB), grpc.Compression.NoCompression),
        (lambda: _file(bytes(60 * _MIB)), grpc.Compression.NoCompression),
        (lambda: bytes(60 * _MIB), grpc.Compression.Gzip),
        (lambda: b"\x2a\x00" * 20_000_000, grpc.Compression.NoCompression),
    ]
    turns = itertools.cycle(makers)

    def step() -> str:
        make, compression = next(turns)
        return channel.send(make(), compression=compression)

    return step


def _prompts(target: Target) -> Callable[[], str]:
    channel = _Channel(target)
    message = _many_prompts(channel)
    return lambda: channel.send(message)


def _cancelled(target: Target) -> Callable[[], str]:
    channel = _Channel(target)
    message = _many_prompts(channel)
    return lambda: channel.cancel(message, _CANCEL_S)


def _slow_files(target: Target) -> Callable[[], str]:
    channel = _Channel(target)
    files = [make() for make in slow_files.CASES]
    random.shuffle(files)
    turns = itertools.cycle(files)
    # Bytes after its end make a file another image.
    return lambda: channel.send(_file(next(turns) + os.urandom(8)))


def _inner(target: Target) -> Callable[[], str]:
    channel = _Channel(target)
    inputs = {
        "image_embeddings": floats(np.zeros((1, 256, 64, 64))),
        "hq_features": floats(np.zeros((1, 32, 256, 256))),
        "point_coords": floats(np.zeros((1, 256, 2))),
        "point_labels": floats(np.ones((1, 256))),
        "mask_input": floats(np.zeros((1, 1, 256, 256))),
        "has_mask_input": floats([0]),
    }
    message = _message("prompt_decoder", inputs)
    return lambda: channel.send(message)


def _half_open(target: Target) -> Callable[[], str]:
    connections: list[socket.socket] = []

    def step() -> str:
        """Open a connection more, up to 1,100 at each port; those that were closed, again."""
        for url in (target.grpc, target.http, target.metrics):
            host, _, port = url.rpartition(":")
            connection = socket.socket()
            connection.settimeout(TIMEOUT_S)
            connection.bind((_STRANGERS, 0))
            try:
                connection.connect((host, int(port)))
            except OSError:
                connection.close()
                return "refused"
            connections.append(connection)
            if len(connections) > 3 * 1100:
                connections.pop(0).close()
        return "connected"

    return step


ATTACKS = {
    "http": Attack("1: hostile HTTP requests to each port", _http, 2),
    "malformed": Attack("2, 3: overflowing shapes, `classification`, over gRPC", _malformed, 2),
    "large": Attack("4: messages of 60 MiB and 1 GiB, gzip", _large, 1),
    "prompts": Attack("5: two clients with 256 prompts each", _prompts, 2),
    "cancelled": Attack("5: requests of 256 prompts, cancelled after 0.1 s", _cancelled, 4),
    "slow_files": Attack("6: image files that take long to decode", _slow_files, 4),
    "inner": Attack("7: calls of `prompt_decoder`, 300 at a time", _inner, 300),
    "half_open": Attack("9: 1,100 connections to each port that send nothing", _half_open, 1),
}


def attack(name: str, target: Target, started: Event, stop: Event, answers: Connection) -> None:
    """Run an attack until `stop`, and send how often which answer came.

    It runs at a lower priority: attackers have machines of their own, and this one's processors
    are the server's.
    """
    os.nice(_NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    plan = ATTACKS[name]
    counts: Counter[str] = Counter()

    def work() -> None:
        step = plan.make(target)
        while not stop.is_set():
            answer = step()
            started.set()
            counts[answer] += 1

    for _ in range(plan.threads):
        threading.Thread(target=work, daemon=True).start()
    stop.wait()
    answers.send(dict(counts))
    os._exit(0)  # its calls end as those of a machine that is switched off
