"""What is public, and that the sync and the async client are alike."""

from __future__ import annotations

import inspect
import subprocess
import sys

import hqsam_client
import pytest
from hqsam_client import (
    AsyncHQSam,
    AsyncRemoteImage,
    HQSam,
    HQSamError,
    RemoteImage,
    errors,
    predictor,
)

EXPORTS = {
    "AccessDeniedError",
    "AsyncHQSam",
    "AsyncRemoteImage",
    "ConnectionLostError",
    "EmbedResult",
    "HQSam",
    "HQSamError",
    "InvalidRequestError",
    "Mask",
    "MissingPackageError",
    "NotFoundError",
    "OptionError",
    "Image",
    "ImageError",
    "PromptError",
    "RequestRefusedError",
    "RequestTimeoutError",
    "ServerFailedError",
    "SupersededError",
    "TooLargeError",
    "UnavailableError",
}


def test_the_exports_are_these_and_no_others() -> None:
    assert set(hqsam_client.__all__) == EXPORTS
    assert set(dir(hqsam_client)) == EXPORTS
    assert all(getattr(hqsam_client, name).__name__ == name for name in EXPORTS)
    assert set(predictor.__all__) == {"RemoteSam", "SamPredictor", "sam_model_registry"}


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    found = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, HQSamError)
    }
    assert found == {name for name in EXPORTS if name.endswith("Error")}
    assert all(name in (errors.__doc__ or "") for name in found)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = hqsam_client.Nothing


def public_methods(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("sync", "asynchronous"), [(HQSam, AsyncHQSam), (RemoteImage, AsyncRemoteImage)]
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
