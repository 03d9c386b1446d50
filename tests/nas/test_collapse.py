"""What a search's choices have collapsed to."""

from nas.collapse import collapse_warnings
from nas.space import Candidates


def row(epoch, **shares):
    return {"epoch": epoch, **{f"share_{name}": value for name, value in shares.items()}}


def test_collapse_is_told_with_run_share_and_epoch():
    candidates = Candidates.full(("visual/a", "visual/b", "audio/c"), 1, 1)
    curve = [row(0, visual=0.99, sum=0.3), row(1, visual=0.5, sum=0.95), row(2, visual=0.96, sum=0.97)]
    assert collapse_warnings(curve, 7, candidates) == [
        "seed 7: 96% of what the cells read is visual (since epoch 3)",
        "seed 7: 97% of the operations are Sum, the one without weights (since epoch 2)",
    ]
    assert collapse_warnings([row(0, visual=0.02, edges=0.98)], 1, candidates) == [
        "seed 1: 98% of what the cells read is audio (since epoch 1)",
        "seed 1: 98% of the edges are kept: nothing is chosen (since epoch 1)",
    ]
    assert collapse_warnings([row(0, visual=0.5, edges=0.1)], 1, candidates) == [
        "seed 1: 90% of the edges are none: the cells read next to nothing (since epoch 1)"
    ]
    assert collapse_warnings([row(0, visual=0.5, sum=0.5, edges=0.4)], 1, candidates) == []
