from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from hqsam_client import contract
from hqsam_server.errors import BadRequestError, RequestCancelledError, UnknownImageError
from hqsam_server.models.caller import Caller
from hqsam_server.models.prompt_checks import PromptLimits
from hqsam_server.models.segment import Limits, Segmenter
from hqsam_server.prompt_decoding.decoder import Job, Lanes
from hqsam_server.runtime.config import Arrays
from hqsam_server.store.embedding_store import EmbeddingStore
from hqsam_server.store.entry import Embedding
from hqsam_testing import image_files
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from tests.models.fakes import Metrics

STORED = "1" * 64
MASKS = [spec.name for spec in contract.PROMPT_DECODER.outputs]


class Placed(NamedTuple):
    embedding: Embedding
    nbytes: int = 100


class Decoder:
    """Answers each prompt with its first x coordinate everywhere, and keeps what it was given."""

    lanes = Lanes(wide=1, narrow=0, together=4)

    def __init__(self) -> None:
        self.placed: list[Placed] = []
        self.jobs: list[Job] = []
        self.requested: list[Collection[str]] = []

    def place(self, embedding: Embedding) -> Placed:
        self.placed.append(Placed(embedding))
        return self.placed[-1]

    def run(self, jobs: Sequence[Job], requested: Collection[str], *, narrow: bool) -> list[Arrays]:
        self.jobs += jobs
        self.requested.append(requested)
        shapes = {spec.name: (1, *spec.shape[1:]) for spec in contract.PROMPT_DECODER.outputs}
        return [
            {name: np.full(shapes[name], job.point_coords[0, 0, 0]) for name in requested}
            for job in jobs
        ]


class Bench:
    """A segmenter on a store of one image, with room for two images where it decodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Metrics()
        self.decoder = Decoder()
        self.store = EmbeddingStore(folder, "a" * 64, self.metrics.metrics)
        self.embed(STORED)
        limits = Limits(PromptLimits(9, 4), open_requests=8, open_bytes=2**30, resident_bytes=200)
        self.segmenter = Segmenter(self.store, self.decoder, self.metrics.metrics, limits)

    def embed(self, image_id: str) -> None:
        self.store.put(image_id, Embedding(*image_files.embedding_arrays(3.0), (400, 600)))

    def segment(
        self,
        inputs: dict[str, Any] | None = None,
        *,
        image_id: str | None = STORED,
        mode: str | None = None,
        requested: Collection[str] = MASKS,
        is_cancelled: bool = False,
    ) -> Arrays:
        answer: Future[Arrays | Exception] = Future()
        caller: Caller[Arrays] = Caller(answer.set_result, lambda: is_cancelled)
        self.segmenter.segment(image_id, {**prompts(1), **(inputs or {})}, mode, requested, caller)
        result = answer.result(TIMEOUT_S)
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.segmenter.close()


def prompts(count: int) -> dict[str, NDArray[np.float32]]:
    """Return prompts of a point each; the x coordinate is the prompt's number."""
    coords = np.zeros((count, 2, 2), np.float32)
    coords[:, 0, 0] = np.arange(count)
    labels = np.tile(np.array([1, -1], np.float32), (count, 1))
    return {"point_coords": coords, "point_labels": labels}


def labelled(*rows: list[float]) -> dict[str, NDArray[np.float32]]:
    labels = np.array(rows, np.float32)
    return {"point_coords": np.full((*labels.shape, 2), 5, np.float32), "point_labels": labels}


def test_prompts_are_decoded_one_by_one_and_answered_in_order(bench: Bench) -> None:
    outputs = bench.segment(prompts(9))
    for spec in contract.PROMPT_DECODER.outputs:
        output = outputs[spec.name]
        assert output.shape == (9, *spec.shape[1:])
        assert output.dtype == np.float32
        assert np.array_equal(output.reshape(9, -1)[:, -1], np.arange(9))
    assert [job.point_labels.shape for job in bench.decoder.jobs] == 9 * [(1, 2)]
    for job in bench.decoder.jobs:
        assert job.mask_input is None
        embedding = cast(Placed, job.image).embedding
        assert (embedding.image_embeddings == 3).all()
        assert (embedding.hq_features == -3).all()
    assert bench.metrics["prompts_total"] == 9
    assert bench.metrics["store_hits_total"] == 1


