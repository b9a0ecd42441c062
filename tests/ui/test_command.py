"""`hqsam ui` as a process."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from hqsam_client import AsyncHQSam, OptionError
from hqsam_server import TritonServer
from hqsam_testing.browser import hqsam_ui
from hqsam_testing.waiting import TIMEOUT_S
from hqsam_ui import wire
from hqsam_ui.errors import PageStartError
from hqsam_ui.serving import PageServer
from PIL import Image


def run(*arguments: str, missing: str = "") -> subprocess.CompletedProcess[str]:
    """Run `hqsam ui` on a free port until it ends, without a package that it may need."""
    script = (
        f"import sys; sys.modules[{missing!r}] = None; from hqsam_cli.main import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, "ui", "--port=0", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def assert_one_line(
    ended: subprocess.CompletedProcess[str], text: str, returncode: int = 1
) -> None:
    assert ended.returncode == returncode
    assert ended.stdout == ""
    assert ended.stderr.startswith("hqsam ui: ")
    assert text in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--url", "nonsense"], "expected host:port"),
        (["--root-certificates", "missing.pem"], "missing.pem cannot be read"),
        (["--host", "192.0.2.1"], "choose another --port"),
        (["--model-repository", "missing"], "missing"),
    ],
)
def test_a_wrong_option_ends_the_command_before_a_page_is_announced(
    arguments: list[str], text: str
) -> None:
    ended = run(*arguments)
    if "missing" in arguments:
        # The server says first that it is starting.
        first, _, ended.stderr = ended.stderr.partition("\n")
        assert first == "hqsam ui: starting the HQ-SAM server"
    assert_one_line(ended, text)


def test_two_model_repositories_are_refused() -> None:
    ended = run("--small", "--model-repository", ".")
    assert_one_line(ended, "not allowed with argument --small", returncode=2)


@pytest.mark.parametrize(
    ("package", "extra"),
    [("uvicorn", "[ui]"), ("psutil", "[server,ui]")],
)
def test_a_missing_package_is_reported_before_a_server_is_started(package: str, extra: str) -> None:
    ended = run("--small", missing=package)
    assert_one_line(ended, f"{package} is missing: pip install 'hqsam-triton{extra}'")


@pytest.mark.slow
def test_the_page_comes_with_a_server_of_its_own_and_both_end(
    tiny_repository: Path,
) -> None:
    with hqsam_ui("--model-repository", str(tiny_repository)) as (address, _):
        with urllib.request.urlopen(f"{address}/api/status", timeout=TIMEOUT_S) as answer:  # noqa: S310
            status = json.load(answer)
        assert status["ready"] is True
        host, port = status["url"].rsplit(":", 1)
    with socket.create_server((host, int(port))):
        pass


def test_an_error_while_the_page_starts_is_raised_and_the_port_is_free_again() -> None:
    def fail() -> AsyncHQSam:
        raise RuntimeError("no event loop")

    with pytest.raises(PageStartError, match="no event loop"), PageServer("localhost", 0) as page:
        port = int(page.address.rsplit(":", 1)[1])
        page.start(fail)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_port_in_use_is_refused() -> None:
    with (
        PageServer("127.0.0.1", 0) as page,
        pytest.raises(OptionError, match="choose another --port"),
        PageServer("127.0.0.1", int(page.address.rsplit(":", 1)[1])),
    ):
        pass


@pytest.mark.slow
def test_memory_does_not_grow_with_objects_on_a_large_image(server: TritonServer) -> None:
    buffer = io.BytesIO()
    Image.new("L", (16000, 8000), 128).save(buffer, "PNG")
    with hqsam_ui("--url", server.grpc_url) as (address, command):

        def post(path: str, body: bytes) -> bytes:
            request = urllib.request.Request(address + path, body)  # noqa: S310
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                content: bytes = answer.read()
                return content

        image_id = json.loads(post("/api/images", buffer.getvalue()))["image_id"]
        for i in range(64):
            prompt = json.dumps({"points": [[200 * i, 100 * i]], "labels": [1]}).encode()
            assert len(post(f"/api/images/{image_id}/mask", prompt)) == wire.MASK_BYTES
        # The highest since it started. One mask of this image has 122 MiB.
        status = Path(f"/proc/{command.process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert peak is not None
        assert int(peak[1]) * 1024 < 200 * 2**20
