"""ONNX Runtime, which has telemetry of its own, keeps and sends nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OFF = "ORT_DISABLE_TELEMETRY"


@pytest.mark.parametrize("module", ["hqsam_server.runtime.onnx_runtime", "hqsam_export.onnx_files"])
def test_no_usage_data_is_kept(module: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != OFF}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", f"import {module}"], env=environment, check=True)
    assert not [*tmp_path.rglob("*onnxruntime*")]
