"""The charts of the report: positions of their elements compared with values computed by hand."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from star_ctr.workflows.report.charts import (
    WIDTH,
    Circle,
    Difference,
    Line,
    draw_calibration,
    draw_forest,
    draw_lines,
    draw_sparkline,
    draw_stacked_bars,
)
from star_ctr.workflows.report.formatting import clip, format_change, format_clock, format_number, format_seconds
from star_ctr.workflows.report.reliability_chart import draw_reliability
from star_ctr.workflows.report.scales import AxisScale, choose_ticks, fit_ratio_scale, fit_scale, format_ticks


def find_elements(svg: str, tag: str, kind: str = "") -> list[ET.Element]:
    return [e for e in ET.fromstring(svg).iter(tag) if kind in e.get("class", "").split() or not kind]


def parse_points(element: ET.Element) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in (p.split(",") for p in element.get("points", "").split())]


def test_the_reliability_chart_colors_bins_off_the_diagonal() -> None:
    bins = [
        {"lower": 0.0, "rows": 29, "clicks": 20, "score": 1e-6},  # too few rows
        {"lower": 0.01, "rows": 10_000, "clicks": 100, "score": 0.01},  # on the diagonal
        {"lower": 0.02, "rows": 40, "clicks": 0, "score": 0.02},  # the interval contains the score
        {"lower": 0.1, "rows": 1_000, "clicks": 200, "score": 0.1},  # twice as many clicks as predicted
    ]
    svg = draw_reliability("reliability", bins)
    points = find_elements(svg, "circle", "point")
    assert [p.get("class") for p in points] == ["point flat", "point flat", "point bad"]
    diagonal = find_elements(svg, "line", "mark")[0]
    x1, x2, y1, y2 = (float(diagonal.get(name, "")) for name in ("x1", "x2", "y1", "y2"))

    def distance(point: ET.Element) -> float:
        """Return the height above the diagonal, in pixels."""
        x, y = float(point.get("cx", "")), float(point.get("cy", ""))
        return y1 + (y2 - y1) * (x - x1) / (x2 - x1) - y

    assert distance(points[0]) == pytest.approx(0, abs=0.2)
    assert distance(points[2]) > 10, "CTR is above predicted CTR"
    whisker = find_elements(svg, "line", "whisker")[1]
    assert float(whisker.get("y1", "")) == pytest.approx(y1, abs=0.2), "an interval down to 0 reaches the edge"
    assert draw_reliability("too few bins", bins[:2]) == ""


def test_scales_map_values_to_positions() -> None:
    assert AxisScale(0, 10, 100, 200)(2.5) == 125
    assert AxisScale(0, 10, 200, 100)(2.5) == 175, "the vertical axis is inverted"
    assert AxisScale(0, 10, 100, 200)(99) == 200
    assert AxisScale(0.25, 4, 0, 100, log=True)(1) == 50
    assert AxisScale(0.25, 4, 0, 100, log=True)(2) == 75
    scale = fit_scale([1.0, None, math.nan, 2.0], 0, 100)
    assert (scale.low, scale.high) == pytest.approx((0.88, 2.12))


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.6212, 0.6358, ["0.625", "0.630", "0.635"]),
        (-0.013, 0.021, ["-0.01", "0.00", "0.01", "0.02"]),
        (0, 3500, ["0", "1,000", "2,000", "3,000"]),
    ],
)
def test_ticks_are_round(low: float, high: float, texts: list[str]) -> None:
    assert format_ticks(choose_ticks(AxisScale(low, high, 0, 1))) == texts


def test_ticks_of_ratios_include_1_and_do_not_overlap() -> None:
    for values in ([0.97, 1.02], [0.3, 3.5], [0.1, 9.0]):
        scale = fit_ratio_scale(values, 150, 20)
        marks = choose_ticks(scale)
        assert 1.0 in marks
        at = [scale(m) for m in marks]
        assert min(a - b for a, b in zip(at, at[1:], strict=False)) >= 20


def test_lines_and_bands_have_the_gaps_of_the_values() -> None:
    line = Line([0, 1, 2, 3], [0.5, None, 0.7, 0.6], "main", [0.4, None, 0.65, 0.5], [0.6, None, 0.75, 0.7])
    svg = draw_lines("it", [line], [(0, "a"), (3, "<b>")])
    runs = [parse_points(e) for e in find_elements(svg, "polyline", "main")]
    assert [len(r) for r in runs] == [1, 2]
    (x2, y2), (x3, y3) = runs[1]
    assert x3 == WIDTH - 12
    assert x2 == pytest.approx(46 + (WIDTH - 58) * 2 / 3, abs=0.1)
    assert y2 < y3, "higher values are drawn higher"
    (band,) = find_elements(svg, "polygon", "band")
    assert len(parse_points(band)) == 6
    assert [e.text for e in find_elements(svg, "text", "value")] == ["0.6000"]
    assert "<b>" in [e.text for e in find_elements(svg, "text", "tick")]


def test_values_above_the_ceiling_are_omitted() -> None:
    svg = draw_lines("it", [Line([1, 2, 3], [9.0, 0.2, 0.1])], [], ceiling=0.2)
    (run,) = find_elements(svg, "polyline", "main")
    assert len(parse_points(run)) == 2


def test_a_single_value_is_drawn_as_a_dot() -> None:
    svg = draw_lines("it", [Line([5], [0.5])], [(5, "now")])
    assert len(find_elements(svg, "circle", "dot")) == 1


def test_the_forest_plot_colors_intervals_that_exclude_0() -> None:
    spans = [
        Difference("overall", 0.001, 0.002, 0.003),
        Difference("a", -0.03, -0.02, -0.01),
        Difference("b", -0.01, 0.0, 0.01),
        Difference("c", None, None, None),
    ]
    svg = draw_forest("it", spans)
    assert [e.get("class") for e in find_elements(svg, "line", "whisker")] == [
        "whisker good",
        "whisker bad",
        "whisker flat",
    ]
    marks = {float(e.get("x1", 0)) for e in find_elements(svg, "line", "mark")}
    (zero,) = marks
    assert [float(e.get("cx", 0)) > zero for e in find_elements(svg, "circle", "good")] == [True]
    assert [float(e.get("cx", 0)) < zero for e in find_elements(svg, "circle", "bad")] == [True]
    assert [e.text for e in find_elements(svg, "text", "label")][-2:] == ["c", "undefined"]


def test_areas_of_circles_are_proportional_to_clicks() -> None:
    svg = draw_calibration("it", [Circle("a", 1.0, 400, 1.1), Circle("b", 1.1, 100), Circle("c", None, 50)])
    a, b = (float(e.get("r", 0)) for e in find_elements(svg, "circle", "disc"))
    assert a == pytest.approx(2 * b, abs=0.1)
    assert float(find_elements(svg, "circle", "disc")[0].get("cy", 0)) == float(
        find_elements(svg, "line", "mark")[0].get("y1", 0)
    )
    assert len(find_elements(svg, "circle", "ring")) == 1


def test_bars_are_stacked_by_length() -> None:
    svg = draw_stacked_bars("it", [("01-01", [10.0, 30.0]), ("01-02", [0.0, 20.0])])
    widths = [float(e.get("width", 0)) + 1 for e in find_elements(svg, "rect")]
    assert widths == pytest.approx([55.5, 166.5, 111.0], abs=0.2)
    assert [e.text for e in find_elements(svg, "text", "label")] == ["40 s", "20 s"]


def test_a_sparkline_needs_two_values() -> None:
    assert draw_sparkline([None, 0.5]) == ""
    assert len(parse_points(find_elements(draw_sparkline([0.4, None, 0.5]), "polyline")[0])) == 2


def test_numbers_are_formatted_for_readers() -> None:
    assert [format_number(v, d) for v, d in ((None, 4), (math.nan, 4), (0.12345, 4), (1234567, 0))] == [
        "–",
        "–",
        "0.1235",
        "1,234,567",
    ]
    assert [format_seconds(s) for s in (None, 8.44, 42.4, 59.7, 200.0, 7500.0)] == [
        "–",
        "8.4 s",
        "42 s",
        "1 min",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert [format_clock(s) for s in (42.4, 200, 7500)] == ["0:42", "3:20", "2:05:00"]
    assert clip("a<b and more", 6) == "a&lt;b a…"


@pytest.mark.parametrize(
    ("value", "previous", "better", "kind"),
    [
        (2, 1, "up", "good"),
        (2, 1, "down", "bad"),
        (0.9, 1.2, "one", "good"),
        (1.3, 1.2, "one", "bad"),
        (2, 1, "", "flat"),
        (1, 1.0001, "up", "flat"),
    ],
)
def test_changes_are_colored_by_what_is_better(value: float, previous: float, better: str, kind: str) -> None:
    assert f'class="{kind}"' in format_change({"m": value}, {"m": previous}, "m", 3, better)


def test_a_change_within_the_interval_has_no_color() -> None:
    row = {"m": 0.62, "m_low": 0.61, "m_high": 0.63}
    assert format_change(row, {"m": 0.612}, "m", 4, "up") == '<span class="flat">▲ 0.0080</span>'
    assert format_change(row, {"m": 0.6}, "m", 4, "up") == '<span class="good">▲ 0.0200</span>'
    assert format_change(row, {}, "m") == format_change({"m": None}, {"m": 1.0}, "m") == ""


def test_a_band_may_touch_0_and_ends_at_missing_bounds() -> None:
    line = Line([0, 1, 2], [0.1, 0.2, 0.3], "main", [0.0, 0.1, float("nan")], [0.2, 0.3, 0.4])
    svg = draw_lines("it", [line], [(0, "a")])
    (band,) = find_elements(svg, "polygon", "band")
    assert len(parse_points(band)) == 4
    assert "nan" not in svg
