"""Every command and block of code in the README and the documentation works.

The blocks of a page run in order, in one folder. `tests.docs.standins` replaces commands that
cannot run in a test.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hqsam_cli.main import COMMANDS
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing import command
from PIL import Image

from tests.docs.pages import PAGES, Block, blocks, commands, text

BLOCK_TIMEOUT_S = 300.0
"""Limit for a block; the servers that it starts have lower limits of their own."""

PROTOCOL = "docs/protocol.md"
INTERPRETERS = {
    "python": [sys.executable, "-c"],
    "sh": ["bash", "-euo", "pipefail", "-c"],
}
PARSERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "xml": ElementTree.fromstring,  # noqa: S314 - of our own pages
}
BACKGROUND = '\nfor job in $(jobs -p); do wait "$job"; done'
"""Background jobs have to succeed too."""


def run(block: Block, folder: Path, environment: dict[str, str], code: str) -> None:
    """Run a block of a page; only parse data, and programs that need the package of a tool."""
    if block.language == "text":
        return  # a transcript
    if block.language in PARSERS:
        PARSERS[block.language](block.text)
        return
    if "import supervision" in block.text:
        # `integrations/supervision/tests` runs it.
        compile(block.text, block.where, "exec")
        return
    if block.language == "sh":
        code += BACKGROUND
    done = command.run(
        [*INTERPRETERS[block.language], code], BLOCK_TIMEOUT_S, cwd=folder, env=environment
    )
    assert done.returncode == 0, f"{block.where}\n{done.stdout}\n{done.stderr}"


MARKS = {
    "README.md": pytest.mark.slow,
    "docker/README.md": pytest.mark.slow,
    "docs/evaluating.md": pytest.mark.slow,
    "docs/everything.md": pytest.mark.long,
    "docs/exporting.md": pytest.mark.slow,
    "docs/large-images.md": pytest.mark.long,
    "docs/prompts.md": pytest.mark.slow,
    "docs/security.md": pytest.mark.slow,
    "docs/serving.md": pytest.mark.slow,
    "docs/small-model.md": pytest.mark.slow,
    "docs/ui.md": pytest.mark.slow,
}


@pytest.mark.parametrize(
    "page",
    [pytest.param(it, marks=MARKS.get(it, ())) for it in PAGES if blocks(it) and it != PROTOCOL],
)
def test_every_block_of_a_page_runs(
    page: str, folder: Path, environment: dict[str, str], addressed: Callable[[str], str]
) -> None:
    if "hqsam small model_repository" in text(page):
        # This command refuses a folder that is not empty.
        shutil.rmtree(folder / "model_repository")
    for block in blocks(page):
        run(block, folder, environment, addressed(block.text))


@pytest.mark.parametrize("page", [it for it in PAGES if commands(it)])
def test_commands_in_sentences_have_the_options_that_they_name(page: str) -> None:
    for text_of_command in commands(page):
        name, *arguments = text_of_command.split(" -- ")[0].split()[1:]
        if name in ("--help", "--version"):
            continue
        parser = argparse.ArgumentParser()
        importlib.import_module(COMMANDS[name].module).add_arguments(parser)
        known = parser.format_help()
        for argument in arguments:
            known_option = not argument.startswith("-") or argument.split("=")[0] in known
            assert known_option, text_of_command


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_grpcurl_and_stubs_get_the_mask_that_the_client_gets(
    server: TritonServer,
    folder: Path,
    environment: dict[str, str],
    addressed: Callable[[str], str],
) -> None:
    for block in blocks(PROTOCOL):
        run(block, folder, environment, addressed(block.text))
    with HQSam(server.grpc_url) as sam:
        mask = sam.segment(folder / "photo.jpg", points=[(420, 310)])
    expected = mask.low_res_logits

    by_http = json.loads((folder / "answer.json").read_text())
    (logits,) = (it["data"] for it in by_http["outputs"] if it["name"] == "low_res_masks")
    by_grpc = json.loads((folder / "grpc-answer.json").read_text())
    names = [it["name"] for it in by_grpc["outputs"]]
    raw = by_grpc["rawOutputContents"][names.index("low_res_masks")]
    for found in (logits, np.frombuffer(base64.b64decode(raw), "<f4")):
        np.testing.assert_allclose(np.reshape(found, (256, 256)), expected, atol=1e-3)
    np.testing.assert_allclose(np.load(folder / "logits.npy"), expected, atol=1e-3)
    with Image.open(folder / "mask.png") as finished:
        np.testing.assert_array_equal(np.asarray(finished), mask.array)
