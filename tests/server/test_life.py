"""`hqsam serve` from start to end, however it ends."""

from __future__ import annotations

import io
import os
import signal
import socket
import tempfile
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from hqsam_server import Endpoint, TritonServer, Tuning
from hqsam_server.launcher import cleanup
from hqsam_testing.serve_process import Serve, infer, works
from hqsam_testing.waiting import TIMEOUT_S
from tritonclient.grpc import service_pb2, service_pb2_grpc

Start = Callable[..., Serve]

# Where Triton makes a folder for packed environments, whatever TMPDIR says.
TEMPORARY = Path("/tmp")  # noqa: S108


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(serve: Start, signum: int) -> None:
    server = serve()
    for model in ("numbers", "pipeline", "caller"):
        works(server.grpc_url, model)
    assert server.shared_memory()
    assert server.stop(signum) == 0
    assert server.left_behind() == []


def test_it_leaves_nothing_behind_when_it_is_killed(serve: Start) -> None:
    server = serve()
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert server.left_behind() == []


def test_it_cleans_up_after_models_that_died_with_it(serve: Start) -> None:
    server = serve()
    server.triton.suspend()  # so that it can neither answer nor end by itself
    os.kill(server.instances()["numbers_0_0"], signal.SIGKILL)
    server.stop(signal.SIGKILL)
    assert server.left_behind() == []


class OnFirstLine(io.StringIO):
    """A log that does something once: at the first line of Triton's own."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action: Callable[[], None] | None = action

    def write(self, text: str) -> int:
        action, self._action = self._action, None
        if action is not None:
            action()
        return super().write(text)


def test_the_empty_environment_of_another_triton_stays(repository: Path, tmp_path: Path) -> None:
    found: list[Path] = []

    def start_another() -> None:
        """Do what another Triton does that starts at the same moment."""
        found.append(Path(tempfile.mkdtemp(prefix="python_env_", dir=TEMPORARY)))

    log = OnFirstLine(start_another)
    with TritonServer(repository, log=log, arguments=["--log-info=true"]):
        (other,) = found
    assert other.is_dir()
    other.rmdir()


def test_its_own_empty_environment_is_removed(repository: Path) -> None:
    before = set(TEMPORARY.glob("python_env_*"))
    with TritonServer(repository) as server:
        new = set(TEMPORARY.glob("python_env_*")) - before
        (folder,) = Path(tempfile.gettempdir()).glob(f"{server.shared_memory_prefix[:-1]}")
        noted = folder / cleanup.ENVIRONMENT
        own = {Path(line) for line in noted.read_text().splitlines()} if noted.exists() else set()
        # With another Triton starting at the same moment it cannot be told which one is whose.
        assert len(own) == 1 or len(new) > 1
        assert own <= new
    assert not any(path.exists() for path in own)


def test_requests_under_way_are_answered_before_it_ends(serve: Start, tmp_path: Path) -> None:
    server = serve("--", "--log-info=true")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = np.array([str(pipe).encode()], np.object_)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(infer, server.grpc_url, "gate", "path", path)
        with pipe.open("wb") as gate:  # opens once the model does: the request is under way
            server.process.terminate()
            server.line("Waiting for in-flight requests")
            gate.write(b"at last")
        assert bytes(answer.result()["said"]) == b"at last"
    assert server.stop(signal.SIGTERM) == 0
    assert server.left_behind() == []


@pytest.mark.slow
def test_requests_that_take_longer_than_the_exit_timeout_end_with_an_error(
    serve: Start, tmp_path: Path
) -> None:
    server = serve("--exit-timeout-secs=1")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = np.array([str(pipe).encode()], np.object_)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(infer, server.grpc_url, "gate", "path", path)
        with pipe.open("wb"):
            assert server.stop(signal.SIGTERM) == 0
        assert answer.exception() is not None
    assert server.left_behind() == []


def test_a_server_in_python_is_ready_inside_the_block_and_gone_after_it(repository: Path) -> None:
    with TritonServer(repository) as server:
        works(server.grpc_url, "numbers")
        process = psutil.Process(server.pid)
        assert process.is_running()
    assert not process.is_running()


@pytest.mark.parametrize("service", ["grpc", "http", "metrics"])
def test_a_port_that_is_lost_before_it_is_taken_is_another_one(
    repository: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    server = TritonServer(repository)
    with_port = Endpoint.with_port
    asked: list[Endpoint] = []

    def lose_one(endpoint: Endpoint) -> Endpoint:
        """Return a port that another program uses, the first time."""
        asked.append(endpoint)
        lost = len(asked) == 1 + ["grpc", "http", "metrics"].index(service)
        return Endpoint(listener.getsockname()[1]) if lost else with_port(endpoint)

    monkeypatch.setattr(Endpoint, "with_port", lose_one)
    with socket.create_server(("127.0.0.1", 0)) as listener, server:
        assert len(asked) == 6
        works(server.grpc_url, "numbers")
        with urllib.request.urlopen(f"http://{server.metrics_url}/metrics") as metrics:
            assert b"nv_inference_count" in metrics.read()


def test_a_second_start_finds_the_compiled_models(repository: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def blobs() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in cache.rglob("*.blob")}

    found = []
    for _ in range(2):
        with TritonServer(repository, tuning=Tuning(cache_dir=cache)) as server:
            works(server.grpc_url, "numbers")
        found.append(blobs())
    assert found[0] == found[1] != {}


@pytest.mark.slow
def test_the_small_model_is_compiled_once(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        with TritonServer(tuning=Tuning(cache_dir=tmp_path)):
            found.append({file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.blob")})
    assert found[0] == found[1] != {}


def test_it_listens_on_loopback_unless_told_otherwise(serve: Start) -> None:
    server = serve()
    listening = [
        it.laddr
        for process in server.family
        for it in process.net_connections(kind="inet")
        if it.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 3
    assert {it.ip.removeprefix("::ffff:") for it in listening} == {"127.0.0.1"}


def test_nobody_reaches_tritons_own_ports(serve: Start) -> None:
    """Its HTTP parser ends the process at one request of a hundred bytes, and gRPC's at others."""
    server = serve()
    assert server.triton.net_connections(kind="inet") == []
    sockets = {it.laddr for it in server.triton.net_connections(kind="unix") if it.laddr}
    assert {"triton-grpc:1", "triton-http", "triton-metrics"} <= sockets
    assert Path(server.triton.cwd()).stat().st_mode & 0o777 == 0o700


