"""What the contract says about the members of the HQ-SAM family."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hqsam_client import contract


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 1, 64, 64, 160), "Light HQ-SAM"),
        ((4, 1, 64, 64, 768), "HQ-SAM ViT-B"),
        ((4, 1, 64, 64, 1024), "HQ-SAM ViT-L"),
        ((4, 1, 64, 64, 1280), "HQ-SAM ViT-H"),
        ((4, 1, 64, 64, 784), None),
        ((), None),
    ],
)
def test_a_member_is_known_by_its_intermediate_embeddings(
    shape: Sequence[int], name: str | None
) -> None:
    assert contract.member(shape) == name
