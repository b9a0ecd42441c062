"""With --call-log, each call is a line: who, what, how it ended, and where the time went."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hqsam_server import Front, TritonServer
from hqsam_server.errors import StartError
from hqsam_testing.raw import request, valid
from hqsam_testing.waiting import TIMEOUT_S, wait_until
from tritonclient.grpc import service_pb2_grpc

KEY = "0123456789abcdef"
EMBED = request("embed", valid("embed"))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Logged:
    """A server that knows one key, and its log."""

    def __init__(self, server: TritonServer, file: Path) -> None:
        self.file = file
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(
            grpc.insecure_channel(server.grpc_url)
        )
        self._seen = 0

    def embed(self, key: str = KEY, **metadata: str) -> str:
        """Embed an image, and return the status."""
        pairs = [("authorization", f"Bearer {key}")]
        pairs += [(name.replace("_", "-"), value) for name, value in metadata.items()]
        try:
            self._stub.ModelInfer(EMBED, metadata=pairs, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def line(self) -> dict[str, Any]:
        """Return the next line."""
        wait_until(lambda: len(self._lines()) > self._seen, "a line in the log")
        self._seen += 1
        return dict(json.loads(self._lines()[self._seen - 1]))

    def _lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def moved(self) -> None:
        """Tell that the file is a new one."""
        self._seen = 0


@pytest.fixture(scope="module")
def logged(whole_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("log")
    (folder / "keys").write_text(f"alice {KEY}\n")
    file = folder / "calls.jsonl"
    front = Front(keys_file=folder / "keys", call_log=file)
    with TritonServer(whole_repository, front=front) as server:
        yield Logged(server, file)


def test_a_call_is_a_line(logged: Logged) -> None:
    assert logged.embed(x_image_id="an image", x_request_id="7", traceparent=TRACE) == "OK"
    line = logged.line()
    assert stat.S_IMODE(logged.file.stat().st_mode) == 0o600
    parts = [line.pop(f"seconds_{name}") for name in ("reading", "in_triton", "sending")]
    assert sum(parts) == pytest.approx(line.pop("seconds"), abs=1e-5)
    assert min(parts) >= 0
    assert line.pop("request_bytes") > 100
    assert line.pop("response_bytes") > 64
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "caller": "key alice",
        "model": "embed",
        "code": "OK",
        "image_id": "an image",
        "request_id": "7",
        "traceparent": TRACE,
    }


def test_a_refused_call_is_a_line_without_the_key(logged: Logged) -> None:
    assert logged.embed("another key than that", x_request_id="long " * 1000) == "UNAUTHENTICATED"
    line = logged.line()
    assert (line["model"], line["code"]) == ("unknown", "UNAUTHENTICATED")
    assert "the key is missing or unknown" in line["message"]
    assert len(line["request_id"]) == 128
    text = logged.file.read_text()
    assert "another key" not in text
    assert KEY not in text


def test_a_file_that_is_moved_away_is_begun_anew(logged: Logged) -> None:
    logged.file.rename(logged.file.with_suffix(".1"))
    logged.moved()
    assert logged.embed() == "OK"
    assert logged.line()["code"] == "OK"


def test_a_log_that_cannot_be_written_ends_the_start(
    whole_repository: Path, tmp_path: Path
) -> None:
    server = TritonServer(whole_repository, front=Front(call_log=tmp_path / "none" / "log"))
    with pytest.raises(StartError, match=r"the log of calls cannot be written.*check --call-log"):
        server.start()
