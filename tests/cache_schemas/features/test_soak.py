"""The soak runs, in small."""

from tests.soak import damage, million


def test_flipped_bytes_are_found_and_never_read() -> None:
    outcomes = damage.run(flips=10, seed=5)
    assert [failure for outcome in outcomes.values() for failure in outcome.failures] == []
    assert sum(outcome.counts["flips"] for outcome in outcomes.values()) == 10


def test_many_windows_are_few_files() -> None:
    report = million.measure(20_000)
    assert report.files < 200
    assert report.seconds["loaded"] < 10
