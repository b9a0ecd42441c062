"""A repository of one model, `preprocess`, that hangs or computes for long when it is called."""

from __future__ import annotations

from pathlib import Path

_MODEL = """
import os
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path({folder!r})


class TritonPythonModel:
    def execute(self, requests):
        waits = FOLDER / "waits"
        if waits.exists():
            waits.unlink()
            threading.Event().wait()
        end = time.monotonic() + 20
        while (FOLDER / "computes").exists():
            if time.monotonic() > end:
                os._exit(1)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("image", np.zeros(1, np.float32))])
            for _ in requests
        ]
"""

_CONFIG = """
name: "preprocess"
backend: "python"
max_batch_size: 0
input [ { name: "encoded_image", data_type: TYPE_UINT8, dims: [ -1 ] } ]
output [ { name: "image", data_type: TYPE_FP32, dims: [ -1 ] } ]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""


def write(folder: Path) -> Path:
    """Write it. A file `waits` makes the next call wait for ever; `computes`, compute 20 s."""
    (folder / "preprocess" / "1").mkdir(parents=True)
    (folder / "preprocess" / "config.pbtxt").write_text(_CONFIG)
    (folder / "preprocess" / "1" / "model.py").write_text(_MODEL.format(folder=str(folder)))
    return folder
