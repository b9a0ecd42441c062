"""A process dies under load. `tests/server` shows that each process is replaced."""

from __future__ import annotations

import psutil
from hqsam_testing.raw import Raw, connect, valid

from tests.faults.conftest import World


def test_a_killed_backend_process_costs_errors_and_no_wrong_mask(world: World) -> None:
    with world.clicks() as clicks:
        psutil.Process(world.server.instances()["segment_0_0"]).kill()
        world.server.line("segment is back")
    # The client retries while the model is loaded again; requests of the dead process are lost.
    assert not set(clicks.errors) - {"UnavailableError", "ServerFailedError"}


def test_a_shape_that_overflows_ends_a_process_that_is_replaced(world: World) -> None:
    # Triton 2.51's own code overflows; see docs/known-issues.md. This test fails once Triton
    # refuses the shape.
    overflow = Raw("FP32", (2**62 + 1, 1), bytes(4))
    with world.clicks() as clicks, connect(world.server.grpc_url) as wire:
        code, message, _ = wire.infer("segment", {**valid("segment"), "point_labels": overflow})
        assert code == "INTERNAL", message
        world.server.line("segment is back")
    assert not set(clicks.errors) - {"UnavailableError", "ServerFailedError"}
