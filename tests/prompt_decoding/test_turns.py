from __future__ import annotations

from dataclasses import dataclass

from hqsam_server.prompt_decoding.turns import PromptTurns


@dataclass(eq=False)
class Request:
    name: str
    prompts: int
    taken: int = 0

    @property
    def left(self) -> int:
        return self.prompts - self.taken


def order(turns: PromptTurns[Request]) -> str:
    """Take all prompts, and return the names of their requests in that order."""
    taken = ""
    while turns:
        taken += turns.take()[0].name
    return taken


def test_callers_take_turns_whatever_the_size_of_their_requests() -> None:
    turns: PromptTurns[Request] = PromptTurns()
    turns.add("third", Request("c", 6))
    turns.add("second", Request("b", 2))
    turns.add("first", Request("a", 1))
    assert len(turns) == 9
    assert order(turns) == "abc" + "bc" + "cccc"


def test_a_new_caller_is_the_next() -> None:
    turns: PromptTurns[Request] = PromptTurns()
    turns.add("many", Request("a", 3))
    turns.take()
    turns.add("one", Request("z", 1))
    assert order(turns) == "zaa"


def test_a_caller_gains_nothing_by_sending_more_requests() -> None:
    turns: PromptTurns[Request] = PromptTurns()
    for name in "abc":
        turns.add("many", Request(name, 2))
    turns.add("one", Request("z", 3))
    assert order(turns)[:6:2] == "zzz"


def test_within_a_caller_a_click_overtakes_and_the_first_request_goes_on() -> None:
    turns: PromptTurns[Request] = PromptTurns()
    turns.add("", Request("A", 4))
    turns.add("", Request("B", 4))
    turns.add("", Request("c", 1))
    # The shortest, then the first, in turn: B begins only when A is done.
    assert order(turns) == "cAAAA" + "BBBB"


def test_a_stream_of_clicks_does_not_keep_their_callers_large_request_waiting() -> None:
    turns: PromptTurns[Request] = PromptTurns()
    turns.add("", Request("A", 3))
    taken = ""
    for _ in range(6):
        turns.add("", Request("c", 1))
        taken += turns.take()[0].name
    assert taken.count("A") == 3


def test_what_waits_of_a_caller_is_counted() -> None:
    turns: PromptTurns[Request] = PromptTurns()
    for prompts in (3, 2):
        turns.add("a", Request("a", prompts))
    turns.take()
    assert (turns.waiting_of("a"), turns.waiting_of("b")) == (4, 0)


def test_a_request_that_is_removed_gets_no_turn() -> None:
    turns: PromptTurns[Request] = PromptTurns()
    gone = Request("a", 3)
    turns.add("first", gone)
    turns.add("second", Request("b", 1))
    turns.remove(gone)
    turns.remove(gone)
    assert order(turns) == "b"
