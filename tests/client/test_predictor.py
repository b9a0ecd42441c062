"""The drop-in for the official predictor, used as notebooks use it."""

from __future__ import annotations

import numpy as np
import pytest
from hqsam_client import HQSam, ImageError, OptionError, PromptError
from hqsam_client.predictor import SamPredictor, sam_model_registry
from numpy.typing import NDArray

COORDS = np.array([[105, 90], [10, 190]])
LABELS = np.array([1, 0])
BOX = np.array([20, 30, 200, 180])


@pytest.fixture
def predictor(sam: HQSam, array: NDArray[np.uint8]) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(array)
    return predictor


def test_a_notebook_runs_after_changing_one_import(
    url: str, array: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HQSAM_URL", url)
    model = sam_model_registry["vit_b"](checkpoint="sam_hq_vit_b.pth")
    model.to(device="cuda")
    predictor = SamPredictor(model.eval())
    predictor.set_image(array)
    masks, scores, low_res = predictor.predict(point_coords=COORDS, point_labels=LABELS)
    assert [part.shape for part in (masks, scores, low_res)] == [
        (1, 200, 300),
        (1,),
        (1, 256, 256),
    ]
    assert [part.dtype.name for part in (masks, scores, low_res)] == [
        "bool",
        "float32",
        "float32",
    ]
    again, _, _ = predictor.predict(
        point_coords=COORDS, point_labels=LABELS, mask_input=low_res, return_logits=True
    )
    assert again.dtype == np.float32
    model.client.close()


@pytest.mark.parametrize(
    ("multimask", "hq_only", "mode"),
    [(True, False, "best"), (False, False, "hq+sam"), (False, True, "hq")],
)
def test_the_flags_mean_what_the_modes_do(
    predictor: SamPredictor,
    sam: HQSam,
    array: NDArray[np.uint8],
    multimask: bool,
    hq_only: bool,
    mode: str,
) -> None:
    masks, scores, low_res = predictor.predict(
        COORDS, LABELS, BOX, multimask_output=multimask, hq_token_only=hq_only
    )
    mask = sam.open(array).segment(COORDS, LABELS, BOX, mode=mode)  # type: ignore[call-overload]
    np.testing.assert_allclose(low_res[0], mask.low_res_logits, atol=1e-3)
    np.testing.assert_allclose(scores, [mask.iou], atol=1e-4)
    assert (masks[0] != mask.array).mean() < 1e-3


def test_hq_token_only_with_multimask_output_changes_the_score_only(
    predictor: SamPredictor,
) -> None:
    _, single, of_single = predictor.predict(
        COORDS, LABELS, multimask_output=False, hq_token_only=True
    )
    _, multi, of_multi = predictor.predict(
        COORDS, LABELS, multimask_output=True, hq_token_only=True
    )
    _, best, _ = predictor.predict(COORDS, LABELS, multimask_output=True)
    np.testing.assert_allclose(of_multi, of_single, atol=1e-3)
    np.testing.assert_allclose(multi, best, atol=1e-4)
    assert multi != single


def test_boxes_and_points_outside_the_image_are_taken_as_the_official_class_does(
    predictor: SamPredictor,
) -> None:
    outside = np.array([[-0.4, 200.3], [400, -50]])
    masks, _, _ = predictor.predict(outside, LABELS, np.array([-20.5, -3, 310.25, 204]))
    assert masks.shape == (1, 200, 300)


def test_logits_are_returned_where_asked_for(predictor: SamPredictor) -> None:
    masks, _, _ = predictor.predict(box=BOX[None])
    logits, _, _ = predictor.predict(box=BOX[None], return_logits=True)
    assert logits.dtype == np.float32
    assert (masks != (logits > 0)).mean() < 1e-3


def test_bgr_is_rgb_the_other_way_round(
    predictor: SamPredictor, sam: HQSam, array: NDArray[np.uint8]
) -> None:
    other = SamPredictor(sam)
    other.set_image(array[..., ::-1], image_format="BGR")
    np.testing.assert_allclose(other.predict(box=BOX)[2], predictor.predict(box=BOX)[2], atol=1e-3)


def test_without_an_image_there_is_nothing_to_predict(predictor: SamPredictor) -> None:
    assert predictor.is_image_set
    assert predictor.original_size == (200, 300)
    predictor.reset_image()
    assert not predictor.is_image_set
    with pytest.raises(RuntimeError, match="An image must be set"):
        predictor.predict(box=BOX)


def test_wrong_arguments_are_refused(predictor: SamPredictor, array: NDArray[np.uint8]) -> None:
    with pytest.raises(PromptError, match=r"mask_input is of shape \[4, 4\], expected"):
        predictor.predict(box=BOX, mask_input=np.zeros((4, 4), np.float32))
    with pytest.raises(ImageError, match="image_format is 'HSV', expected 'RGB' or 'BGR'"):
        predictor.set_image(array, image_format="HSV")
    with pytest.raises(ImageError, match="image is of type str, expected an array"):
        predictor.set_image("photo.jpg")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="sam_model is of type str, expected an HQSam"):
        SamPredictor("model")  # type: ignore[arg-type]
