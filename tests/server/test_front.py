"""Who may call what through the front, how much, and what happens when it dies."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from hqsam_server import TritonServer
from hqsam_testing.serve_process import Serve, X, infer, works
from hqsam_testing.waiting import TIMEOUT_S, wait_until
from tritonclient.grpc import service_pb2, service_pb2_grpc

Start = Callable[..., Serve]

ALICE, BOB = "alices-key-0123456789", "bobs-key-0123456789"


def request(model: str) -> Any:
    made = service_pb2.ModelInferRequest(model_name=model)
    made.inputs.add(name="x", datatype="FP32", shape=X.shape)
    made.raw_input_contents.append(X.tobytes())
    return made


def call(url: str, made: Any, key: str | None = None) -> tuple[str, str, Any, dict[str, str]]:
    """Return code, message, response or None, and the metadata that came with it."""
    metadata = [("authorization", f"Bearer {key}")] if key else []
    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            response = stub.ModelInfer(made, timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            told = {name: str(value) for name, value in error.trailing_metadata() or ()}
            return error.code().name, error.details() or "", None, told
    return "OK", "", response, {}


def parameters(url: str, made: Any, key: str | None = None) -> dict[str, str]:
    """Return the parameters that a model sees."""
    code, message, response, _ = call(url, made, key)
    assert code == "OK", message
    found: dict[str, str] = json.loads(response.raw_output_contents[0])
    return found


def front(server: Serve, kind: str) -> psutil.Process:
    """Return the living process of the front."""
    children = psutil.Process(server.process.pid).children()
    (found,) = (it for it in children if it.cmdline()[-2:] == ["hqsam_server.front", kind])
    return found


def test_callers_need_a_key_of_the_file_as_it_is_now(serve: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# of the team\nalice {ALICE}\n")
    server = serve(f"--keys-file={keys}", "--http")
    url = server.grpc_url
    forged = request("who")
    forged.parameters["hqsam_caller"].string_param = "key bob"
    assert parameters(url, forged, ALICE) == {"hqsam_caller": "key alice"}
    for key in (None, BOB, ALICE[:-1], f"{ALICE}0"):
        assert call(url, request("numbers"), key)[0] == "UNAUTHENTICATED"
    post = urllib.request.Request(f"http://{server.http_url}/v2/models/numbers/infer", b"{}")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(post, timeout=TIMEOUT_S)  # noqa: S310
    assert refusal.value.code == 401

    keys.write_text("a line of five words here\n")
    wait_until(
        lambda: (
            call(url, request("numbers"), ALICE)[0] == "OK"
            and "the keys are still the old ones" in server.output() + server.errors()
        ),
        "the malformed file to be refused",
    )
    keys.write_text(f"bob {BOB}\n")
    wait_until(lambda: call(url, request("numbers"), BOB)[0] == "OK", "the new key to be known")
    assert call(url, request("numbers"), ALICE)[0] == "UNAUTHENTICATED"


@pytest.mark.slow
def test_keys_may_come_from_the_environment_which_models_do_not_see(serve: Start) -> None:
    server = serve(options={"HQSAM_KEYS": f"alice {ALICE}\nbob {BOB}"})
    assert parameters(server.grpc_url, request("who"), BOB) == {"hqsam_caller": "key bob"}
    for process in psutil.Process(server.triton.pid).children():
        assert "HQSAM_KEYS" not in process.environ()


@pytest.mark.slow
def test_without_keys_a_caller_is_an_address_unless_a_proxy_names_another(serve: Start) -> None:
    server = serve("--proxy=127.0.0.0/8")
    made = request("who")
    assert parameters(server.grpc_url, made) == {"hqsam_caller": "address 127.0.0.1"}
    with grpc.insecure_channel(server.grpc_url) as channel:
        forwarded = [("x-forwarded-for", "198.51.100.1, 203.0.113.7")]
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(made, timeout=TIMEOUT_S, metadata=forwarded)
    assert json.loads(response.raw_output_contents[0]) == {"hqsam_caller": "address 203.0.113.7"}


def test_a_caller_with_too_many_requests_is_told_how_long_to_wait(
    serve: Start, tmp_path: Path
) -> None:
    server = serve("--caller-requests=1", "--caller-bytes=100000")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = np.array([str(pipe).encode()], np.object_)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(infer, server.grpc_url, "gate", "path", path)
        with pipe.open("wb") as gate:  # opens once the model does: the request is under way
            code, message, _, told = call(server.grpc_url, request("numbers"))
            assert code == "RESOURCE_EXHAUSTED"
            assert "try again in 1 s" in message
            assert float(told["retry-after"]) == 1
            gate.write(b"done")
        first.result()
    works(server.grpc_url, "numbers")
    large = request("numbers")
    large.inputs[0].shape[:] = [50_000, 2]
    large.raw_input_contents[0] = bytes(400_000)
    code, message, _, told = call(server.grpc_url, large)
    assert (code, "retry-after" in told) == ("RESOURCE_EXHAUSTED", False), message


@pytest.mark.slow
def test_a_caller_who_calls_too_fast_is_told_how_long_to_wait(serve: Start) -> None:
    server = serve("--caller-rate=0.2")
    works(server.grpc_url, "numbers")
    works(server.grpc_url, "numbers")  # two in ten seconds
    code, message, _, told = call(server.grpc_url, request("numbers"))
    assert code == "RESOURCE_EXHAUSTED", message
    assert 0 < float(told["retry-after"]) <= 5


@pytest.mark.parametrize(
    ("kind", "signum"),
    [
        ("grpc", signal.SIGKILL),
        pytest.param("grpc", signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param("http", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("http", signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_a_front_that_dies_or_hangs_is_started_again(
    serve: Start, kind: str, signum: signal.Signals
) -> None:
    server = serve()
    victim = front(server, kind)
    victim.send_signal(signum)
    server.line(f"the {kind} front ended with status")
    ready = f"http://{server.http_url}/v2/health/ready"
    wait_until(lambda: _is_ok(ready), "the server to be ready again")
    works(server.grpc_url, "numbers")
    assert server.triton.is_running()
    assert front(server, kind).pid != victim.pid
    server.family += psutil.Process(server.process.pid).children()
    assert server.stop(signal.SIGTERM) == 0
    assert server.left_behind() == []


def _is_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def test_without_http_that_port_says_only_whether_it_is_ready(shared: TritonServer) -> None:
    assert _is_ok(f"http://{shared.http_url}/v2/health/live")
    assert _is_ok(f"http://{shared.http_url}/v2/health/ready")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"http://{shared.http_url}/v2/models/numbers", timeout=TIMEOUT_S)
    assert refusal.value.code == 404
    assert "--http" in refusal.value.read().decode()


@pytest.mark.slow
def test_a_public_server_listens_everywhere_but_not_with_its_metrics(
    serve: Start, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice {ALICE}\n")
    server = serve("--public", f"--keys-file={keys}")
    listening = {
        it.laddr.port: it.laddr.ip
        for process in server.family
        for it in process.net_connections(kind="inet")
        if it.status == psutil.CONN_LISTEN
    }
    port = int(server.metrics_url.rpartition(":")[2].partition("/")[0])
    assert listening.pop(port) == "127.0.0.1"
    assert {ip.removeprefix("::ffff:") for ip in listening.values()} <= {"0.0.0.0", "::"}  # noqa: S104
    assert call(server.grpc_url, request("numbers"), ALICE)[0] == "OK"


def test_a_triton_that_hangs_is_not_ready_behind_a_front_that_lives(shared: TritonServer) -> None:
    triton = psutil.Process(shared.pid)
    before = shared.front_pids
    triton.suspend()
    try:
        assert _is_ok(f"http://{shared.metrics_url}/v2/health/live")
        assert not _is_ok(f"http://{shared.metrics_url}/v2/health/ready")
    finally:
        triton.resume()
    works(shared.grpc_url, "numbers")
    assert shared.front_pids == before
