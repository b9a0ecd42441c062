from __future__ import annotations

from hqsam_server.models.turns import EncodeTurns


def taken(turns: EncodeTurns[str]) -> list[str]:
    """Return the jobs that may begin now."""
    jobs = []
    while (job := turns.take()) is not None:
        jobs.append(job)
    return jobs


def test_callers_take_turns_however_many_jobs_each_has() -> None:
    turns: EncodeTurns[str] = EncodeTurns(workers=1)
    for caller, count in (("a", 4), ("b", 2), ("c", 1)):
        for number in range(count):
            turns.add(caller, f"{caller}{number}")
    order = []
    while len(turns):
        (job,) = taken(turns)
        order.append(job)
        turns.done(job)
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert turns.take() is None


def test_a_caller_who_comes_later_is_next() -> None:
    turns: EncodeTurns[str] = EncodeTurns(workers=1)
    for number in range(5):
        turns.add("a", f"a{number}")
    turns.done(taken(turns)[0])
    turns.add("b", "b0")
    order = []
    for _ in range(2):
        (job,) = taken(turns)
        order.append(job)
        turns.done(job)
    assert "b0" in order


def test_a_caller_gets_half_of_the_workers_and_the_next_one_finds_one_free() -> None:
    turns: EncodeTurns[str] = EncodeTurns(workers=3)
    for number in range(5):
        turns.add("a", f"a{number}")
    assert taken(turns) == ["a0", "a1"]
    turns.add("b", "b0")
    assert taken(turns) == ["b0"]
    assert turns.running == 3
    turns.done("b0")
    assert taken(turns) == []
    turns.done("a0")
    assert taken(turns) == ["a2"]


def test_a_caller_whose_name_is_not_known_gets_all_workers() -> None:
    turns: EncodeTurns[str] = EncodeTurns(workers=3)
    for number in range(5):
        turns.add("", f"{number}")
    assert taken(turns) == ["0", "1", "2"]


def test_a_job_of_two_callers_is_taken_once_at_the_first_of_their_turns() -> None:
    turns: EncodeTurns[str] = EncodeTurns(workers=1)
    for job in ("a0", "a1", "both"):
        turns.add("a", job)
    turns.add("b", "both")
    assert (len(turns), turns.callers) == (3, 2)
    order = []
    while len(turns):
        (job,) = taken(turns)
        assert turns.is_running(job)
        order.append(job)
        turns.done(job)
    assert order == ["a0", "both", "a1"]
    assert turns.take() is None
    assert turns.callers == 0


def test_a_job_that_was_removed_is_not_taken() -> None:
    turns: EncodeTurns[str] = EncodeTurns(workers=1)
    turns.add("a", "a0")
    turns.add("a", "a1")
    turns.remove("a0")
    assert taken(turns) == ["a1"]
