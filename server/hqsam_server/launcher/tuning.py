"""What an operator may set about the ONNX models."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def default_cache_dir() -> Path:
    """Return the user's folder for compiled models."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hqsam"


@dataclass(frozen=True)
class Tuning:
    """What an operator may set about the ONNX models.

    Attributes:
        precision: "auto" (bf16 where the processor has it), "bf16" or "fp32"; `decoder`
            always computes in fp32.
        threads: threads of each model instance; None for all processors.
        instances: instances of `prompt_decoder`, each with its threads; None for one for
            every eight processors.
        cache_dir: where compiled models are kept; None for nowhere.
        model_config_name: the config of a model, under `configs/`, that is preferred.
        backend_directory: Triton's own backends, which run the models as their configs say;
            None for this package's, which run ONNX files on the CPU.
    """

    precision: str = "auto"
    threads: int | None = None
    instances: int | None = None
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    model_config_name: str = "cpu"
    backend_directory: Path | None = None
