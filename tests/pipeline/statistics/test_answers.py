"""What is said of a clip's score: what picture and sound give to it, whether the networks agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics.answers import Answer, agreement, cannot_tell, shapley, why

LR = st.floats(-6, 6)


def says(log10_lr: float) -> Answer:
    return Answer("", 0.5, log10_lr, (-6, 6), 0.5)


@given(together=LR, visual=LR, audio=LR)
def test_shares_add_up_to_what_is_shared(together: float, visual: float, audio: float) -> None:
    shares = shapley(says(together), says(visual), says(audio))
    assert sum(shares.values()) == pytest.approx(together, abs=1e-12)
    swapped = shapley(says(together), says(audio), says(visual))
    assert (swapped["visual"], swapped["audio"]) == (shares["audio"], shares["visual"])


def test_shares_by_hand() -> None:
    """Who says nothing and adds nothing has no share; who only adds has half of what is added."""
    assert shapley(says(1.5), says(1.5), says(0)) == {"visual": 1.5, "audio": 0}
    assert shapley(says(1.0), says(0.2), says(0.4)) == pytest.approx({"visual": 0.4, "audio": 0.6})


def test_there_are_no_shares_where_one_cannot_tell() -> None:
    answers = [says(1), says(1), says(1)]
    for i in range(3):
        assert shapley(*(cannot_tell("") if i == k else each for k, each in enumerate(answers))) == {}


def test_agreement_in_words() -> None:
    assert agreement(None, says(1)) == "one network alone: whether others would agree is not known"
    assert agreement(0.034, says(1)) == "they agree as far as on known clips: their P(fake) differ by 0.03"
    assert agreement(0.62, cannot_tell(why("spread", 0.62, 0.6))).startswith(
        "they disagree: their P(fake) differ by 0.62"
    )
