from pipeline.runs.worth import said_first, warnings


def test_of_drawn_clips_it_is_said_first() -> None:
    (told,) = said_first("synth", (-1.0, 1.0))
    assert "clips that this program drew" in told
    assert list(said_first("csv", (-1.0, 1.0))) == []


def test_who_can_support_neither_side_says_so() -> None:
    (told,) = said_first("csv", (-0.1, 0.2))
    assert "the clips that it was calibrated on bear no more than a log10 LR of -0.10 to +0.20" in told
    assert list(said_first("csv", (-0.1, 0.4))) == []
    assert list(said_first("csv", None)) == []


def test_warnings_are_those_of_the_set_the_files_and_the_audit() -> None:
    audit = [{"found": True, "says": "leading silence tells"}, {"found": False, "says": "no"}]
    metrics = {"small_set_reason": "small", "shortcuts": {"warning": "shortcut"}, "audit": audit}
    assert warnings(metrics) == ["small", "shortcut", "Leading silence tells."]
    assert warnings({"small_set_reason": None, "shortcuts": {"warning": None}, "audit": None}) == []
