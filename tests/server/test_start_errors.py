"""If `hqsam serve` cannot start, it prints one clear line and exits with status 1."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hqsam_testing.serve_process import ANY_PORTS, command
from hqsam_testing.waiting import TIMEOUT_S
from packaging.requirements import Requirement


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A copy of the stand-in repository, to be broken."""
    return Path(shutil.copytree(repository, tmp_path / "model_repository", symlinks=True))


def said(temporary: Path, *arguments: str | Path, prelude: str = "") -> str:
    """Return the error of a `hqsam serve` that fails, and assert that it is one line."""
    result = subprocess.run(
        command(*ANY_PORTS, *arguments, prelude=prelude),
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("hqsam serve: ")
    assert sum(line.startswith("hqsam serve: ") for line in lines) == 1
    assert list(temporary.iterdir()) == []
    return lines[-1]


def test_a_missing_repository(temporary: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert f"no model repository at {absent}" in said(temporary, f"--model-repository={absent}")


def test_a_file_in_place_of_a_repository(temporary: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert f"no model repository at {file}" in said(temporary, f"--model-repository={file}")


def test_a_broken_link(temporary: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "absent")
    assert f"no model repository at {link}" in said(temporary, f"--model-repository={link}")


def test_a_repository_without_models(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    line = said(temporary, f"--model-repository={tmp_path / 'empty'}")
    assert "contains no model: expected a folder with */config.pbtxt" in line


def _no_onnx(copy: Path) -> None:
    (copy / "numbers" / "1" / "model.onnx").unlink()


def _broken_onnx(copy: Path) -> None:
    (copy / "numbers" / "1" / "model.onnx").write_bytes(b"not ONNX")


def _broken_config(copy: Path) -> None:
    (copy / "numbers" / "config.pbtxt").write_text('name: "numbers"\nsurprise: 1\n')


def _binary_config(copy: Path) -> None:
    (copy / "numbers" / "config.pbtxt").write_bytes(b"\xff\xfe\x00")


def _unreadable_config(copy: Path) -> None:
    (copy / "numbers" / "config.pbtxt").unlink()
    (copy / "numbers" / "config.pbtxt").mkdir()


def _contradiction(copy: Path) -> None:
    config = copy / "numbers" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [ -1 ]", "dims: [ 4 ]"))


def _broken_python(copy: Path) -> None:
    (copy / "gate" / "1" / "model.py").write_text("raise RuntimeError('not today')\n")


@pytest.mark.parametrize(
    ("break_", "expected"),
    [
        (_no_onnx, "numbers has no model.onnx: run hqsam export"),
        (_broken_onnx, "OpenVINO cannot load"),
        (_broken_config, "numbers/config.pbtxt: "),
        (_binary_config, "numbers/config.pbtxt: "),
        (_unreadable_config, "numbers/config.pbtxt: "),
        (_contradiction, "declares the output sum as TYPE_FP32 [4], the file has TYPE_FP32 [-1]"),
        (_broken_python, "not today"),
    ],
)
def test_a_model_that_cannot_be_loaded(
    copy: Path, temporary: Path, break_: Callable[[Path], None], expected: str
) -> None:
    break_(copy)
    assert expected in said(temporary, f"--model-repository={copy}")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("service", ["grpc", "http", "metrics"])
def test_a_port_that_is_taken(repository: Path, temporary: Path, taken: int, service: str) -> None:
    line = said(temporary, f"--model-repository={repository}", f"--{service}-port={taken}")
    assert f"cannot listen on 127.0.0.1:{taken} (Address already in use)" in line


def test_a_number_that_is_not_a_port(repository: Path, temporary: Path) -> None:
    line = said(temporary, f"--model-repository={repository}", "--grpc-port=123456")
    assert "123456 is not a port" in line


def test_an_address_of_another_machine(repository: Path, temporary: Path) -> None:
    line = said(temporary, f"--model-repository={repository}", "--grpc-address=192.0.2.1")
    assert "cannot listen on 192.0.2.1:0" in line


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--surprise=1", "unrecognized option '--surprise=1'"),
        ("--log-verbose=x", 'Bad option: "--log-verbose"'),
    ],
)
def test_an_argument_that_triton_does_not_know(
    repository: Path, temporary: Path, argument: str, expected: str
) -> None:
    assert expected in said(temporary, f"--model-repository={repository}", "--", argument)


@pytest.mark.parametrize(
    ("prelude", "expected"),
    [
        ("import sys; sys.modules['pytriton'] = None; ", "nvidia-pytriton"),
        (
            "import ctypes.util, sysconfig; sysconfig.get_config_vars()['LIBDIR'] = '/absent'; "
            "ctypes.util.find_library = lambda name: None; ",
            ".so is missing, which Triton's Python backend needs",
        ),
        ("import sys; sys.modules['psutil'] = None; ", "the package psutil is missing"),
        (
            "import numpy; numpy.__version__ = '2.2.6'; ",
            "NumPy 2.2.6 is installed, nvidia-pytriton needs NumPy 1: pip install 'numpy<2'",
        ),
    ],
)
def test_a_part_that_is_not_installed(
    repository: Path, temporary: Path, prelude: str, expected: str
) -> None:
    assert expected in said(temporary, f"--model-repository={repository}", prelude=prelude)


def test_a_disk_that_cannot_be_written(repository: Path, temporary: Path) -> None:
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999)); "
    line = said(temporary, f"--model-repository={repository}", prelude=prelude)
    assert "the server cannot be started: " in line
    assert "File too large" in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--grpc-server-cert=a.pem"], "--grpc-server-cert does nothing without TLS"),
        (["--grpc-use-ssl"], "--grpc-use-ssl needs --grpc-server-cert"),
        (
            ["--grpc-use-ssl-mutual", "--grpc-server-cert=a.pem", "--grpc-server-key=a.pem"],
            "--grpc-use-ssl-mutual needs --grpc-root-cert",
        ),
        (["--public"], "--public would let everybody in: add --keys-file"),
        (["--anonymous"], "--anonymous does nothing without --public"),
        (["--caller-requests=0"], "--caller-requests is 0, expected more than 0"),
        (["--keys-file=/nowhere"], "the keys cannot be read"),
        (["--proxy=somewhere"], "'somewhere' is no address or network: correct --proxy"),
        (["--small"], "--small and --model-repository were both given"),
    ],
)
def test_options_that_contradict_each_other(
    repository: Path, temporary: Path, options: list[str], expected: str
) -> None:
    assert expected in said(temporary, f"--model-repository={repository}", *options)


def test_no_extra_brings_an_opencv_that_replaces_numpy_1() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    found = [Requirement(it) for it in re.findall(r'"(opencv[^"]*)"', text)]
    assert found
    for requirement in found:
        # Since 4.12 OpenCV needs NumPy 2, and pip replaces what a server needs.
        assert requirement.specifier.contains("4.11.0.86")
        assert not requirement.specifier.contains("4.12.0.88")
