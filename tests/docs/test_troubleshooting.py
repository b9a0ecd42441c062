"""The troubleshooting page quotes messages as the code prints them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import hqsam_client
import pytest

from tests.docs.pages import ROOT, symptoms

PACKAGES = ("cli", "client", "evaluation", "export", "server", "ui")

ELSEWHERE = {
    "AccessDeniedError",
    "Address already in use",
    "CERTIFICATE_VERIFY_FAILED",
    "Compression algorithm 'gzip' is disabled",
    "DEADLINE_EXCEEDED",
    "Hostname Verification Check failed",
    "INVALID_ARGUMENT",
    "Killed",
    "NOT_FOUND",
    "No space left on device",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "Received message larger than max",
    "Stub process … is not healthy",
    "TooManyRequestsError",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "Unknown compiler(s)",
    "WRONG_VERSION_NUMBER",
    "embed",
    "metadata-generation-failed",
    "ring hash cannot find a connected endpoint",
    "stream terminated by RST_STREAM",
    "unpack_from requires a buffer of …",
}
"""Codes, names, and messages of other software."""


def strings() -> Iterator[str]:
    """Yield every string in the packages, with "…" for each value that is put into it."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(map(_text, node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def _text(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "…"


@pytest.fixture(scope="module")
def source() -> str:
    """All strings of the packages."""
    return "\n".join(strings())


@pytest.mark.parametrize(
    "message", [it for it in symptoms("docs/troubleshooting.md") if it not in ELSEWHERE]
)
def test_a_quoted_message_is_one_that_the_code_prints(message: str, source: str) -> None:
    fragments = [part.strip(" :,;") for part in message.split("…")]
    assert any(fragments)
    for fragment in fragments:
        assert fragment in source, f"no string in the code has {fragment!r}"


def test_every_error_a_user_may_catch_is_documented() -> None:
    page = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    bases = {"HQSamError", "ConnectionLostError", "RequestRefusedError"}
    errors = {name for name in hqsam_client.__all__ if name.endswith("Error")} - bases
    assert {name for name in errors if f"`{name}`" not in page} == set()
