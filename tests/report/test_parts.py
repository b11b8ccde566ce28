"""Numbers, plots, choices and thumbnails on their own, and the Markdown."""

import base64
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featstore.evaluate import Distribution, Estimated, EvalRequest, evaluate
from featstore.report import numbers, to_markdown
from featstore.report.curve_plot import Curve, Level, curve_plot
from featstore.report.examples import choose
from featstore.report.histogram_plot import histogram_plot
from featstore.report.interval_plot import Interval, interval_plot
from featstore.report.scatter_plot import Dot, scatter_plot
from featstore.report.svg import ticks
from featstore.report.tables import extremes, heat_table
from featstore.report.thumbnails import pictures_of
from tests.report.conftest import ATTACK, CLASSES, EACH, class_of
from tests.report.pages import Page


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.12041, "+12.04"), (-0.3, "−30.00"), (0.0, "0.00"), (-0.0, "0.00"), (3.21e-5, "+0.0032"), (-4.9e-5, "−0.0049")],
)
def test_a_difference_is_signed_and_never_rounds_to_zero(fraction, text):
    assert numbers.points(fraction) == text


@given(st.floats(-1, 1).filter(lambda value: abs(value) > 1e-12))
def test_points_keep_sign_and_size(fraction):
    value = float(numbers.points(fraction).replace("−", "-")) / 100
    assert math.copysign(1, value) == math.copysign(1, fraction)
    assert value == pytest.approx(fraction, rel=0.06, abs=6e-5)


def test_intervals_that_are_not_there_are_left_out():
    assert numbers.difference(Estimated(value=0.1, low=None, high=None)) == "+10.00"
    assert numbers.difference(Estimated(value=0.1, low=0.05, high=0.2)) == "+10.00 [+5.00, +20.00]"
    assert numbers.span(None) == ""
    assert numbers.percent(float("nan")) == numbers.points(float("nan")) == "–"


@given(st.floats(-1, 1), st.floats(0, 1))
def test_ticks_enclose_the_values_in_equal_round_steps(low, width):
    marks = ticks(low, low + width)
    steps = np.diff(marks)
    assert 1 <= len(steps) <= 7
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert marks[0] <= low + 1e-6 * steps[0]
    assert marks[-1] >= low + width - 1e-6 * steps[0]
    assert f"{steps[0]:.3e}"[:5] in {"1.000", "2.000", "5.000"}


def test_plots_place_values_and_escape_names():
    rows = [Interval(ATTACK, "5", 0.5, (0.25, 0.75), "old"), Interval("b", "10", 1.0, None, "other", hollow=True)]
    text = str(interval_plot(rows, reference=0.0, band=(0.0, 0.5), describe=ATTACK, show=str))
    page = Page(text)
    assert "<script" not in text
    assert ATTACK in page.text
    low, high = (
        float(mark) for mark in (page.words[0], [word for word in page.words if "." in word][len(ticks(-0.1, 1)) - 1])
    )
    assert (low, high) == (ticks(-0.1, 1)[0], ticks(-0.1, 1)[-1])
    across = [f"{100 * (value - low) / (high - low):.2f}%" for value in (0.5, 1.0)]
    assert [circle["cx"] for circle in page.all("circle")] == across
    assert len([line for line in page.all("line") if "whisker" in line["class"]]) == 1


def test_few_points_have_tooltips_and_many_are_one_path():
    few = [Dot(0.1, 0.2, ATTACK), Dot(0.3, 0.2, "b"), Dot(0.4, 0.4, "c")]
    page = Page(str(scatter_plot(few, x_label="x", y_label="y", describe="d", show=str)))
    assert [circle["class"] for circle in page.all("circle")] == ["point good", "point bad", "point even"]
    assert ATTACK in page.text
    rng = np.random.default_rng(0)
    many = [Dot(x, y, "") for x, y in rng.random((20_000, 2))]
    text = str(scatter_plot(many, x_label="x", y_label="y", describe="d", show=str))
    assert Page(text).all("circle") == []
    assert len(text) < 300_000
    nothing = Page(str(scatter_plot([], x_label="x", y_label="y", describe="d", show=str)))
    assert len(nothing.all("rect")) == 1


