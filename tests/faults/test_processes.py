"""A process dies under load. `tests/server` shows that each process is replaced."""

from __future__ import annotations

import psutil
from hqsam_testing.raw import Raw, connect, valid

from tests.faults.conftest import World


def test_a_killed_backend_process_costs_errors_and_no_wrong_mask(world: World) -> None:
    before = world.server.recoveries()
    with world.clicks() as clicks:
        psutil.Process(world.server.instances()["segment_0_0"]).kill()
        world.server.wait_for_recovery(before)
    # The client retries while the model is loaded again; requests of the dead process are lost.
    assert not set(clicks.errors) - {"UnavailableError", "ServerFailedError"}


def test_a_shape_that_overflows_ends_no_process_under_load(world: World) -> None:
    # It ends one where it reaches Triton 2.51; see docs/known-issues.md.
    overflow = Raw("FP32", (2**62 + 1, 1), bytes(4))
    before = world.server.instances()
    with world.clicks() as clicks, connect(world.server.grpc_url) as wire:
        for _ in range(10):
            inputs = {**valid("segment"), "point_labels": overflow}
            code, message, _ = wire.infer("segment", inputs)
            assert code == "INVALID_ARGUMENT", message
    assert not clicks.errors
    assert world.server.instances() == before
