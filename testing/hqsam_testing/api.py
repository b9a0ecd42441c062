"""The server's models as functions of arrays: nothing but tritonclient in between."""

from __future__ import annotations

import itertools
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from hqsam_client import contract
from hqsam_server import Front, TritonServer, Tuning
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import np_to_triton_dtype

from hqsam_testing import image_files
from hqsam_testing.waiting import TIMEOUT_S

ALL_MODELS = tuple(model.name for model in contract.MODELS)

_RESIDENT_BYTES = 8 * 12_600_000
_MARKS = itertools.count()


def serve(
    repository: Path | None, store: Path, options: Mapping[str, str] | None = None
) -> TritonServer:
    """Return a server in fp32, not yet started; all its models are open, also over HTTP.

    It keeps few images resident, as several servers may run side by side.

    Args:
        repository: its model repository; None for the small model.
        store: folder of its store.
        options: more environment variables.
    """
    return TritonServer(
        repository,
        front=Front(open_models=ALL_MODELS, http=True),
        tuning=Tuning(precision="fp32"),
        environment={
            "HQSAM_STORE_FOLDER": str(store),
            "HQSAM_RESIDENT_BYTES": str(_RESIDENT_BYTES),
            **(options or {}),
        },
        start_timeout_s=TIMEOUT_S,
        log=sys.stdout,
    )


def new_png() -> bytes:
    """Return an image that no test has sent before."""
    return image_files.png(60, 40 + next(_MARKS))


class Api:
    """Calls to a running server; errors are `tritonclient`'s."""

    def __init__(self, server: TritonServer) -> None:
        self.client = triton.InferenceServerClient(server.grpc_url)
        self._metrics_url = f"http://{server.metrics_url}/metrics"

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
        caller: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run a model, and return the named outputs, or all.

        The caller is an address that a proxy names; None for this machine's.
        """
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        requested = [triton.InferRequestedOutput(name) for name in outputs]
        result = self.client.infer(
            model,
            tensors,
            outputs=requested or None,
            client_timeout=timeout_s,
            headers=None if caller is None else {"x-forwarded-for": caller},
        )
        return {it.name: result.as_numpy(it.name) for it in result.get_response().outputs}

    def embed(
        self,
        encoded: bytes | None = None,
        image_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
        caller: str | None = None,
    ) -> tuple[str, tuple[int, int], bool]:
        """Return image_id, (height, width) and whether the image was stored."""
        inputs: dict[str, NDArray[Any]] = {}
        if encoded is not None:
            inputs["encoded_image"] = np.frombuffer(encoded, np.uint8)
        if image_id is not None:
            inputs["image_id"] = np.array([image_id.encode()], np.object_)
        outputs = self.infer("embed", inputs, timeout_s=timeout_s, caller=caller)
        height, width = outputs["original_size"].tolist()
        return outputs["image_id"][0].decode(), (height, width), bool(outputs["already_stored"][0])

    def segment(
        self,
        image_id: str,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        outputs: Sequence[str] = (),
    ) -> dict[str, NDArray[Any]]:
        """Segment with the given prompts, or with one point in the middle."""
        return self.infer(
            "segment",
            {"image_id": np.array([image_id.encode()], np.object_), **(inputs or point())},
            outputs,
        )

    def metric(self, name: str, **labels: str) -> float:
        """Return one of the project's own metrics, by its name without `hqsam_`.

        With labels, it is 0 until something has been counted under them.
        """
        with urllib.request.urlopen(self._metrics_url, timeout=TIMEOUT_S) as page:  # noqa: S310 - http, as made above
            families = list(text_string_to_metric_families(page.read().decode()))
        samples = [
            it.value
            for family in families
            for it in family.samples
            if it.name == f"hqsam_{name}" and labels.items() <= it.labels.items()
        ]
        assert samples or labels, f"there is no metric hqsam_{name}"
        return sum(samples)


def point(x: float = 512, y: float = 300) -> dict[str, NDArray[Any]]:
    """Return one prompt of one point in the input frame."""
    return {
        "point_coords": np.array([[[x, y], [0, 0]]], np.float32),
        "point_labels": np.array([[1, -1]], np.float32),
    }
