"""Requests and responses of the models `embed` and `segment`, and the flows of calls.

A flow is a generator that yields calls and is sent their responses, or thrown their
errors. It does no I/O, so the sync and the async client share it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from hqsam_client import contract
from hqsam_client.errors import (
    HQSamError,
    NotFoundError,
    ServerFailedError,
    TooManyRequestsError,
    UnavailableError,
)
from hqsam_client.mask import Mask
from hqsam_client.shared.channel import BROKE_OFF, REPEATED_BYTES, REPEATED_CODES
from hqsam_client.shared.finishing import Quality
from hqsam_client.shared.modes import Choice, Mode, choice, combine, scores
from hqsam_client.shared.prompt_encoding import Prompts
from hqsam_client.shared.run_lengths import RunLengths, RunLengthsError
from hqsam_client.shared.upload import Upload

ASK_FROM_BYTES = 64 * 1024
"""From this size on, the client asks whether the server has an image before it sends it. The
question costs about a millisecond; on a 100 Mbit/s line so many bytes take five."""

UNLOADING_PAUSES_S = (0.1, 0.4, 1.0)
"""Pauses before a call is repeated that found nothing: the server may be shutting down."""

MAX_WAITS = 10
"""How often a call is repeated that the server refused because of its caller's other calls."""

_DTYPES: dict[str, Any] = {
    "FP32": np.float32,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}

T = TypeVar("T")


class Found(NamedTuple):
    """A mask that is good enough.

    Attributes:
        number: of its prompt in the request.
        runs: the mask.
        iou: its predicted IoU.
        stability_score: its stability score.
    """

    number: int
    runs: RunLengths
    iou: float
    stability_score: float


@dataclass(frozen=True)
class Call:
    """A request to send.

    Attributes:
        request: the request, such as a `ModelInferRequest`.
        image_id: which image it is about, for the load balancing; "" for none.
        encodes: whether it encodes an image, which goes on when nobody waits for it any more.
        is_slow: whether it may take as long as an encode: it waits behind the clicks of others.
        after_s: seconds to wait before it is sent.
        method: the method of Triton's gRPC service.
    """

    request: Any
    image_id: str
    encodes: bool = False
    is_slow: bool = False
    after_s: float = 0.0
    method: str = "ModelInfer"


Flow: TypeAlias = Generator[Call, Any, T]


def patiently(flow: Flow[T]) -> Flow[T]:
    """Return the same flow, whose calls wait as long as the server asks for and are repeated."""
    try:
        call = next(flow)
        while True:
            try:
                response = yield from _patient(call)
            except HQSamError as error:
                call = flow.throw(error)
            else:
                call = flow.send(response)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _patient(call: Call) -> Flow[Any]:
    for _ in range(MAX_WAITS):
        try:
            return (yield call)
        except TooManyRequestsError as error:
            call = replace(call, after_s=error.retry_after_s)
    return (yield call)


def embed_flow(upload: Upload, ask: bool) -> Flow[bool]:
    """Make sure that the server has the image; returns whether it had it before.

    gRPC repeats neither large requests nor a call whose answer broke off. If no server took such a
    request, or a dying process lost it, it is sent once more, after a question whether that is
    needed.

    Args:
        upload: the image.
        ask: whether to ask before sending the bytes.
    """
    if ask and (yield from _is_stored(upload)):
        return True
    request = _embed_request(upload.image_id, upload.encoded)
    call = Call(request, upload.image_id, encodes=True)
    try:
        response = yield from _wherever_it_is_served(call)
    except (UnavailableError, ServerFailedError) as error:
        if not _is_left(call, error):
            raise
        if (yield from _is_stored(upload)):
            return True
        response = yield from _wherever_it_is_served(call)
    return _already_stored(response)


def _is_stored(upload: Upload) -> Flow[bool]:
    """Ask whether the server has the image."""
    question = is_stored_call(upload.image_id)
    return _already_stored((yield from _wherever_it_is_served(question)))


def _already_stored(response: Any) -> bool:
    return bool(read_tensors(response, contract.EMBED, ["already_stored"])["already_stored"][0])


def _is_left(call: Call, error: HQSamError) -> bool:
    """Tell whether the same call may succeed now, and gRPC has not already repeated it."""
    may_succeed = (
        isinstance(error, UnavailableError) or getattr(error, "code", "") in REPEATED_CODES
    )
    is_small = call.request.ByteSize() <= REPEATED_BYTES
    return may_succeed and (not is_small or BROKE_OFF.search(str(error)) is not None)


