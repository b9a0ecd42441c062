"""The flows of calls, and how masks are combined, without a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hqsam_client import (
    HQSamError,
    NotFoundError,
    PromptError,
    ServerFailedError,
    UnavailableError,
    contract,
)
from hqsam_client.mask import Mask
from hqsam_client.shared import prompt_encoding
from hqsam_client.shared.modes import Choice, choice, combine
from hqsam_client.shared.protocol import (
    UNLOADING_PAUSES_S,
    Call,
    Flow,
    embed_flow,
    finished_flow,
    segment_flow,
)
from hqsam_client.shared.run_lengths import RunLengths
from hqsam_client.shared.upload import Upload, prepare
from hqsam_testing.oracle import images
from tritonclient.grpc import service_pb2

UPLOAD = prepare(images.draw(60, 40))
LARGE = prepare(images.draw(600, 400))
PROMPTS = prompt_encoding.build(UPLOAD.size, points=[[(3, 4)], [(5, 6)]])
MISS = NotFoundError("unknown", "NOT_FOUND")


def answer(**tensors: np.ndarray[Any, Any]) -> Any:
    response = service_pb2.ModelInferResponse(model_name="test")
    for name, array in tensors.items():
        dtype = "BOOL" if array.dtype == np.bool_ else "FP32"
        response.outputs.add(name=name, datatype=dtype, shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    return response


def masks(prompts: int = 2) -> Any:
    return answer(
        low_res_masks=np.ones((prompts, 1, 256, 256), np.float32),
        iou_predictions=np.full((prompts, 1), 0.5, np.float32),
    )


def stored(already: bool) -> Any:
    return answer(already_stored=np.array([already]))


def drive(flow: Flow[Any], *answers: Any) -> tuple[list[Call], Any]:
    """Run a flow on given answers, errors among them; returns its calls and its result."""
    calls = [next(flow)]
    for reply in answers:
        step: Callable[[Any], Call] = flow.throw if isinstance(reply, Exception) else flow.send
        try:
            calls.append(step(reply))
        except StopIteration as stop:
            return calls, stop.value
    raise AssertionError("the flow wants another answer")


def summary(calls: list[Call]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (call.request.model_name, tuple(tensor.name for tensor in call.request.inputs))
        for call in calls
    ]


QUESTION = ("embed", ("image_id",))
BYTES = ("embed", ("image_id", "encoded_image"))
SEGMENT = ("segment", ("image_id", "point_coords", "point_labels"))


def test_an_image_that_the_server_has_is_not_sent() -> None:
    calls, known = drive(embed_flow(UPLOAD, ask=True), stored(True))
    assert summary(calls) == [QUESTION]
    assert known is True


def test_an_image_that_the_server_lacks_is_sent_after_the_question() -> None:
    calls, known = drive(embed_flow(UPLOAD, ask=True), stored(False), stored(False))
    assert summary(calls) == [QUESTION, BYTES]
    assert [call.encodes for call in calls] == [False, True]
    assert known is False


def test_a_known_image_costs_a_click_one_call() -> None:
    calls, result = drive(segment_flow(UPLOAD, PROMPTS, choice("hq")), masks())
    assert summary(calls) == [SEGMENT]
    assert len(result) == 2


def test_after_a_miss_a_small_image_is_sent_unasked_and_the_click_repeated() -> None:
    flow = segment_flow(UPLOAD, PROMPTS, choice("hq"))
    calls, result = drive(flow, MISS, stored(False), masks())
    assert summary(calls) == [SEGMENT, BYTES, SEGMENT]
    assert len(result) == 2


def test_after_a_miss_a_large_image_is_asked_for_first() -> None:
    flow = segment_flow(LARGE, PROMPTS, choice("hq"))
    calls, _ = drive(flow, MISS, stored(True), masks())
    assert summary(calls) == [SEGMENT, QUESTION, SEGMENT]


def test_a_server_that_ends_has_no_embed_for_a_moment_and_is_asked_again() -> None:
    calls, known = drive(embed_flow(UPLOAD, ask=False), MISS, MISS, stored(False))
    assert summary(calls) == [BYTES] * 3
    assert [call.after_s for call in calls] == [0, *UNLOADING_PAUSES_S[:2]]
    assert known is False


def test_a_server_that_never_has_embed_is_an_error() -> None:
    with pytest.raises(NotFoundError):
        drive(embed_flow(UPLOAD, ask=False), *[MISS] * (len(UNLOADING_PAUSES_S) + 1))


def test_an_image_that_is_lost_again_is_embedded_again() -> None:
    flow = segment_flow(UPLOAD, PROMPTS, choice("hq"))
    calls, _ = drive(flow, MISS, stored(False), MISS, stored(False), masks())
    assert summary(calls) == [SEGMENT, BYTES, SEGMENT, BYTES, SEGMENT]
    assert [call.after_s for call in calls] == [0, 0, 0, 0, UNLOADING_PAUSES_S[0]]


def test_an_image_that_is_lost_every_time_is_an_error() -> None:
    flow = segment_flow(UPLOAD, PROMPTS, choice("hq"))
    with pytest.raises(NotFoundError):
        drive(flow, *[MISS, stored(False)] * (2 + len(UNLOADING_PAUSES_S)))


@pytest.mark.parametrize(
    "broke_off", [UnavailableError("Socket closed"), ServerFailedError("RST_STREAM", "INTERNAL")]
)
def test_a_click_whose_answer_broke_off_is_sent_once_more(broke_off: HQSamError) -> None:
    # gRPC repeats no call whose answer has begun, as when a proxy loses the replica within it.
    flow = segment_flow(UPLOAD, PROMPTS, choice("hq"))
    calls, result = drive(flow, broke_off, stored(True), masks())
    assert summary(calls) == [SEGMENT, QUESTION, SEGMENT]
    assert len(result) == 2
    flow = segment_flow(UPLOAD, PROMPTS, choice("hq"))
    with pytest.raises(type(broke_off)):
        drive(flow, broke_off, stored(True), broke_off)


@pytest.mark.parametrize(
    "refused", [UnavailableError("busy"), ServerFailedError("failed", "INTERNAL")]
)
def test_a_click_that_grpc_has_repeated_is_not_repeated_once_more(refused: HQSamError) -> None:
    with pytest.raises(type(refused)):
        drive(segment_flow(UPLOAD, PROMPTS, choice("hq")), refused)


def test_other_errors_are_not_taken_for_a_miss() -> None:
    error = HQSamError("something else")
    with pytest.raises(HQSamError) as caught:
        drive(segment_flow(UPLOAD, PROMPTS, choice("hq")), error)
    assert caught.value is error


def test_every_call_carries_the_image_id_for_the_balancing() -> None:
    calls, _ = drive(segment_flow(UPLOAD, PROMPTS, choice("hq")), MISS, stored(False), masks())
    assert {call.image_id for call in calls} == {UPLOAD.image_id}


def test_an_answer_of_another_length_than_its_shape_is_an_error_of_the_server() -> None:
    response = masks()
    response.raw_output_contents[0] = b"1234"
    with pytest.raises(ServerFailedError, match="low_res_masks has 4 bytes, which do not fill"):
        drive(segment_flow(UPLOAD, PROMPTS, choice("hq")), response)


def with_the_number(value: float, name: str = "low_res_masks") -> Any:
    """Return an answer to two prompts with one number among the outputs replaced."""
    arrays = {
        "low_res_masks": np.ones((2, 1, 256, 256), np.float32),
        "iou_predictions": np.full((2, 1), 0.5, np.float32),
    }
    arrays[name].flat[1] = value
    return answer(**arrays)


def with_more_bytes() -> Any:
    response = masks()
    response.raw_output_contents.append(b"")
    return response


def of_negative_shape() -> Any:
    response = masks()
    response.outputs[0].shape[0] = -1
    return response


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (answer(), "low_res_masks is missing"),
        (answer(low_res_masks=np.ones((2, 1, 256, 256), np.float32)), "iou_predictions is missing"),
        (masks(3), r"FP32 \[3, 1, 256, 256\], expected FP32 \[2, 1, 256, 256\]"),
        (masks(0), r"\[0, 1, 256, 256\], expected"),
        (of_negative_shape(), r"\[-1, 1, 256, 256\], expected"),
        (answer(low_res_masks=np.ones(2, np.bool_), iou_predictions=np.ones(2)), "is BOOL"),
        (with_more_bytes(), "outputs and their bytes differ in number"),
        (with_the_number(np.nan), "are not finite numbers"),
        (with_the_number(-np.inf), "are not finite numbers"),
        (with_the_number(np.nan, "iou_predictions"), "are not finite numbers"),
    ],
)
def test_an_answer_that_is_no_mask_is_an_error_of_the_server(response: Any, message: str) -> None:
    # Other shapes ended in an IndexError, and logits of NaN in an empty mask.
    with pytest.raises(ServerFailedError, match=f"answer of segment cannot be used: .*{message}"):
        drive(segment_flow(UPLOAD, PROMPTS, choice("hq")), response)


def run_lengths(*texts: bytes, score: float = 0.5) -> Any:
    """Return an answer with finished masks."""
    response = answer(iou_predictions=np.full((len(texts), 1), score, np.float32))
    response.outputs.add(name="mask_rle", datatype="BYTES", shape=[len(texts)])
    response.raw_output_contents.append(
        b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    )
    return response


ALL_OFF = RunLengths.of_mask(np.zeros(UPLOAD.size, np.bool_)).text()


def test_finished_masks_come_as_run_lengths() -> None:
    flow = finished_flow(UPLOAD, PROMPTS, "best")
    request = next(flow).request
    assert [output.name for output in request.outputs] == ["mask_rle", "sam_iou_predictions"]
    assert (request.inputs[-1].name, request.raw_input_contents[-1]) == ("mode", b"\4\0\0\0best")
    response = run_lengths(ALL_OFF, ALL_OFF)
    _, (first, _) = drive(finished_flow(UPLOAD, PROMPTS, "hq"), response)
    assert (first.area, first.size, first.iou) == (0, UPLOAD.size, 0.5)


def with_one_byte_less() -> Any:
    response = run_lengths(ALL_OFF, ALL_OFF)
    response.raw_output_contents[1] = response.raw_output_contents[1][:-1]
    return response


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (masks(), "mask_rle is missing"),
        (run_lengths(ALL_OFF), r"BYTES \[1\], expected BYTES \[2\]"),
        (run_lengths(ALL_OFF, ALL_OFF + b"1"), "not those of 60 x 40 pixels"),
        (run_lengths(ALL_OFF, b"\xff"), "malformed"),
        (with_one_byte_less(), "mask_rle has [0-9]+ bytes, which do not fill its shape"),
        (run_lengths(ALL_OFF, ALL_OFF, score=np.nan), "not finite numbers"),
    ],
)
def test_an_answer_that_is_no_finished_mask_is_an_error_of_the_server(
    response: Any, message: str
) -> None:
    with pytest.raises(ServerFailedError, match=f"answer of segment cannot be used: .*{message}"):
        drive(finished_flow(UPLOAD, PROMPTS, "hq"), response)


def test_masks_whose_sum_is_infinite_are_an_error_of_the_server() -> None:
    huge = np.finfo(np.float32).max
    response = answer(
        low_res_masks=np.full((2, 1, 256, 256), huge, np.float32),
        iou_predictions=np.full((2, 1), 0.5, np.float32),
        sam_masks=np.full((2, 4, 256, 256), huge, np.float32),
    )
    with pytest.raises(ServerFailedError, match="are not finite numbers"):
        drive(segment_flow(UPLOAD, PROMPTS, choice("hq+sam")), response)


@pytest.mark.parametrize(
    "response", [answer(), answer(already_stored=np.zeros(0, np.bool_)), masks()]
)
def test_an_answer_of_embed_that_does_not_say_what_it_should_is_an_error(response: Any) -> None:
    with pytest.raises(ServerFailedError, match="the answer of embed cannot be used"):
        drive(embed_flow(UPLOAD, ask=True), response)


@pytest.mark.parametrize("mode", ["hq", "hq+sam", "best"])
def test_requests_keep_to_the_contract(mode: Any) -> None:
    mask = Mask(np.zeros((256, 256), np.float32), 0.5, UPLOAD.size)
    prompts = prompt_encoding.build(UPLOAD.size, points=[(3, 4)], refine=mask)
    calls, _ = drive(embed_flow(UPLOAD, ask=True), stored(False), stored(False))
    calls.append(next(segment_flow(UPLOAD, prompts, choice(mode))))
    for call in calls:
        spec = {"embed": contract.EMBED, "segment": contract.SEGMENT}[call.request.model_name]
        inputs = {tensor.name: tensor for tensor in spec.inputs}
        for tensor in call.request.inputs:
            assert tensor.datatype == inputs[tensor.name].dtype
            expected = inputs[tensor.name].shape
            assert len(tensor.shape) == len(expected)
            assert all(want in (-1, got) for want, got in zip(expected, tensor.shape, strict=True))
        assert {output.name for output in call.request.outputs} <= {
            tensor.name for tensor in spec.outputs
        }


def combined(multimask: bool, hq_only: bool) -> tuple[list[float], list[float]]:
    """Combine constant masks for two prompts; returns one pixel and the score of each."""
    tensors = {
        "low_res_masks": np.full((2, 1, 256, 256), 100),
        "iou_predictions": np.array([[0.1], [0.2]]),
        "sam_masks": np.broadcast_to(
            np.array([[1, 2, 3, 4], [5, 6, 7, 8]])[..., None, None], (2, 4, 256, 256)
        ),
        # The single mask's score, the first, is the highest, and does not count among three.
        "sam_iou_predictions": np.array([[0.9, 0.3, 0.5, 0.4], [0.9, 0.8, 0.1, 0.2]]),
    }
    wanted = Choice(multimask, hq_only)
    asked = {name: tensors[name].astype(np.float32) for name in wanted.outputs()}
    logits, ious = combine(asked, wanted)
    assert logits.shape == (2, 256, 256)
    return logits[:, 0, 0].tolist(), np.round(ious.astype(float), 6).tolist()


def test_masks_are_combined_as_the_official_decoder_does() -> None:
    assert combined(multimask=False, hq_only=True) == ([100, 100], [0.1, 0.2])
    assert combined(multimask=False, hq_only=False) == ([101, 105], [0.1, 0.2])
    assert combined(multimask=True, hq_only=False) == ([103, 106], [0.5, 0.8])
    assert combined(multimask=True, hq_only=True) == ([100, 100], [0.5, 0.8])


def test_the_modes_are_the_authors_three() -> None:
    assert choice("hq") == Choice(multimask=False, hq_only=True)
    assert choice("hq+sam") == Choice(multimask=False, hq_only=False)
    assert choice("best") == Choice(multimask=True, hq_only=False)
    with pytest.raises(PromptError, match=r"mode is 'worst', expected one of 'hq', 'hq\+sam'"):
        choice("worst")


def test_masks_know_the_true_size_of_a_shrunk_image() -> None:
    upload = Upload(UPLOAD.encoded, UPLOAD.image_id, (4000, 6000))
    _, result = drive(segment_flow(upload, PROMPTS, choice("hq")), masks())
    assert result[0].size == (4000, 6000)
