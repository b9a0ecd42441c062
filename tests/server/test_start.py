"""A start: what it prints, how long it may take, and that it can be ended at any moment."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hqsam_server import TritonServer, Tuning
from hqsam_server.errors import StartError
from hqsam_server.launcher.log import Log
from hqsam_testing.serve_process import ANY_PORTS, Serve, command, works
from hqsam_testing.waiting import TIMEOUT_S

from tests.server import standins


@pytest.fixture
def hanging(repository: Path, tmp_path: Path) -> Path:
    """A repository whose model `gate` does not load until the pipe next to it is written."""
    copy = Path(shutil.copytree(repository, tmp_path / "model_repository", symlinks=True))
    os.mkfifo(tmp_path / "pipe")
    source = f"open({str(tmp_path / 'pipe')!r}).read()\n{standins.GATE}"
    (copy / "gate" / "1" / "model.py").write_text(source)
    return copy


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_model_loads_ends_it_at_once(
    hanging: Path, temporary: Path, signum: int
) -> None:
    arguments = [f"--model-repository={hanging}", *ANY_PORTS, "--exit-timeout-secs=100000"]
    process = psutil.Popen(command(*arguments), env=os.environ | {"TMPDIR": str(temporary)})
    with (hanging.parent / "pipe").open("w"):  # opens once the model opens it
        family = process.children(recursive=True)
        process.send_signal(signum)
        try:
            assert process.wait(TIMEOUT_S) == 0
        finally:
            if process.is_running():
                process.kill()
    assert not psutil.wait_procs(family, TIMEOUT_S)[1]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("distribution", "find"),
        ("workspace", "_claim"),
        ("repository_view", "write_backends"),
        ("repository_view", "write_repository"),
    ],
)
def test_a_signal_before_triton_runs_leaves_nothing_behind(
    repository: Path, temporary: Path, module: str, function: str
) -> None:
    prelude = (
        "import os, signal\n"
        f"from hqsam_server.launcher import {module}\n"
        f"work = {module}.{function}\n"
        "def interrupted(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return work(*arguments)\n"
        f"{module}.{function} = interrupted\n"
    )
    ended = subprocess.run(
        command(f"--model-repository={repository}", *ANY_PORTS, prelude=prelude),
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_start_that_takes_too_long_ends_and_says_what_it_waits_for(hanging: Path) -> None:
    log = io.StringIO()
    server = TritonServer(hanging, start_timeout_s=12, log=log)
    with pytest.raises(StartError, match=r"not ready within 12 s.* waiting for the models gate;"):
        server.start()
    assert "waiting for the models gate (10 s of 12 s)" in log.getvalue()
    assert not server.is_running()


def test_a_normal_start_prints_few_lines_and_nothing_about_cuda(repository: Path) -> None:
    shown, everything = io.StringIO(), io.StringIO()
    with TritonServer(repository, log=shown):
        pass
    assert len(shown.getvalue().splitlines()) < 13  # `hqsam serve` itself prints two
    assert "CUDA" not in shown.getvalue()
    with TritonServer(repository, log=everything, arguments=["--log-verbose=1"]):
        pass
    assert "CUDA" in everything.getvalue()
    assert "successfully loaded 'numbers'" in everything.getvalue()


def test_the_error_of_a_model_that_cannot_be_loaded_is_shown(
    repository: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "model_repository", symlinks=True))
    (copy / "gate" / "1" / "model.py").write_text("raise RuntimeError('not today')\n")
    shown = io.StringIO()
    with pytest.raises(StartError, match="not today"):
        TritonServer(copy, log=shown).start()
    assert "failed to load 'gate'" in shown.getvalue()
    assert "not today" in shown.getvalue()


LINES = """\
I1124 16:42:12.704066 5352 model_lifecycle.cc:472] "loading: decoder:1"
E1124 16:42:21.660238 5352 ensemble_scheduler.cc:1468] "unable to create stream for encode: \
CUDA driver version is insufficient for CUDA runtime version"
a model prints
I1124 16:42:21.660471 5352 server.cc:604]\x20
+------------------+
| Repository Agent |
+------------------+

W1124 16:42:21.660471 5352 x.cc:1] "a warning"
| goes on |
"""


def _shown(gpu: bool) -> list[str]:
    output = io.StringIO()
    Log(output, gpu=gpu, everything=False).read(LINES.splitlines(keepends=True))
    return output.getvalue().splitlines()


def test_warnings_errors_and_what_models_print_are_shown() -> None:
    lines = LINES.splitlines()
    assert _shown(gpu=False) == ["a model prints", *lines[-2:]]


def test_on_a_gpu_an_error_of_cuda_is_shown() -> None:
    lines = LINES.splitlines()
    assert _shown(gpu=True) == [lines[1], "a model prints", *lines[-2:]]


WRITER = '''
import os, pathlib

class TritonPythonModel:
    """Leaves a file in the store's folder, as `embed` does."""

    def initialize(self, args):
        folder = pathlib.Path(os.environ["HQSAM_STORE_FOLDER"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "entry").touch()

    def execute(self, requests):
        return []
'''


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a repository whose model `gate` writes to the store."""
    here = tmp_path / "here"
    copy = Path(shutil.copytree(repository, here / "model_repository", symlinks=True))
    (copy / "gate" / "1" / "model.py").write_text(WRITER)
    monkeypatch.chdir(here)
    return here


def test_relative_folders_are_those_of_the_current_folder(
    here: Path, temporary: Path, serve: Callable[..., Serve]
) -> None:
    server = Serve(
        Path("model_repository"), temporary, "--store-folder=store", "--cache-dir=cache", options={}
    )
    assert server.stop(signal.SIGTERM) == 0
    assert (here / "store" / "entry").exists()
    assert list((here / "cache").rglob("*.blob"))


@pytest.mark.parametrize("where", ["environment", "process"])
def test_a_relative_store_in_the_environment_is_in_the_current_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    variable = {"HQSAM_STORE_FOLDER": "store"}
    if where == "process":
        monkeypatch.setenv(*next(iter(variable.items())))
        variable = {}
    tuning = Tuning(cache_dir=Path("cache"))
    with TritonServer(Path("model_repository"), tuning=tuning, environment=variable):
        pass
    assert (here / "store" / "entry").exists()
    assert list((here / "cache").rglob("*.blob"))


def test_a_relative_folder_of_backends_is_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Tuning(backend_directory=Path("backends")).backend_directory == tmp_path / "backends"


def test_a_cache_folder_that_cannot_be_made_is_a_warning(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    log = io.StringIO()
    with TritonServer(repository, tuning=Tuning(cache_dir=cache), log=log) as server:
        works(server.grpc_url, "numbers")
    warning = f"the cache folder {cache} cannot be written (Not a directory): models that are not"
    assert log.getvalue().count(warning) == 1