def _wherever_it_is_served(call: Call) -> Flow[Any]:
    """Call `embed`, which every server has except for the moment in which it shuts down.

    Triton then unloads its models before it closes its port, and answers NOT_FOUND in
    between. A little later the load balancing has found another replica.
    """
    for pause_s in UNLOADING_PAUSES_S:
        try:
            return (yield call)
        except NotFoundError:
            call = replace(call, after_s=pause_s)
    return (yield call)


def masks_flow(upload: Upload, prompts: Prompts, mode: Mode, logits: bool) -> Flow[list[Mask]]:
    """Return `segment_flow`, or `finished_flow` if the masks need no logits.

    Raises:
        PromptError: there is no such mode.
    """
    wanted = choice(mode)
    if logits:
        return segment_flow(upload, prompts, wanted)
    return finished_flow(upload, prompts, mode)


def segment_flow(upload: Upload, prompts: Prompts, wanted: Choice) -> Flow[list[Mask]]:
    """Segment by `image_id`, in parts if there are many prompts; returns a mask for each.

    Args:
        upload: the image.
        prompts: what to segment.
        wanted: which of the decoder's masks to take.
    """
    masks: list[Mask] = []
    for part in prompts.parts():
        call = segment_call(upload.image_id, part, wanted.outputs())
        tensors = yield from _answer(upload, call, len(part.coords))
        masks += _masks(tensors, upload, wanted)
    return masks


def finished_flow(upload: Upload, prompts: Prompts, mode: Mode) -> Flow[list[Mask]]:
    """Segment like `segment_flow`; the server finishes the masks, which have no logits then."""
    masks: list[Mask] = []
    for part in prompts.parts():
        tensors, ious = yield from _finished(upload, part, mode)
        for text, iou in zip(tensors["mask_rle"], ious, strict=True):
            masks.append(Mask(_runs(text, upload), float(iou), upload.size, upload.full_image))
    return masks


def everything_flow(
    upload: Upload, prompts: Prompts, mode: Mode, quality: Quality
) -> Flow[list[Found]]:
    """Segment like `finished_flow`, in one request; returns the masks that are good enough."""
    tensors, ious = yield from _finished(upload, prompts, mode, quality)
    _check_finite(tensors["stability_score"])
    answered = zip(tensors["mask_rle"], ious, tensors["stability_score"], strict=True)
    return [
        Found(number, _runs(text, upload), float(iou), float(score))
        for number, (text, iou, score) in enumerate(answered)
        if text
    ]


def _finished(
    upload: Upload, prompts: Prompts, mode: Mode, quality: Quality | None = None
) -> Flow[tuple[dict[str, NDArray[Any]], NDArray[np.float32]]]:
    """Segment; returns run lengths at the size of the full image by name, and predicted IoU [P].

    With a `quality`, stability scores too; that is work in bulk.
    """
    outputs = ["mask_rle", choice(mode).scores_output()]
    call = segment_call(upload.image_id, prompts, outputs)
    _add_string(call.request, "mode", mode)
    if upload.is_shrunk:
        size = np.array(upload.size, np.int32)
        _add_input(call.request, "mask_size", "INT32", size.shape, size.tobytes())
    if quality is not None:
        call = replace(call, is_slow=True)
        call.request.outputs.add(name="stability_score")
        for name in contract.QUALITY_INPUTS:
            _add_array(call.request, name, np.array([getattr(quality, name)], np.float32))
    tensors = yield from _answer(upload, call, len(prompts.coords))
    ious = scores(tensors, choice(mode))
    _check_finite(ious)
    return tensors, ious


def _runs(text: bytes, upload: Upload) -> RunLengths:
    try:
        return RunLengths.read(text, upload.size)
    except RunLengthsError as error:
        raise _unusable(contract.SEGMENT, str(error)) from error


def _answer(upload: Upload, call: Call, prompts: int) -> Flow[dict[str, NDArray[Any]]]:
    """Segment; if the server lost the image, embed it and segment again.

    Once is enough, unless the server is shutting down. A request that failed and that gRPC could
    not repeat is sent once more: see `embed_flow`.

    Args:
        upload: the image.
        call: to `segment`.
        prompts: how many it has.

    Returns:
        The outputs that it asks for, by name.
    """
    repeated = False
    for pause_s in (0.0, 0.0, *UNLOADING_PAUSES_S):
        try:
            response = yield replace(call, after_s=pause_s)
        except NotFoundError as error:
            missed = error
            yield from embed_flow(upload, ask=len(upload.encoded) >= ASK_FROM_BYTES)
        except (UnavailableError, ServerFailedError) as error:
            if repeated or not _is_left(call, error):
                raise
            repeated = True
            yield from embed_flow(upload, ask=True)
        else:
            names = [output.name for output in call.request.outputs]
            return read_tensors(response, contract.SEGMENT, names, prompts)
    raise missed


