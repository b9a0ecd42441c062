"""Between Triton's Python backend and the plain functions that do the work.

Only importable inside a Python model of Triton, which brings `triton_python_backend_utils`.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from hqsam_server.errors import (
    BadRequestError,
    ModelCallError,
    OverloadedError,
    RequestCancelledError,
    ServingError,
    UnknownImageError,
)
from hqsam_server.models.metrics import Metrics, build

# Triton drops the metrics of a family that nobody refers to.
_families: list[Any] = []

# By name: the codes are not there yet when a model.py is imported.
_CODES: dict[type[Exception], str] = {
    BadRequestError: "INVALID_ARG",
    UnknownImageError: "NOT_FOUND",
    OverloadedError: "UNAVAILABLE",
    ModelCallError: "UNAVAILABLE",
    RequestCancelledError: "CANCELLED",
}


def parameters(args: Mapping[str, str]) -> dict[str, str]:
    """Return the `parameters` of the model's config.pbtxt, from what `initialize` is given."""
    config = json.loads(args["model_config"])
    return {name: value["string_value"] for name, value in config["parameters"].items()}


def metrics() -> Metrics:
    """Make the project's own metrics, which appear on Triton's Prometheus endpoint."""
    report_restarts()
    return build(
        lambda name, text: _metric(name, text, pb_utils.MetricFamily.COUNTER),
        lambda name, text: _metric(name, text, pb_utils.MetricFamily.GAUGE),
    )


def report_restarts() -> None:
    """Publish how often `hqsam serve` restarted something; for `initialize` of any model.

    A restart ends with a model's `initialize`, so there is no need to look again later. A
    gauge, though it only grows: several models say the same number.
    """
    file = os.environ.get("HQSAM_RESTARTS_FILE")
    if file is not None:
        text = "Times that a model was loaded, or the server started, again because it died"
        gauge = _metric("hqsam_restarts_total", text, pb_utils.MetricFamily.GAUGE)
        gauge.set(Path(file).stat().st_size)
        _families.append(gauge)


def _metric(name: str, description: str, kind: Any) -> Any:
    family = pb_utils.MetricFamily(name=name, description=description, kind=kind)
    _families.append(family)
    return family.Metric(labels={})


def answer(requests: Iterable[Any], handle: Callable[[Any], dict[str, NDArray[Any]]]) -> list[Any]:
    """Handle each request by itself, so that a bad one never fails its neighbours.

    Args:
        requests: what `execute` is given.
        handle: maps a request to its outputs by name.

    Returns:
        One response for each request, an error with its code where `handle` raised.
    """
    return [_answer_one(request, handle) for request in requests]


def send_later(request: Any) -> tuple[Callable[[Any], None], Callable[[], bool]]:
    """Keep a request after `execute` has returned None for all of its requests.

    Returns:
        What sends the one response to it, and what tells whether it was cancelled; both
        may be called from any thread. What cannot be sent is logged: it concerns nobody
        but the one caller.
    """
    sender = request.get_response_sender()

    def send(response: Any) -> None:
        try:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:
            _log(error)

    return send, sender.is_cancelled


def _answer_one(request: Any, handle: Callable[[Any], dict[str, NDArray[Any]]]) -> Any:
    try:
        if request.is_cancelled():
            raise RequestCancelledError("cancelled before the work had begun")
        return response(handle(request))
    except Exception as error:
        return error_response(error)


def response(outputs: Mapping[str, NDArray[Any]]) -> Any:
    """Make a response of outputs by name."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in outputs.items()])


def error_response(error: Exception) -> Any:
    """Make a response that carries an error's message under its gRPC code."""
    code = getattr(pb_utils.TritonError, _CODES.get(type(error), "INTERNAL"))
    if not isinstance(error, ServingError):
        _log(error)
    message = str(error) or type(error).__name__
    return pb_utils.InferenceResponse([], pb_utils.TritonError(message, code))


def read(request: Any, name: str) -> NDArray[Any] | None:
    """Return an input as an array, or None where the request leaves it out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def read_text(request: Any, name: str) -> str | None:
    """Return an input of one string, or None where the request leaves it out."""
    array = read(request, name)
    return None if array is None else bytes(array[0]).decode("ascii", "replace")


def repository(args: Mapping[str, str]) -> Path:
    """Return the model repository's folder, from what `initialize` is given."""
    return Path(args["model_repository"]).parent


class RepeatedTensors:
    """Makes input tensors, and those of the names given only once for the same array.

    Triton copies a tensor to shared memory when it is first sent. One that comes again,
    such as the embedding of the image that somebody clicks on, is there already.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._last: dict[str, tuple[NDArray[Any], Any]] = {}

    def __call__(self, name: str, array: NDArray[Any]) -> Any:
        """Return a tensor; an array of a repeated name must not change afterwards."""
        if name not in self._names:
            return pb_utils.Tensor(name, array)
        if name not in self._last or self._last[name][0] is not array:
            self._last[name] = (array, pb_utils.Tensor(name, array))
        return self._last[name][1]


def call(
    model_name: str,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Iterable[str],
    tensor: Callable[[str, NDArray[Any]], Any] | None = None,
) -> dict[str, NDArray[Any]]:
    """Run another model of this server and return the outputs asked for, by name.

    `tensor` makes the inputs' tensors; Triton's own class by default.

    Raises:
        ModelCallError: that model answered with an error.
    """
    result = pb_utils.InferenceRequest(
        model_name=model_name,
        requested_output_names=list(outputs),
        inputs=[(tensor or pb_utils.Tensor)(*item) for item in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    ).exec()
    if result.has_error():
        raise ModelCallError(f"the model {model_name} failed: {result.error().message()}")
    return {tensor.name(): np.asarray(tensor.as_numpy()) for tensor in result.output_tensors()}


def _log(error: Exception) -> None:
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
