"""Seeded, bounded fuzzing: 1,000 inputs, or as many as `HQSAM_FUZZ_INPUTS` says.

Of ten inputs, seven are damaged files for the function that reads images, one is a damaged file
for the same function in Triton, and two are requests to `embed`, `segment` and `hq_sam`. The same
number gives the same inputs.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from hqsam_client import contract
from hqsam_server import TritonServer
from hqsam_server.errors import BadRequestError
from hqsam_server.models.preprocess import Limits, preprocess
from hqsam_testing import image_files
from hqsam_testing.api import Api
from hqsam_testing.raw import Raw, Wire, connect, floats, text, valid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.mutations import mutated
from tests.hostile.unhurt import MEMORY_GROWTH_BYTES

INPUTS = int(os.environ.get("HQSAM_FUZZ_INPUTS", "1000"))
IN_PROCESS, IN_TRITON, REQUESTS = INPUTS * 7 // 10, INPUTS // 10, INPUTS * 2 // 10

_LIMITS = Limits(max_pixels=1_000_000)


@pytest.fixture(scope="module")
def wire(server: TritonServer) -> Iterator[Wire]:
    with connect(server.grpc_url) as wire:
        yield wire


@pytest.fixture(scope="module")
def counts() -> Iterator[Counter[str]]:
    """Counts the results; shown with `-s`."""
    counted: Counter[str] = Counter()
    yield counted
    print(f"\nfuzz: {dict(sorted(counted.items()))}")


def test_damaged_files_are_read_or_refused(counts: Counter[str]) -> None:
    memory = psutil.Process().memory_info().rss
    for number in range(IN_PROCESS):
        try:
            # Pillow warns of what it can do without.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image, size = preprocess(mutated(number), _LIMITS)
        except BadRequestError as error:
            assert str(error), number
            counts["files refused"] += 1
        else:
            assert image.shape == (1, 3, 1024, 1024), number
            assert np.isfinite(image).all(), number
            assert min(size) >= 1, number
            counts["files read"] += 1
    assert psutil.Process().memory_info().rss <= memory + MEMORY_GROWTH_BYTES


def test_damaged_files_are_read_or_refused_by_triton_too(wire: Wire, counts: Counter[str]) -> None:
    for number in range(IN_PROCESS, IN_PROCESS + IN_TRITON):
        encoded = mutated(number)
        inputs = {"encoded_image": Raw("UINT8", (len(encoded),), encoded)}
        code, message, _ = wire.infer("preprocess", inputs, ["original_size"])
        assert code in ("OK", "INVALID_ARGUMENT"), (number, message)
        assert message or code == "OK"
        counts[f"files to Triton: {code}"] += 1


_SIDES = st.sampled_from(
    [0, 1, 1, 1, 2, 3, 5, 64, 129, 256, 300, 1024, -1, 2**31, 2**62 + 1, 2**63 - 1]
)
_SHAPES = st.lists(_SIDES, max_size=5)
_BYTES = {"FP32": 4, "FP64": 8, "FP16": 2, "INT32": 4, "INT64": 8, "UINT8": 1, "BOOL": 1}
_DTYPES = st.sampled_from([*_BYTES, "BYTES", "FP33", ""])
_FLOATS = st.floats(width=32) | st.sampled_from([-1, 0, 1, 2, 3, 0, 1024, np.nan, np.inf])


@st.composite
def _anything(draw: st.DrawFn) -> Raw:
    """A tensor whose parts may contradict each other; most have as many bytes as their shape."""
    dtype, shape = draw(_DTYPES), draw(_SHAPES)
    size = int(np.prod([float(side) for side in shape])) * _BYTES.get(dtype, 1)
    if not 0 <= size <= 2**16 or draw(st.integers(0, 3)) == 0:
        return Raw(dtype, shape, draw(st.binary(max_size=100)))
    filling = draw(st.binary(min_size=1, max_size=16))
    return Raw(dtype, shape, (filling * (size // len(filling) + 1))[:size])


@st.composite
def _prompts(draw: st.DrawFn) -> dict[str, Raw]:
    """Prompts whose shapes agree and whose numbers may be anything."""
    count, points = draw(st.sampled_from([(1, 1), (1, 2), (1, 5), (2, 2), (0, 1), (1, 0)]))

    def array(*shape: int) -> Raw:
        flat = draw(st.lists(_FLOATS, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return floats(np.array(flat, np.float32).reshape(shape))

    return {"point_coords": array(count, points, 2), "point_labels": array(count, points)}


_IMAGE_IDS = st.binary(max_size=80) | st.text("0123456789abcdef", min_size=64, max_size=64).map(
    str.encode
)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, dict[str, Raw], list[str]]:
    """A request with some invalid inputs and outputs."""
    model = draw(st.sampled_from([contract.EMBED, contract.SEGMENT, contract.SEGMENT]))
    # An encode for every third input would take hours.
    if draw(st.integers(0, 3)) == 0:
        model = contract.HQ_SAM
    inputs = valid(model.name)
    names = [spec.name for spec in model.inputs]
    if model is contract.SEGMENT:
        known = draw(st.booleans())
        image_id = text(STORED.encode()) if known else text(draw(_IMAGE_IDS))
        inputs["image_id"] = image_id
        del inputs["mask_input"], inputs["has_mask_input"]
    if model is not contract.EMBED and draw(st.booleans()):
        inputs |= draw(_prompts())
    spoilt = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    for name in spoilt if model is contract.HQ_SAM or draw(st.booleans()) else ():
        inputs[name] = draw(_anything())
    if draw(st.integers(0, 4)) == 0:
        inputs.pop(draw(st.sampled_from(names)), None)
    if draw(st.integers(0, 9)) == 0:
        inputs["surprise"] = draw(_anything())
    known_outputs = [spec.name for spec in model.outputs]
    outputs = st.lists(st.sampled_from([*known_outputs, *known_outputs, "surprise"]), max_size=2)
    return model.name, inputs, draw(outputs)


_IMAGE = image_files.png(300, 200)
STORED = hashlib.sha256(_IMAGE).hexdigest()


@pytest.fixture(scope="module")
def _stored(api: Api) -> None:
    assert api.embed(_IMAGE)[0] == STORED


@pytest.mark.usefixtures("_stored")
def test_requests_are_answered_as_the_contract_says_or_refused(
    wire: Wire, counts: Counter[str]
) -> None:
    models = {model.name: model for model in contract.MODELS}

    @settings(
        max_examples=REQUESTS,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_requests())
    def check(request: tuple[str, dict[str, Raw], list[str]]) -> None:
        model, inputs, outputs = request
        code, message, response = wire.infer(model, inputs, outputs)
        counts[f"{model}: {code}"] += 1
        assert code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"), message
        if code == "OK":
            _check(response, models[model])
        else:
            assert message

    check()


def _check(response: Any, model: contract.ModelSpec) -> None:
    """Assert that an answer has the contract's names, types and shapes."""
    specs = {spec.name: spec for spec in model.outputs}
    for output in response.outputs:
        spec = specs[output.name]
        assert output.datatype == spec.dtype
        assert len(output.shape) == len(spec.shape)
        for side, declared in zip(output.shape, spec.shape, strict=True):
            assert declared in (-1, side)
