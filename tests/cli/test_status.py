"""`hqsam status`, against a running server."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from hqsam_cli import options
from hqsam_cli.main import parser
from hqsam_server import TritonServer
from hqsam_server.launcher.process import instances

from tests.cli.command import hqsam


def metrics_port(server: TritonServer) -> str:
    return server.metrics_url.rpartition(":")[2]


def test_status_tells_of_models_and_store_and_makes_a_real_call(
    folder: Path, url: str, server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("segment", "photo.png", "--point", "5,6") == 0
    capsys.readouterr()
    assert hqsam("status", "--probe", "--metrics-port", metrics_port(server)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{url}: ready, Triton ")
    assert "segment 1" in printed
    assert "missing" not in printed
    assert "probe   answered in" in printed
    assert " 0 encodes" not in printed


def test_status_speaks_json(
    folder: Path, url: str, server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("segment", "photo.png", "--point", "5,6") == 0
    capsys.readouterr()
    assert hqsam("status", "--json", "--metrics-port", metrics_port(server)) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["replica"] == url
    assert status["ready"] is True
    assert {model["name"] for model in status["models"] if model["ready"]} >= {"embed", "segment"}
    assert status["metrics"]["encodes"] >= 1
    assert status["metrics"]["store_entries"] >= 1


def test_metrics_are_read_only_where_they_can_be_this_servers(
    url: str, server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("status", "--url", url) == 0
    assert "store" not in capsys.readouterr().out
    assert hqsam("status", "--url", url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == {}
    # One port is not that of two servers on a host.
    port = metrics_port(server)
    assert hqsam("status", "--url", f"{url},{url}", "--metrics-port", port) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"  store   unknown: port {port} of the host has no metrics of") == 2


def test_one_timeout_bounds_every_answer_of_a_probe() -> None:
    args = parser("status").parse_args(["status", "--probe", "--timeout", "7"])
    chosen = options.client_options(args)
    assert (chosen["timeout_s"], chosen["embed_timeout_s"]) == (7, 7)


@pytest.mark.slow
def test_a_server_whose_embed_has_died_is_not_ready_without_a_probe_either(
    cheap_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TritonServer(cheap_repository) as running:
        for pid, instance in instances(running.pid).items():
            if instance.startswith("embed_"):
                psutil.Process(pid).kill()
        assert hqsam("status", "--url", running.grpc_url, "--timeout", "60") == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{running.grpc_url}: not ready, Triton ")
    assert "\n  problem " in printed


def test_status_tells_replicas_apart_and_fails_if_one_is_down(
    url: str, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("status", "--url", f"{url},{nobody}") == 1
    printed = capsys.readouterr().out
    assert f"{url}: ready, Triton " in printed
    assert f"{nobody}: failed: " in printed
    assert hqsam("status", "--url", nobody, "--json") == 1
    assert json.loads(capsys.readouterr().out)["ready"] is False
