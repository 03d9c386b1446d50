"""The soak runs, in small."""

from tests.soak import damage, million


def test_flipped_bytes_are_found_and_never_read() -> None:
    outcomes = damage.run(flips=10, seed=5)
    assert [failure for outcome in outcomes.values() for failure in outcome.failures] == []
    assert sum(outcome.counts["flips"] for outcome in outcomes.values()) == 10


def test_many_windows_are_few_files_and_stream_well_shuffled_in_bounded_memory() -> None:
    report = million.measure(20_000, [2 * 2**20])
    (epoch,) = report.epochs
    assert report.files < 200
    assert epoch.growth_bytes < epoch.memory_bytes + million.SLACK_BYTES
    assert abs(epoch.shuffling.rank_correlation) < 0.3  # of 157 blocks
    assert epoch.shuffling.neighbours < 0.05
    assert epoch.shuffling.spread > 0.9
