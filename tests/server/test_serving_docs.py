"""docs/serving.md names every option and every metric, with their real defaults."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from google.protobuf import text_format
from hqsam_cli.commands import serve
from hqsam_server.front.call_metrics import CallMetrics
from hqsam_server.launcher.options import LOOPBACK
from hqsam_server.models.metrics import DESCRIPTIONS, EMBED_DESCRIPTIONS
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).parents[2]
ROWS = [
    line.strip("|").split("|")
    for line in (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]


def default(name: str) -> str:
    """Return the default of an option, as the row that names it says."""
    (row,) = (row for row in ROWS if f"`{name}`" in row[0])
    names = [cell.strip(" `") for cell in row[0].split(",")]
    defaults = [cell.strip(" `") for cell in row[1].split(",")]
    return defaults[names.index(name)] if len(defaults) == len(names) else defaults[0]


def parameters() -> dict[str, str]:
    found: dict[str, str] = {}
    for model in ("embed", "preprocess", "segment"):
        text = (ROOT / "model_repository" / model / "config.pbtxt").read_text(encoding="utf-8")
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        found |= {name: it.string_value for name, it in config.parameters.items()}
    return found


@pytest.mark.parametrize(("name", "value"), sorted(parameters().items()))
def test_a_parameter_of_the_models(name: str, value: str) -> None:
    assert default(f"HQSAM_{name.upper()}") == value


@pytest.mark.parametrize(
    "option",
    ["grpc-port", "http-port", "metrics-port", "precision", "exit-timeout-secs"],
)
def test_an_option_of_serve(option: str) -> None:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    assert default(f"--{option}") == str(parser.get_default(option.replace("-", "_")))


def test_the_address_of_serve() -> None:
    assert default("--grpc-address") == LOOPBACK


def test_no_option_of_serve_and_no_metric_is_left_out() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    serve.add_arguments(parser)
    options = re.findall(r"(?m)^ +(--[a-z-]+)", parser.format_help())
    assert len(options) > 10
    metrics = [
        *(name for _, name, _ in DESCRIPTIONS.values()),
        *(name for name, _ in EMBED_DESCRIPTIONS.values()),
        *re.findall(r"^# TYPE (\S+)", CallMetrics().page().decode(), re.MULTILINE),
    ]
    named = " ".join(row[0] for row in ROWS)
    assert [name for name in options + metrics if f"`{name}`" not in named] == []
