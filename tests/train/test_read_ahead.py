"""Reading ahead: the items asked for, in order, each read once, whoever asks and whatever was foreseen."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.train import extract as read_ahead
from deblora.train.extract import ReadAhead, n_readers


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_walk_in_equal_steps_reads_every_item_once(n_threads: int) -> None:
    reads: list[int] = []

    def read(i: int) -> int:
        reads.append(i)  # appending to a list is atomic
        return 10 * i

    with ReadAhead(read, 11, n_threads=n_threads) as ahead:
        taken = [ahead.take(range(start, min(start + 4, 11))) for start in range(0, 11, 4)]
    assert taken == [[0, 10, 20, 30], [40, 50, 60, 70], [80, 90, 100]]
    assert sorted(reads) == list(range(11))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=5), min_size=1, max_size=6))
def test_any_walk_gives_the_items_asked_for(walk: list[list[int]]) -> None:
    with ReadAhead(lambda i: -i, 20, n_threads=2) as ahead:
        assert [ahead.take(wanted) for wanted in walk] == [[-i for i in wanted] for wanted in walk]


def test_the_next_step_is_read_while_the_caller_works() -> None:
    started = threading.Event()

    def read(i: int) -> int:
        if i >= 2:
            started.set()
        return i

    with ReadAhead(read, 4, n_threads=1) as ahead:
        ahead.take([0, 1])
        assert started.wait(timeout=10), "items 2 and 3 were not read before they were asked for"


def test_steps_of_one_process_among_several_are_foreseen() -> None:
    reads: list[int] = []
    with ReadAhead(lambda i: reads.append(i) or i, 24, n_threads=1) as ahead:  # type: ignore[func-returns-value]
        for start in (0, 8, 16):  # its share of batches of eight
            assert ahead.take([start, start + 1]) == [start, start + 1]
    assert len(reads) == 8, "only the two after the first guess were read in vain"


def test_an_error_reaches_the_caller_with_the_item_that_has_it() -> None:
    def read(i: int) -> int:
        if i == 3:
            raise ValueError("item 3 is broken")
        return i

    with ReadAhead(read, 6, n_threads=2) as ahead:
        assert ahead.take([0, 1]) == [0, 1]
        with pytest.raises(ValueError, match="item 3"):
            ahead.take([2, 3])


def test_one_thread_reads_beside_a_model_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead.os, "cpu_count", lambda: 16)
    assert n_readers(torch.device("cpu")) == 1
    assert n_readers(torch.device("cuda")) == 8
    monkeypatch.setattr(read_ahead.os, "cpu_count", lambda: 1)
    assert n_readers(torch.device("cuda")) == 1
