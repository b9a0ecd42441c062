"""Connects Triton's Python backend with the plain functions that do the work.

It can be imported only inside a Python model: Triton provides `triton_python_backend_utils`.

This is the one place where errors become status codes. When one model calls another, Triton
replaces every code with INTERNAL and keeps the message. So models that others call (*inner*
models) write their code in front of the message, as in ``[INVALID_ARG] the image has …``, and
`call` reads it back. A message without a code comes from Triton itself: the model's queue is full,
or its process has died and is being restarted.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from hqsam_server.errors import (
    BadRequestError,
    ModelUnavailableError,
    OverloadedError,
    RequestCancelledError,
    ServingError,
    UnknownImageError,
)
from hqsam_server.models.caller import CALLER_PARAMETER
from hqsam_server.models.metrics import (
    EmbedMetrics,
    Metrics,
    build,
    build_embed,
)
from hqsam_server.models.settings import niceness

# Triton drops the metrics of a family that nothing refers to.
_families: list[Any] = []

_METRICS = Lock()

# By name: the codes do not exist yet when a model.py is imported. Other errors are INTERNAL.
_CODES: dict[type[Exception], str] = {
    BadRequestError: "INVALID_ARG",
    UnknownImageError: "NOT_FOUND",
    OverloadedError: "UNAVAILABLE",
    ModelUnavailableError: "UNAVAILABLE",
    RequestCancelledError: "CANCELLED",
}
_INTERNAL = "INTERNAL"

# An inner model's error, behind what ensembles put in front of it.
_CODED = re.compile(r"(?:in ensemble '[^']*', )*\[([A-Z_]+)\] (.*)", re.DOTALL)


def parameters(args: Mapping[str, str]) -> dict[str, str]:
    """Return the `parameters` of the model's config.pbtxt; takes the argument of `initialize`."""
    config = json.loads(args["model_config"])
    return {name: value["string_value"] for name, value in config["parameters"].items()}


def lower_priority(args: Mapping[str, str]) -> None:
    """Let this process give way to others as far as the parameter `nice` says.

    Call it first in `initialize`, whose argument it takes: it holds for this thread and for those
    that it starts.
    """
    os.nice(niceness(parameters(args)))


def metrics() -> Metrics:
    """Make the project's own metrics, which appear on Triton's Prometheus endpoint."""
    report_restarts()
    return build(
        lambda name, text: _metric(name, text, pb_utils.MetricFamily.COUNTER),
        lambda name, text: _metric(name, text, pb_utils.MetricFamily.GAUGE),
    )


def embed_metrics() -> EmbedMetrics:
    """Make the metrics of `embed` alone."""
    return build_embed(lambda name, text: _metric(name, text, pb_utils.MetricFamily.GAUGE))


def report_restarts() -> None:
    """Publish how often `hqsam serve` restarted something; call it in `initialize`.

    Each restart runs some model's `initialize`, so the number is up to date. It is a gauge although
    it only grows, because several models report the same number.
    """
    file = os.environ.get("HQSAM_RESTARTS_FILE")
    if file is not None:
        text = "Times that a model or the server was restarted because it died"
        gauge = _metric("hqsam_restarts_total", text, pb_utils.MetricFamily.GAUGE)
        gauge.set(Path(file).stat().st_size)
        _families.append(gauge)


