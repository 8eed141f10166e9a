"""How parameters are shown: to people in lines, to programs as plain values."""

from __future__ import annotations

from dynasor_serve.certaindex.rules.initial_curve import InitialCurve
from dynasor_serve.certaindex.rules.parameters import parameters_of
from dynasor_serve.certaindex.rules.static_threshold import StaticThreshold
from dynasor_serve.cli.catalogue import parameter_fields, parameter_lines


def test_a_line_gives_meaning_bounds_and_default() -> None:
    lines = parameter_lines(parameters_of(StaticThreshold)).splitlines()
    assert lines == [
        "    threshold  least H̃ that stops; a number above 0 and at most 1 [default: 0.7]",
        "    detect     samples after which H̃ is judged, once; a whole number at least 2 and at most 1024 [default: 5]",
    ]


def test_a_curve_is_written_as_in_a_type_string_and_has_no_range() -> None:
    detect, curve = parameter_fields(parameters_of(InitialCurve))
    assert isinstance(detect, dict)
    assert isinstance(curve, dict)
    assert (detect["default"], detect["minimum"], detect["maximum"]) == (5, 2, 1024)
    assert (curve["default"], curve["minimum"], curve["maximum"]) == ("0.409/7;0.689/5", None, None)
    assert str(curve["bounds"]).startswith("a curve like 0.41/14;0.69/5")
