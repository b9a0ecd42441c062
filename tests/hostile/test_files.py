"""Each hostile file, sent as raw bytes and by the client, is read or clearly refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hqsam_client import HQSam, ImageError, InvalidRequestError
from hqsam_server import TritonServer
from hqsam_testing.api import Api
from hqsam_testing.hostile_files import CASES
from hqsam_testing.waiting import TIMEOUT_S
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def sam(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
def test_embed_reads_it_or_refuses_it(api: Api, name: str) -> None:
    case = CASES[name]
    try:
        image_id, size, _ = api.embed(case.make())
    except InferenceServerException as error:
        assert error.status() == "StatusCode.INVALID_ARGUMENT", error.message()
        assert case.refusal is not None, error.message()
        assert case.refusal in error.message()
    else:
        assert size == case.size
        assert np.isfinite(api.segment(image_id)["low_res_masks"]).all()


@pytest.mark.parametrize("name", CASES)
def test_the_client_reads_it_or_says_why_not(sam: HQSam, name: str) -> None:
    case = CASES[name]
    try:
        image = sam.open(case.make())
    except (ImageError, InvalidRequestError) as error:
        assert case.refusal is not None, error
        assert str(error)
    else:
        assert image.size == case.size
        assert image.segment(points=[(1, 1)]).array.shape == case.size
