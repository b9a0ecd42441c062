"""Commands under test end with their test, whatever they do."""

from __future__ import annotations

import sys

import psutil
import pytest
from hqsam_testing.command import Command, run

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_command_that_never_says_it_is_ready_is_reported_with_its_output() -> None:
    with (
        Command(python("print('loading', flush=True); import time; time.sleep(600)")) as command,
        pytest.raises(AssertionError, match=r"within 1 s it did not print 'ready':\nloading"),
    ):
        command.line("loading")
        command.line("ready", timeout_s=1)
    assert command.process.returncode is not None


def test_a_command_that_ends_before_it_is_ready_is_reported_with_its_output() -> None:
    with (
        Command(python("print('no port')")) as command,
        pytest.raises(AssertionError, match="it ended without 'ready':\nno port"),
    ):
        command.line("ready")


def test_a_killed_command_takes_what_it_started_with_it() -> None:
    with Command(python(PARENT)) as command:
        child = psutil.Process(int(command.line("child").split()[1]))
        assert child.is_running()
    assert command.process.returncode is not None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_command_that_takes_too_long_is_killed_with_what_it_started() -> None:
    with Command(python(PARENT)) as command:
        child = psutil.Process(int(command.line("child").split()[1]))
        with pytest.raises(TimeoutError, match="it did not end within 1 s:\nchild"):
            command.wait(timeout_s=1)
        assert command.process.returncode is not None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_output_and_errors_of_a_command_are_kept_apart() -> None:
    done = run(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