def test_only_requested_outputs_are_made(bench: Bench) -> None:
    assert list(bench.segment(requested=["low_res_masks"])) == ["low_res_masks"]
    assert bench.decoder.requested == [["low_res_masks"]]


FINISHED = list(contract.FINISHED_OUTPUTS)


def test_finished_masks_are_made_of_what_only_they_need(bench: Bench) -> None:
    outputs = bench.segment(prompts(3), mode="best", requested=["area", "iou_predictions"])
    assert outputs.keys() == {"area", "iou_predictions"}
    # The logits are twice the prompt's number everywhere: of the first, the mask is empty.
    assert outputs["area"].tolist() == [0, 240_000, 240_000]
    assert set(bench.decoder.requested[0]) == {
        "low_res_masks",
        "sam_masks",
        "sam_iou_predictions",
        "iou_predictions",
    }


def test_the_mode_counts_for_finished_masks_alone(bench: Bench) -> None:
    bench.segment(mode="best", requested=["iou_predictions"])
    assert bench.decoder.requested == [["iou_predictions"]]


def test_empty_and_full_masks_are_finished(bench: Bench) -> None:
    outputs = bench.segment(prompts(2), requested=[*FINISHED, "original_size"])
    assert outputs["original_size"].tolist() == [400, 600]
    assert outputs["box"].tolist() == [[0, 0, 0, 0], [0, 0, 600, 400]]
    assert outputs["area"].tolist() == [0, 240_000]
    for number, rle in enumerate(outputs["mask_rle"]):
        mask = coco.decode({"size": [400, 600], "counts": rle})
        assert mask.shape == (400, 600)
        assert (mask == number).all()
        with Image.open(io.BytesIO(outputs["mask_png"][number])) as png:
            assert np.array_equal(np.asarray(png), mask)


def test_masks_of_low_scores_are_left_empty(bench: Bench) -> None:
    # The predicted IoU of a prompt, and its logits, are its number: 0, 1, 2 and 3.
    outputs = bench.segment(
        {
            **prompts(4),
            "pred_iou_thresh": np.array([0.5], np.float32),
            "stability_score_thresh": np.array([0.9], np.float32),
            "stability_score_offset": np.array([1.5], np.float32),
        },
        requested=[*FINISHED, "iou_predictions"],
    )
    assert outputs["iou_predictions"][:, 0].tolist() == [0, 1, 2, 3]
    assert outputs["stability_score"].tolist() == [0, 0, 1, 1]
    assert outputs["area"].tolist() == [0, 0, 240_000, 240_000]
    assert outputs["box"].tolist() == [[0] * 4, [0] * 4, [0, 0, 600, 400], [0, 0, 600, 400]]
    for name in ("mask_rle", "mask_png"):
        assert [len(text) > 0 for text in outputs[name]] == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pred_iou_thresh", np.nan),
        ("stability_score_thresh", np.inf),
        ("stability_score_offset", -1.0),
    ],
)
def test_a_threshold_that_is_no_number_is_refused(bench: Bench, name: str, value: float) -> None:
    with pytest.raises(BadRequestError, match=f"{name} is .*, expected"):
        bench.segment({**prompts(1), name: np.array([value], np.float32)}, requested=["area"])


def test_masks_of_a_shrunk_image_are_finished_at_the_full_size(bench: Bench) -> None:
    size = np.array([2400, 3600], np.int32)
    outputs = bench.segment({**prompts(2), "mask_size": size}, requested=["area", "box"])
    assert outputs["area"].tolist() == [0, 2400 * 3600]
    assert outputs["box"].tolist()[1] == [0, 0, 3600, 2400]


@pytest.mark.parametrize("size", [(400, 601), (600, 400), (0, 0), (-400, -600), (40_000, 60_000)])
def test_a_size_of_another_image_is_refused(bench: Bench, size: tuple[int, int]) -> None:
    inputs = {**prompts(2), "mask_size": np.array(size, np.int32)}
    with pytest.raises(BadRequestError, match="expected height and width of the image that the"):
        bench.segment(inputs, requested=["area"])


def test_an_unknown_mode_is_refused(bench: Bench) -> None:
    with pytest.raises(BadRequestError, match=r"mode is 'worst', expected one of 'hq', 'hq\+sam'"):
        bench.segment(mode="worst")


