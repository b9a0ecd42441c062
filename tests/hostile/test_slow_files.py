"""Files that keep a decoder busy: each is read or refused within its budget, alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from hqsam_server import TritonServer
from hqsam_testing.api import Api, new_png
from hqsam_testing.slow_files import CASES, jpeg_of_three_thousand_empty_scans
from hqsam_testing.waiting import wait_until
from tritonclient.utils import InferenceServerException

from tests.hostile.conftest import DECODE_SECONDS

pytestmark = pytest.mark.slow

REFUSAL = f"took more than {DECODE_SECONDS} s of processor time to decode"


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_it_is_read_or_refused_when_its_time_is_spent(api: Api, make: Callable[[], bytes]) -> None:
    try:
        _, size, _ = api.embed(make())
    except InferenceServerException as error:
        assert error.status() == "StatusCode.INVALID_ARGUMENT", error.message()
        assert REFUSAL in error.message()
    else:
        assert size == CASES[make]


def test_slow_files_of_one_user_do_not_hold_up_another(
    api: Api, client: triton.InferenceServerClient
) -> None:
    # Each takes all of its time; as many as half of the workers are decoded at once.
    answered: list[Any] = []
    calls = []
    for number in range(12):
        encoded = jpeg_of_three_thousand_empty_scans() + bytes([number])
        tensor = triton.InferInput("encoded_image", [len(encoded)], "UINT8")
        tensor.set_data_from_numpy(np.frombuffer(encoded, np.uint8))
        calls.append(
            client.async_infer(
                "embed",
                [tensor],
                lambda result, error: answered.append(error),
                headers={"x-forwarded-for": "10.0.0.1"},
            )
        )
    wait_until(lambda: api.metric("encodes_waiting") > 0, "slow files to wait")
    assert api.embed(new_png(), caller="10.0.0.2")[1][1] == 60
    assert len(answered) < len(calls)
    # Nobody waits for the others any more: they are given up.
    for call in calls:
        call.cancel()
    wait_until(lambda: api.metric("encodes_running") == 0, "the decoders to be free")
