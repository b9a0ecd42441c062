"""What is public, and that the sync and the async client are alike."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import hqsam_client
import pytest
from hqsam_client import (
    AsyncHQSam,
    AsyncRemoteImage,
    AsyncWindowedImage,
    HQSam,
    HQSamError,
    RemoteImage,
    WindowedImage,
    errors,
    predictor,
)


def test_everything_that_is_exported_exists_and_has_a_docstring() -> None:
    assert set(dir(hqsam_client)) == set(hqsam_client.__all__)
    for name in set(hqsam_client.__all__) - {"__version__"}:
        value = getattr(hqsam_client, name)
        assert value.__name__ == name
        assert inspect.getdoc(value)
    assert set(predictor.__all__) <= set(vars(predictor))


_FLAGS = re.DOTALL | re.MULTILINE


def test_the_readme_and_the_guide_import_only_what_is_exported() -> None:
    root = Path(__file__).parents[2]
    imported = set()
    for page in [
        root / "README.md",
        *(root / "docs").glob("*.md"),
        *(root / "examples").glob("*.py"),
    ]:
        for names in re.findall(
            r"from hqsam_client import (\(.+?\)|.+?$)", page.read_text(), _FLAGS
        ):
            imported |= set(re.findall(r"\w+", names))
    assert {"HQSam", "AsyncHQSam"} <= imported <= set(hqsam_client.__all__)


def test_whatever_a_public_method_returns_or_raises_is_exported() -> None:
    exported = set(hqsam_client.__all__)
    for kind in (HQSam, RemoteImage, WindowedImage):
        for name, method in public_methods(kind).items():
            raised = re.findall(r"^ +(\w+Error):", inspect.getdoc(method) or "", re.MULTILINE)
            assert set(raised) <= exported, name
    assert {"Mask", "Polygon", "RemoteImage", "EmbedResult"} <= exported


def test_the_version_is_that_of_the_distribution() -> None:
    assert hqsam_client.__version__ == importlib.metadata.version("hqsam-triton")


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    found = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, HQSamError)
    }
    assert found == {name for name in hqsam_client.__all__ if name.endswith("Error")}
    assert all(name in (errors.__doc__ or "") for name in found)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = hqsam_client.Nothing


def public_methods(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("sync", "asynchronous"),
    [
        (HQSam, AsyncHQSam),
        (RemoteImage, AsyncRemoteImage),
        (WindowedImage, AsyncWindowedImage),
    ],
)
def test_sync_and_async_have_the_same_methods_in_the_same_order(
    sync: type, asynchronous: type
) -> None:
    ours, theirs = public_methods(sync), public_methods(asynchronous)
    assert list(ours) == list(theirs)
    for name, method in ours.items():
        other = theirs[name]
        if not (inspect.isfunction(method) and inspect.isfunction(other)):
            continue
        assert inspect.iscoroutinefunction(other), name
        parameters = inspect.signature(method).parameters
        assert parameters == inspect.signature(other).parameters, name


def test_importing_the_package_or_its_contract_does_not_start_grpc() -> None:
    code = (
        "import sys, hqsam_client.contract; assert 'grpc' not in sys.modules, sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
