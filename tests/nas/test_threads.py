"""Groups of runs on threads."""

import threading

import pytest
import torch

from nas.threads import shares, team

CPU = torch.device("cpu")


@pytest.fixture
def _four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_four_threads")
def test_every_run_is_in_one_share_and_shares_are_even():
    for runs in (1, 2, 4, 7, 16):
        parts = shares(runs, CPU)
        assert [i for part in parts for i in range(runs)[part]] == list(range(runs))
        sizes = [part.stop - part.start for part in parts]
        assert len(sizes) == min(runs, 4)
        assert max(sizes) - min(sizes) <= 1
    assert shares(16, torch.device("meta")) == [slice(0, 16)], "a device with many threads of its own takes all runs"


@pytest.mark.usefixtures("_four_threads")
def test_a_team_works_at_once_each_with_its_share_of_the_threads():
    meeting = threading.Barrier(2, timeout=20)

    def work(item):
        meeting.wait()
        return item, torch.get_num_threads()

    with team(2) as each:
        assert each(work, "ab") == [("a", 2), ("b", 2)]
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("_four_threads")
def test_a_team_of_one_works_here_with_all_threads():
    with team(1) as each:
        assert each(lambda _: (threading.current_thread(), torch.get_num_threads()), [0]) == [
            (threading.current_thread(), 4)
        ]


def test_an_error_comes_out():
    with pytest.raises(ZeroDivisionError), team(2) as each:
        each(lambda item: 1 / item, [1, 0])
