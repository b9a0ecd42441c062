"""Any process of the real repository may die: it is replaced, and the probe notices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hqsam_cli import main
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_server.launcher.process import instances
from hqsam_testing.api import new_png
from hqsam_testing.command import hqsam
from hqsam_testing.serve_process import Serve
from hqsam_testing.waiting import TIMEOUT_S

from tests.server.test_tls import Files

MODELS = ("decoder", "embed", "encoder", "features", "preprocess", "segment")


@pytest.fixture(scope="module")
def restarted(whole_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A running `hqsam serve` on the whole repository."""
    temporary = tmp_path_factory.mktemp("whole") / "temporary"
    temporary.mkdir()
    server = Serve(whole_repository, temporary, options={})
    yield server
    server.kill()


@pytest.mark.parametrize(
    "model",
    [
        "segment",
        *(pytest.param(it, marks=pytest.mark.slow) for it in MODELS if it != "segment"),
    ],
)
def test_images_are_segmented_after_each_process_died(restarted: Serve, model: str) -> None:
    psutil.Process(restarted.instances()[f"{model}_0_0"]).kill()
    restarted.line(f"{model} is back after")
    with HQSam(restarted.grpc_url) as sam:
        assert sam.open(new_png()).segment(points=[(20, 20)]).array.shape[1] == 60


@pytest.mark.slow
def test_the_probe_notices_a_dead_process_without_supervision(whole_repository: Path) -> None:
    with TritonServer(whole_repository) as server:

        def probe() -> int:
            port = server.metrics_url.rpartition(":")[2]
            options = [f"--url={server.grpc_url}", f"--metrics-port={port}", "--timeout=60"]
            return main.main(["status", "--probe", *options])

        assert probe() == 0
        for model in ("embed", "segment"):
            for pid, instance in instances(server.pid).items():
                if instance.startswith(f"{model}_"):
                    psutil.Process(pid).kill()
            assert probe() == 1, model
            server.reload(model, TIMEOUT_S)
            assert probe() == 0, model


def test_a_probe_on_its_own_machine_needs_no_port_no_key_and_no_certificate(
    whole_repository: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    # The path of a socket is short.
    temporary = tmp_path_factory.mktemp("t")
    environment = {**os.environ, "TMPDIR": str(temporary), "HQSAM_URL": "127.0.0.1:1"}

    def status() -> tuple[int, str]:
        result = subprocess.run(
            hqsam("status", "--probe", "--local", "--timeout=60"),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout

    assert status() == (1, "no server of this user runs here: start one with `hqsam serve`\n")
    (tmp_path / "keys").write_text("alice 0123456789abcdef\n")
    flags = ["--grpc-use-ssl", *Files(tmp_path).flags(), f"--keys-file={tmp_path / 'keys'}"]
    server = Serve(whole_repository, temporary, *flags, options={})
    try:
        code, printed = status()
        assert code == 0, printed
        assert printed.startswith(f"unix:{temporary}/hqsam-")
    finally:
        server.kill()
