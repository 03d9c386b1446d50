from cache_schemas.evidence import Evidence, SystemEvidence
from pipeline.params import Params
from pipeline.runs.worth import said_first


def evidence(low: float, high: float) -> Evidence:
    points = [(0.0, low), (1.0, high)]
    system = SystemEvidence(
        kind="isotonic", points=points, low=low, high=high, threshold=0.5, limits={}, n_real=2, n_fake=3
    )
    return Evidence(retrained="0" * 16, systems={"fusion": system}, undefined={}, unlike="0" * 64)


def real() -> Params:
    return Params.model_validate({"data": {"layout": "csv"}})


def test_of_drawn_clips_it_is_said_first() -> None:
    (told,) = said_first(Params(), evidence(-1.0, 1.0))
    assert "clips that this program drew" in told
    assert list(said_first(real(), evidence(-1.0, 1.0))) == []


def test_who_can_support_neither_side_says_so() -> None:
    (told,) = said_first(real(), evidence(-0.1, 0.2))
    assert "2 real and 3 fake validation clips bear no more than a log10 LR of -0.10 to +0.20" in told
    assert list(said_first(real(), evidence(-0.1, 0.4))) == []
