"""The short form of `make soak`: operations are counted, and memory is not judged."""

from __future__ import annotations

import pytest
from hqsam_testing.soak import Plan, soak


@pytest.mark.long
def test_eight_clients_at_once_get_right_masks_and_expected_errors_only() -> None:
    result = soak(Plan(minutes=None, operations=60, images=4, entries=3, growth=None))
    assert result["violations"] == []
    assert sum(result["operations"].values()) >= 60
    assert result["store_entries"] <= 3
