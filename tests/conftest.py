"""What all tests share: the order of the packages, and repositories."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hqsam_export.modeling import Architecture
from hqsam_testing import browser, rebuilt
from hqsam_testing import cheap_repository as cheap
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

GROUPS = (
    ("e2e", "export"),  # the export of a full-size ViT-B
    ("client", "cli", "ui", "docker"),  # the server with the tiny model
    ("small", "docs", "integrations"),  # the server with the small model
    ("server",),
    ("cluster",),
    ("hostile",),
    ("faults",),
    ("models",),
)
"""Packages of tests that share something costly, the longest group first; then all others."""

LONG_TIMEOUT_S = 900
"""Limit of a slow test, and of those that wait for the full-size export: a minute on two idle
cores, four on busy ones. The limit of all others is in pyproject.toml."""


def _group(nodeid: str) -> int:
    """Return the number of a test's group."""
    package = nodeid.split("/")[1]
    return next((n for n, group in enumerate(GROUPS) if package in group), len(GROUPS))


class _GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Runs each group, or each other package, in one process of pytest-xdist."""

    def _split_scope(self, nodeid: str) -> str:
        group = _group(nodeid)
        return " ".join(GROUPS[group]) if group < len(GROUPS) else nodeid.split("/")[1]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Let pytest-xdist distribute groups."""
    return _GroupScheduling(config, log)


def pytest_report_header() -> str:
    """Say at the top which browser the tests of the page run in."""
    found = browser.find()
    return f"browser: {found or f'{browser.MISSING}; tests of the page in a browser do not run'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the groups, leave out tests without their browser, and give slow tests more time."""
    items.sort(key=lambda item: _group(item.nodeid))
    if browser.find() is None:
        without = [it for it in items if "browser" in getattr(it, "fixturenames", ())]
        config.hook.pytest_deselected(items=without)
        items[:] = [it for it in items if it not in without]
    for item in items:
        is_slow = any(item.get_closest_marker(name) for name in ("slow", "long"))
        if is_slow or "vit_b_repository" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all processes of a run share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session", autouse=True)
def _environment(run_folder: Path) -> Iterator[None]:
    """Keep compiled models for the whole run, out of the user's folder; encodes give way to nobody.

    Otherwise an encode would wait for the tests of the other process, for minutes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(run_folder / "cache"))
        patch.setenv("HQSAM_NICE", "0")
        yield


def _made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process to ask for it makes."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            # A name of its own until it is whole: making it may fail.
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            make(unfinished)
            unfinished.rename(folder)
    return folder


def _exported_once(folder: Path, architecture: Architecture | None) -> Path:
    return _made_once(folder, lambda unfinished: rebuilt.export(unfinished, architecture))


@pytest.fixture(scope="session")
def tiny_repository(run_folder: Path) -> Path:
    """A whole model repository with a tiny random model under the contract's shapes."""
    return _exported_once(run_folder / "tiny", rebuilt.TINY)


@pytest.fixture(scope="session")
def cheap_repository(run_folder: Path) -> Path:
    """A whole model repository with arithmetic in place of the models."""
    return _made_once(run_folder / "cheap", cheap.write)


@pytest.fixture(scope="session")
def vit_b_repository(run_folder: Path) -> Path:
    """The model repository of a full-size ViT-B with the oracle's weights: takes a minute."""
    return _exported_once(run_folder / "vit_b", None)


@pytest.fixture(scope="session")
def light_repository(run_folder: Path) -> Path:
    """The model repository of a full-size Light HQ-SAM with the oracle's weights."""
    return _exported_once(run_folder / "light", rebuilt.LIGHT)


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"