def test_masks_of_an_image_that_is_too_long_are_not_finished(bench: Bench) -> None:
    bench.store.put("2" * 64, Embedding(*image_files.embedding_arrays(3.0), (1, 65_536)))
    with pytest.raises(BadRequestError, match="sides of at most 65535: ask for low_res_masks"):
        bench.segment(image_id="2" * 64, requested=["mask_rle"])
    assert bench.segment(image_id="2" * 64).keys() == set(MASKS)


def test_the_size_alone_needs_no_decoder(bench: Bench) -> None:
    outputs = bench.segment(requested=["original_size"])
    assert outputs["original_size"].tolist() == [400, 600]
    assert bench.decoder.jobs == []


def test_masks_to_refine_go_with_their_prompts(bench: Bench) -> None:
    masks = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) * np.ones(
        (1, 1, 256, 256), np.float32
    )
    has = np.array([0, 1, 1, 0, 0, 1], np.float32)
    bench.segment({**prompts(6), "mask_input": masks, "has_mask_input": has})
    for job, mask, is_there in zip(bench.decoder.jobs, masks, has, strict=True):
        if is_there:
            assert job.mask_input is not None
            assert np.array_equal(job.mask_input[0], mask)
        else:
            assert job.mask_input is None


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_the_mask_of_a_prompt_without_one_never_reaches_the_model(
    bench: Bench, value: float
) -> None:
    # The model multiplies it by 0, and infinity times 0 is no number.
    masks = np.full((2, 1, 256, 256), value, np.float32)
    masks[1] = 3
    has = np.array([0, 1], np.float32)
    bench.segment({**prompts(2), "mask_input": masks, "has_mask_input": has})
    first, second = bench.decoder.jobs
    assert first.mask_input is None
    assert second.mask_input is not None
    assert (second.mask_input == 3).all()


def test_a_mask_without_a_flag_counts(bench: Bench) -> None:
    bench.segment({"mask_input": np.ones((1, 1, 256, 256), np.float32)})
    assert bench.decoder.jobs[0].mask_input is not None


def test_inputs_may_change_once_the_request_is_taken(bench: Bench) -> None:
    inputs = {**prompts(1), "mask_input": np.ones((1, 1, 256, 256), np.float32)}
    bench.segment(inputs)
    for array in inputs.values():
        array[:] = 7
    assert (bench.decoder.jobs[0].point_coords == 0).all()
    assert (cast(Any, bench.decoder.jobs[0].mask_input) == 1).all()


def test_an_image_is_placed_once_and_leaves_when_others_need_its_room(bench: Bench) -> None:
    for image_id in (STORED, STORED, "2" * 64, STORED, "3" * 64, STORED):
        bench.embed(image_id)
        bench.segment(image_id=image_id)
    # The third image took the place of the second, the least recently used one.
    assert len(bench.decoder.placed) == 3
    assert bench.metrics["resident_images"] == 2
    assert bench.metrics["resident_bytes"] == 200
    bench.segment(image_id="2" * 64)
    assert len(bench.decoder.placed) == 4


def test_an_image_that_left_the_store_is_unknown_although_it_is_resident(bench: Bench) -> None:
    bench.segment()
    for entry in bench.folder.glob(f"*{STORED}*"):
        entry.unlink()
    with pytest.raises(UnknownImageError):
        bench.segment()


def test_a_request_that_nobody_waits_for_is_not_decoded(bench: Bench) -> None:
    with pytest.raises(RequestCancelledError):
        bench.segment(is_cancelled=True)
    assert bench.decoder.jobs == []


def test_an_unknown_image_is_told_so(bench: Bench) -> None:
    with pytest.raises(UnknownImageError, match="send the image to embed first"):
        bench.segment(image_id="0" * 64)
    assert bench.metrics["store_misses_total"] == 1


def test_a_request_without_an_image_id_is_refused(bench: Bench) -> None:
    with pytest.raises(BadRequestError, match="expected image_id, got none"):
        bench.segment(image_id=None)


@pytest.mark.parametrize("image_id", ["", "../" * 20, "F" * 64, "0" * 63 + "\n"])
def test_a_malformed_image_id_is_refused(bench: Bench, image_id: str) -> None:
    with pytest.raises(BadRequestError, match="64 lower-case hex digits"):
        bench.segment(image_id=image_id)


