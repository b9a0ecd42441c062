"""The model repository's config.pbtxt files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def read(model_name: str) -> Any:
    """Return a model's config as the message that Triton parses it into."""
    text = (REPOSITORY / model_name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def cpu_variant(model_name: str, repository: Path = REPOSITORY) -> dict[str, Any]:
    """Return a model's config for the CPU as Triton hands it to a Python model."""
    text = (repository / model_name / "configs" / "cpu.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    found: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return {"parameters": {}, **found}


def parameters(model_name: str) -> dict[str, str]:
    """Return a model's options and their defaults."""
    return {name: value.string_value for name, value in read(model_name).parameters.items()}