def _masks(tensors: dict[str, NDArray[Any]], upload: Upload, wanted: Choice) -> list[Mask]:
    with np.errstate(over="ignore", invalid="ignore"):
        logits, ious = combine(tensors, wanted)
    _check_finite(logits, ious)
    return [
        # A copy, so that one mask does not keep the whole response in memory.
        Mask(one.copy(), float(iou), upload.size, upload.full_image)
        for one, iou in zip(logits, ious, strict=True)
    ]


def _check_finite(*arrays: NDArray[np.float32]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise _unusable(contract.SEGMENT, "its masks or scores are not finite numbers")


def _embed_request(image_id: str, encoded: bytes | None = None) -> Any:
    request = service_pb2.ModelInferRequest(model_name=contract.EMBED.name)
    _add_image_id(request, image_id)
    if encoded is not None:
        _add_input(request, "encoded_image", "UINT8", (len(encoded),), encoded)
    return request


def is_stored_call(image_id: str) -> Call:
    """Return the question whether the server has an image."""
    return Call(_embed_request(image_id), image_id)


def segment_call(image_id: str, prompts: Prompts, outputs: Sequence[str]) -> Call:
    """Return the call that segments an image which the server has; see `segment_flow`."""
    request = service_pb2.ModelInferRequest(model_name=contract.SEGMENT.name)
    _add_image_id(request, image_id)
    _add_array(request, "point_coords", prompts.coords)
    _add_array(request, "point_labels", prompts.labels)
    if prompts.masks is not None and prompts.has_mask is not None:
        _add_array(request, "mask_input", prompts.masks)
        _add_array(request, "has_mask_input", prompts.has_mask)
    for name in outputs:
        request.outputs.add(name=name)
    return Call(request, image_id)


def _add_image_id(request: Any, image_id: str) -> None:
    _add_string(request, "image_id", image_id)


def _add_string(request: Any, name: str, text: str) -> None:
    raw = text.encode("ascii")
    # Triton's BYTES: each element after its length.
    _add_input(request, name, "BYTES", (1,), len(raw).to_bytes(4, "little") + raw)


def _add_array(request: Any, name: str, array: NDArray[np.float32]) -> None:
    _add_input(request, name, "FP32", array.shape, array.tobytes())


def _add_input(request: Any, name: str, dtype: str, shape: Sequence[int], raw: bytes) -> None:
    request.inputs.add(name=name, datatype=dtype, shape=shape)
    request.raw_input_contents.append(raw)


def read_tensors(
    response: Any, model: contract.ModelSpec, names: Sequence[str], prompts: int = 1
) -> dict[str, NDArray[Any]]:
    """Return outputs of a `ModelInferResponse` by name, read-only.

    Args:
        response: of this model.
        model: what the outputs are checked against.
        names: the outputs that are needed; of any dtype of the contract.
        prompts: number of prompts in the request, which dynamic dimensions have to match.

    Raises:
        ServerFailedError: an output is missing, or has another dtype, shape or length.
    """
    specs = {spec.name: spec for spec in model.outputs}
    if len(response.outputs) != len(response.raw_output_contents):
        raise _unusable(model, "outputs and their bytes differ in number")
    found = {
        output.name: (output, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    tensors = {}
    for name in names:
        if name not in found:
            raise _unusable(model, f"{name} is missing")
        output, raw = found[name]
        shape = [prompts if side == -1 else side for side in specs[name].shape]
        dtype = specs[name].dtype
        if (output.datatype, list(output.shape)) != (dtype, shape):
            raise _unusable(
                model, f"{name} is {output.datatype} {list(output.shape)}, expected {dtype} {shape}"
            )
        if dtype == "BYTES":
            tensors[name] = _strings(model, name, raw, shape)
            continue
        values = np.dtype(_DTYPES[dtype])
        if len(raw) != math.prod(shape) * values.itemsize:
            raise _length(model, name, raw)
        tensors[name] = np.frombuffer(raw, values).reshape(shape)
    return tensors


def _strings(
    model: contract.ModelSpec, name: str, raw: bytes, shape: Sequence[int]
) -> NDArray[Any]:
    try:
        return np.asarray(deserialize_bytes_tensor(raw)).reshape(shape)
    except (struct.error, ValueError) as error:
        raise _length(model, name, raw) from error


def _length(model: contract.ModelSpec, name: str, raw: bytes) -> ServerFailedError:
    return _unusable(model, f"{name} has {len(raw)} bytes, which do not fill its shape")


def _unusable(model: contract.ModelSpec, problem: str) -> ServerFailedError:
    return ServerFailedError(
        f"the answer of {model.name} cannot be used: {problem}; check that the address is that of "
        "an HQ-SAM server of this version",
        "INTERNAL",
    )