def test_curves_place_points_and_bands_and_escape_names():
    curves = [Curve(ATTACK, (0, 0.5, 1), (0.2, 0.4, 0.3), (0.1, 0.3, 0.2), (0.3, 0.5, 0.4))]
    curves.append(Curve("plain", (0, 1), (0.2, 0.3), None, None))
    text = str(curve_plot(curves, Level("today", 0.25), x_label="x", y_label="y", describe=ATTACK, show=str))
    page = Page(text)
    assert "<script" not in text
    assert ATTACK in page.text
    dots = [(float(dot["cx"]), float(dot["cy"])) for dot in page.all("circle")]
    assert len(dots) == 5
    assert dots[0][0] < dots[1][0] < dots[2][0]
    assert dots[1][1] < dots[2][1] < dots[0][1]  # pictures count from the top
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.1)
    assert [path["class"] for path in page.all("path")] == ["spread series0", "curve series0", "curve series1"]


def test_histograms_have_the_same_area_whatever_the_counts():
    counts = np.random.default_rng(0).integers(0, 50, 200)
    scores = Distribution(low=-0.1, high=0.9, positives=counts.tolist(), negatives=(1000 * counts[::-1]).tolist())
    text = str(histogram_plot(scores, threshold=(0.5, ATTACK), describe=ATTACK, show=str))
    page = Page(text)
    assert "<script" not in text
    assert ATTACK in page.text
    areas = []
    for path in page.all("path"):
        corners = np.array([[float(part) for part in corner.split()] for corner in path["d"][1:-1].split("L")])
        areas.append(np.trapezoid(168 - corners[:, 1], corners[:, 0]))
        assert len(corners) < 140
    assert areas[0] == pytest.approx(areas[1], rel=0.02)
    nothing = Distribution(low=0.0, high=1.0, positives=[0, 0], negatives=[0, 3])
    assert Page(str(histogram_plot(nothing, threshold=None, describe="d", show=str))).all("path")


def test_examples_are_the_worst_flips_few_of_a_class_first_query_first():
    change = np.array([0.5, 0.5, np.nan, 0.4, -0.1, -0.3, 0.0, 0.2, 0.1, 0.05, 0.3, 0.45])
    flip = np.array([1, 1, np.nan, 1, -1, -1, 0, 0, 1, 1, 1, 1])
    classes = np.array([1, 2, 3, 1, 1, 1, 4, 5, 6, 7, 8, 1])
    assert choose(change, flip, classes, sign=1).tolist() == [0, 1, 11, 10, 8, 9]
    assert choose(change, flip, classes, sign=-1).tolist() == [5, 4]
    assert len(choose(np.ones(100), np.ones(100), np.arange(100), sign=1)) == 12


def test_the_heat_table_has_a_place_for_every_cell(compatible):
    heat = heat_table(compatible)
    assert heat.galleries == ["old", "new", "reference"]
    assert [query for query, _ in heat.rows] == ["old", "new", "reference"]
    filled = [[value is not None for value in values] for _, values in heat.rows]
    assert filled == [[True, False, False], [True, True, False], [False, False, True]]
    assert heat.subject == ("new", "old")
    cross = heat.rows[1][1][0]
    assert cross.value == f"{100 * compatible.cell('new/old').metrics['map']:.1f}"
    assert cross.change == compatible.differences["new/old - old/old"]["map"]
    assert {value.shade for _, values in heat.rows for value in values if value} >= {0.0, 1.0}


def test_classes_are_means_over_their_queries(compatible):
    found = compatible.changes
    before = compatible.evidence.per_query["old/old"].values["map"]
    after = compatible.evidence.per_query["new/old"].values["map"]
    assert [item.name for item in found.classes] == sorted(class_of(number * EACH) for number in range(CLASSES))
    for item in found.classes:
        rows = [row for row in range(len(before)) if class_of(row) == item.name]
        assert (item.queries, item.before) == (len(rows), pytest.approx(before[rows].mean()))
        assert item.after == pytest.approx(after[rows].mean())
    assert (found.better, found.worse) == (int((after > before).sum()), int((after < before).sum()))
    changes = [item.after - item.before for item in extremes(found).gaining]
    assert changes == sorted(changes, reverse=True)
    assert max(item.after - item.before for item in found.classes) == changes[0]