class _Metric:
    """One of Triton's metrics, for any number of threads.

    In Triton 2.51, two calls of one metric at the same time read memory that the other one has
    freed, and that ends `tritonserver`.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def increment(self, value: float, /) -> None:
        with _METRICS:
            self._metric.increment(value)

    def set(self, value: float, /) -> None:
        with _METRICS:
            self._metric.set(value)


def _metric(name: str, description: str, kind: Any) -> _Metric:
    family = pb_utils.MetricFamily(name=name, description=description, kind=kind)
    _families.append(family)
    return _Metric(family.Metric(labels={}))


def answer(
    requests: Iterable[Any],
    handle: Callable[[Any], Mapping[str, NDArray[Any]]],
    *,
    inner: bool = False,
) -> list[Any]:
    """Handle each request by itself, so that a bad one never fails its neighbours.

    Args:
        requests: the argument of `execute`.
        handle: maps a request to its outputs by name.
        inner: whether other models call this one; its errors then carry their code.

    Returns:
        One response for each request: an error with its code where `handle` raised.
    """
    return [_answer_one(request, handle, inner) for request in requests]


def send_later(request: Any) -> tuple[Callable[[Any], None], Callable[[], bool]]:
    """Keep a request, to answer it after `execute` has returned None.

    Returns:
        A function that sends the response, and one that says whether the request was cancelled.
        Both can be called from any thread. A response that cannot be sent is logged.
    """
    sender = request.get_response_sender()

    def send(response: Any) -> None:
        try:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:
            _log(error)

    return send, sender.is_cancelled


def _answer_one(
    request: Any, handle: Callable[[Any], Mapping[str, NDArray[Any]]], inner: bool
) -> Any:
    try:
        if request.is_cancelled():
            raise RequestCancelledError("cancelled before the work began")
        return response(handle(request))
    except Exception as error:
        return error_response(error, inner=inner)


def response(outputs: Mapping[str, NDArray[Any]]) -> Any:
    """Make a response of outputs by name."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in outputs.items()])


def answered(answer: Mapping[str, NDArray[Any]] | Exception) -> Any:
    """Make a response of outputs by name, or of an error."""
    return error_response(answer) if isinstance(answer, Exception) else response(answer)


def error_response(error: Exception, *, inner: bool = False) -> Any:
    """Make a response that carries an error's message under its gRPC code.

    An INTERNAL error is logged with its traceback if it came from code that is not this project's.
    """
    code = _CODES.get(type(error), _INTERNAL)
    if code == _INTERNAL and not (isinstance(error, ServingError) and error.__cause__ is None):
        _log(error)
    message = " ".join(str(error).split()) or type(error).__name__
    if inner:
        message = f"[{code}] {message}"
    return pb_utils.InferenceResponse(
        [], pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    )


def caller(request: Any) -> str:
    """Return who sends a request, as the front process names it; "" without one."""
    return str(json.loads(request.parameters() or "{}").get(CALLER_PARAMETER, ""))


def read(request: Any, name: str) -> NDArray[Any] | None:
    """Return an input as an array, or None if the request omits it."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def read_text(request: Any, name: str) -> str | None:
    """Return an input of one string, or None if the request omits it."""
    array = read(request, name)
    return None if array is None else bytes(array[0]).decode("ascii", "replace")


def device(args: Mapping[str, str]) -> int | None:
    """Return the number of the instance's GPU, or None; takes the argument of `initialize`."""
    return int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None


def repository(args: Mapping[str, str]) -> Path:
    """Return the model repository's folder; takes the argument of `initialize`."""
    return Path(args["model_repository"]).parent


def call(
    model_name: str,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Iterable[str],
) -> dict[str, NDArray[Any]]:
    """Run another model of this server and return the requested outputs by name.

    Args:
        model_name: the model.
        inputs: its inputs by name.
        outputs: names of the outputs to return.

    Raises:
        BadRequestError: that model refused the inputs.
        ModelUnavailableError: it could not be asked, or is overloaded.
        ServingError: it failed.
    """
    result = pb_utils.InferenceRequest(
        model_name=model_name,
        requested_output_names=list(outputs),
        inputs=[pb_utils.Tensor(*item) for item in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    ).exec()
    if result.has_error():
        raise _call_error(model_name, result.error().message())
    return {tensor.name(): np.asarray(tensor.as_numpy()) for tensor in result.output_tensors()}


def _call_error(model_name: str, message: str) -> ServingError:
    coded = _CODED.fullmatch(message)
    code, text = coded.groups() if coded else ("UNAVAILABLE", message)
    if code == "INVALID_ARG":
        return BadRequestError(text)
    text = f"the model {model_name} failed: {text}"
    return ModelUnavailableError(text) if code == "UNAVAILABLE" else ServingError(text)


def _log(error: Exception) -> None:
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
