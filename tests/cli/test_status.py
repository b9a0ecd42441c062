"""`hqsam status`, against a running server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hqsam_server import TritonServer

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


def test_status_tells_replicas_apart_and_fails_if_one_is_down(
    url: str, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("status", "--url", f"{url},{nobody}", "--metrics-port", "1") == 1
    printed = capsys.readouterr().out
    assert f"{url}: ready" in printed
    assert "store   unknown" in printed
    assert f"{nobody}: failed: no answer" in printed
    assert hqsam("status", "--url", nobody, "--json") == 1
    assert json.loads(capsys.readouterr().out)["ready"] is False