def test_only_images_below_the_root_are_shown(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    picture = Image.new("RGB", (40, 40), (9, 200, 9))
    picture.save(tmp_path / "secret.png")
    picture.save(root / "fine.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder.png").mkdir()
    (root / "text.png").write_text("no image")
    Image.new("1", (9000, 9000)).save(root / "bomb.png")
    (root / "cut.png").write_bytes((root / "fine.png").read_bytes()[:60])
    show = pictures_of(root)
    assert show("fine.png").startswith("data:image/jpeg;base64,")
    outside = [
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "../root/fine.png",
        "./fine.png",
        "x/../fine.png",
    ]
    for id_ in [*outside, "folder.png", "text.png", "bomb.png", "cut.png", "missing.png", "a\0b", "x" * 5000, ""]:
        assert show(id_) is None, id_


def test_nothing_of_the_original_but_its_pixels_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (9, 200, 9)).save(
        stream, "JPEG", comment=b"my secret", exif=exif, icc_profile=b"profile"
    )
    (tmp_path / "a.jpg").write_bytes(stream.getvalue() + b"trailing bytes")
    data = io.BytesIO(base64.b64decode(pictures_of(tmp_path)("a.jpg").partition(",")[2]))
    for text in (b"my secret", b"taken at home", b"profile", b"trailing"):
        assert text in stream.getvalue() + b"trailing"
        assert text not in data.getvalue()


def test_markdown_says_the_same_numbers(compatible):
    lines = to_markdown(compatible).splitlines()
    assert lines[2].startswith("✅ **Compatible.** ")
    for cell in compatible.cells:
        row = next(line for line in lines if line.startswith(f"| **{cell.role}**"))
        for metric, value in cell.metrics.items():
            low, high = cell.interval[metric]
            assert f"{100 * value:.1f} ({100 * low:.1f} – {100 * high:.1f})" in row
    first = next(place for place, line in enumerate(lines) if line.startswith("|"))
    assert lines[first].count("|") == len(compatible.cells[0].metrics) + 2
    flips = compatible.flips["new/old"]["recall@5"]
    shares = [f"{100 * x.value:.1f} ({100 * x.low:.1f} – {100 * x.high:.1f})" for x in (flips.nfr, flips.pfr)]
    assert f"| new/old | recall@5 | {' | '.join(shares)} |" in lines
    curve = [f"{100 * point.value:.1f}" for point in compatible.backfill[1].metrics["map"]]
    assert any(line.startswith(f"|  | {' | '.join(curve)} | ") for line in lines)
    kept = compatible.thresholds[0].kept["new/old"]
    assert f"| fpr 0.01 | new/old | {kept.threshold:.4f} | {100 * kept.tpr:.3g} % |" in lines
    table = None
    for line in lines:  # every row of a table has as many cells as its head
        if line.startswith("|"):
            table = table or line.count("|")
            assert line.count("|") == table
        else:
            table = None


def test_markdown_escapes_names(store):
    request = EvalRequest(query="shop/old", gallery="shop/old", where=("label!=a|`b`[c](//d)",), bootstrap=0)
    text = to_markdown(evaluate(store, request), title="<b>*x*</b>\n# @you [a](http://b) www.c")
    assert text.splitlines()[0] == r"# \<b\>\*x\*\</b\> # \@you \[a\](http\://b) www\.c"
    assert "`label!=a|'b'[c](//d)`" in text
    assert "Intervals: none" in text


def test_markdown_of_a_chain_has_every_cross_test_and_the_scores(chain):
    text = to_markdown(chain)
    assert "v3/v2" in text
    scores = f"{chain.chain.ac['map'].value:.2f} | {numbers.difference(chain.chain.bc['map'])}"
    assert scores.replace("[", r"\[").replace("]", r"\]") in text