def test_no_key_is_in_a_process_list(serve: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice 0123456789abcdef\n")
    server = serve(f"--keys-file={keys}")
    for process in server.family:
        assert not any("0123456789abcdef" in it for it in process.cmdline())


def test_arguments_after_two_dashes_reach_triton(serve: Start) -> None:
    server = serve("--", "--log-verbose=1")
    assert "--log-verbose=1" in server.triton.cmdline()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest()),
        ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="numbers")),
        ("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest()),
        ("LogSettings", service_pb2.LogSettingsRequest()),
        ("TraceSetting", service_pb2.TraceSettingRequest()),
        ("ModelStatistics", service_pb2.ModelStatisticsRequest()),
    ],
)
def test_only_the_process_that_started_it_may_administer_it(
    shared: TritonServer, method: str, request_: object
) -> None:
    with grpc.insecure_channel(shared.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match=r"questions about its health|expected .*numbers"):
            getattr(stub, method)(request_, timeout=TIMEOUT_S)
        stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=TIMEOUT_S)


@pytest.mark.slow
def test_the_next_server_cleans_up_after_one_that_was_killed_with_its_janitor(
    serve: Start,
) -> None:
    killed, lives = serve(), serve()
    # Here and not after the end: a server of another test may already clean up.
    assert killed.shared_memory()
    killed.process.kill()
    for process in killed.family:
        process.kill()
    psutil.wait_procs(killed.family, TIMEOUT_S)
    others = lives.shared_memory()
    serve()
    assert killed.shared_memory() == []
    assert lives.shared_memory() == others
    works(lives.grpc_url, "numbers")