NAN_POINT = np.array([[[1, np.nan], [0, 0]]], np.float32)
INFINITE_PADDING = np.array([[[1, 1], [np.inf, 0]]], np.float32)

BAD_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "no prompts": (prompts(0), "0 prompts, expected 1 to 9"),
    "too many prompts": (prompts(10), "10 prompts, expected 1 to 9"),
    "no points": (labelled([]), "0 points each"),
    "too many points": (labelled([1] * 5), "5 points each, expected 1 to 4"),
    "three coordinates": ({"point_coords": np.zeros((1, 2, 3), np.float32)}, r"\[P, N, 2\]"),
    "fewer labels": ({"point_labels": np.ones((1, 1), np.float32)}, r"\[P, N\]"),
    "only padding": (labelled([1, 1], [-1, -1]), "prompt 1 is only padding"),
    "unknown label": (labelled([1, 4]), r"point_labels\[0, 1\] is 4"),
    "half a label": (labelled([0.5, 1]), r"point_labels\[0, 0\] is 0.5"),
    "a label that is no number": (labelled([np.nan, 1]), "is nan"),
    "no second corner": (labelled([1, 2]), "1 top-left and 0 bottom-right"),
    "no first corner": (labelled([1, 3]), "0 top-left and 1 bottom-right"),
    "two boxes": (labelled([2, 3, 2, 3]), "2 top-left and 2 bottom-right"),
    "a coordinate that is no number": ({"point_coords": NAN_POINT}, "finite"),
    "infinite padding": ({"point_coords": INFINITE_PADDING}, "finite"),
    "far left of the frame": (
        {"point_coords": np.full((1, 2, 2), -7e4, np.float32)},
        "input frame",
    ),
    "far right of the frame": (
        {"point_coords": np.full((1, 2, 2), 7e4, np.float32)},
        "input frame",
    ),
    "a flag without a mask": ({"has_mask_input": np.ones(1, np.float32)}, "got none"),
    "a flag too many": ({"has_mask_input": np.zeros(2, np.float32)}, r"expected \[1\]"),
    "half a flag": ({"has_mask_input": np.full(1, 0.5, np.float32)}, "0 or 1"),
    "a mask too many": ({"mask_input": np.zeros((2, 1, 256, 256), np.float32)}, r"\[1, 1, 256"),
    "a mask of huge logits": (
        {"mask_input": np.full((1, 1, 256, 256), -3e38, np.float32)},
        "has the logit 3e.38, expected at most 10000",
    ),
    "a mask that is no number": (
        {"mask_input": np.full((1, 1, 256, 256), np.nan, np.float32)},
        "finite",
    ),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_bad_prompts_are_refused_before_anything_is_decoded(bench: Bench, name: str) -> None:
    inputs, message = BAD_PROMPTS[name]
    with pytest.raises(BadRequestError, match=message):
        bench.segment(inputs)
    assert bench.decoder.jobs == []


def test_points_outside_the_frame_and_padding_anywhere_are_taken_unchanged(bench: Bench) -> None:
    coords = np.array([[[-20, 0], [1044.5, 1024.0001], [1e6, -1e6]]], np.float32)
    labels = np.array([[2, 3, -1]], np.float32)
    bench.segment({"point_coords": coords, "point_labels": labels})
    (job,) = bench.decoder.jobs
    assert np.array_equal(job.point_coords[:, :3], coords)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1], [1, -1]),
        ([1, 0], [1, 0, -1, -1]),
        ([1, -1], [1, -1]),
        ([1, 0, 1], [1, 0, 1, -1]),
        ([2, 3], [2, 3]),
        ([1, 2, 3], [1, 2, 3, -1]),
    ],
)
def test_prompts_are_padded_as_the_model_expects_them(
    bench: Bench, labels: list[float], expected: list[float]
) -> None:
    bench.segment(labelled(labels))
    (job,) = bench.decoder.jobs
    assert job.point_labels.tolist() == [expected]
    coords = np.zeros((1, len(expected), 2), np.float32)
    coords[:, : len(labels)] = 5
    assert np.array_equal(job.point_coords, coords)


def test_one_prompt_without_a_box_pads_all_of_them(bench: Bench) -> None:
    bench.segment(labelled([2, 3], [1, 1]))
    labels = [job.point_labels.tolist() for job in bench.decoder.jobs]
    assert labels == [[[2, 3, -1, -1]], [[1, 1, -1, -1]]]
