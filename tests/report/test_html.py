"""The HTML page: self-contained, harmless, and saying what the result says."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from featstore.errors import NotFoundError, UsageError
from featstore.evaluate import EvalRequest, EvalResult, evaluate
from featstore.report import to_html, to_markdown, write_report
from featstore.store import NewRows
from tests.report.conftest import ATTACK, OVERRIDE, N, class_of
from tests.report.pages import Page
from tests.store_factory import add_set

HARMLESS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "article", "div", "span", "p",
    "h1", "h2", "h3", "h4", "b", "i", "strong", "small", "code", "bdi", "ul", "ol", "li", "dl", "dt", "dd", "figure",
    "figcaption", "img", "table", "thead", "tbody", "tr", "th", "td", "svg", "path", "circle", "line", "rect", "text",
    "details", "summary",
}  # fmt: skip
HARMLESS_ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "style", "src", "alt", "title", "scope", "role",
    "aria-label", "aria-hidden", "viewbox", "d", "cx", "cy", "r", "x", "y", "x1", "x2", "y1", "y2", "width", "height",
    "transform", "colspan", "open",
}  # fmt: skip


@pytest.fixture(scope="module")
def html(compatible, store, images):
    return to_html(compatible, store=store, images=images, title=ATTACK)


def test_it_is_one_well_formed_file_that_loads_and_runs_nothing(html):
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= HARMLESS
    assert {key for _, attributes in page.elements for key in attributes} <= HARMLESS_ATTRIBUTES
    assert html.startswith("<!DOCTYPE html>")
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(re.fullmatch(r"data:image/jpeg;base64,[\w+/=]+", image["src"]) for image in page.all("img"))
    assert not re.search(r"url\(|@import|://", html)


def test_names_from_outside_are_text(html):
    page = Page(html)
    assert "<script" not in html
    assert "<img src=x" not in html
    assert page.text.count(ATTACK) > 5  # title, classes, ids and spaces, shown as they are
    assert ATTACK in [" ".join(page.words[at : at + 1]) for at in range(len(page.words))]


def test_direction_overrides_and_control_characters_are_replaced(compatible, html):
    assert OVERRIDE in class_of(0)
    assert OVERRIDE not in html
    assert f"{ATTACK}\ufffd" in Page(html).text
    assert "a\ufffdb\ufffdc" in to_html(compatible, title="a\x00b\ud800c")


def test_it_says_the_numbers_of_the_result(compatible, html):
    text = Page(html).text
    assert compatible.compatible["map"] is True
    assert "Compatible." in text
    for cell in compatible.cells:
        for metric, value in cell.metrics.items():
            low, high = cell.interval[metric]
            assert f"{100 * value:.1f} {100 * low:.1f} – {100 * high:.1f}" in text
    for by_metric in (compatible.differences[f"{role} - old/old"] for role in ("new/old", "new/new", "reference")):
        for change in by_metric.values():
            numbers = [f"{100 * value:+.2f}".replace("-", "−") for value in (change.value, change.low, change.high)]
            numbers = ["0.00" if number[1:] == "0.00" else number for number in numbers]
            assert f"{numbers[0]} [{numbers[1]}, {numbers[2]}]" in text
    for gain in compatible.update_gain.values():
        assert gain is not None
        assert f"{100 * gain:.0f} %" in text
    assert f"{N} rows used of {N} selected" in text
    assert all(convention in text for convention in compatible.protocol.conventions.values())
    for cell in compatible.cells:
        assert cell.query in text


def test_flips_and_their_rankings_are_those_of_the_features(compatible, features, store):
    """The examples, recomputed from the definition: flips of the nearest row, nearest rows by cosine, hits by class."""
    values = {role: found.values for role, found in compatible.evidence.per_query.items()}
    change = values["new/old"]["map"] - values["old/old"]["map"]
    flip = values["new/old"]["recall@1"] - values["old/old"]["recall@1"]
    unit = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in features.items()}
    queries = []
    for sign in (-1, 1):
        taken = [query for query in np.argsort(-sign * change, kind="stable") if sign * flip[query] > 0]
        of_class = [
            [class_of(other) for other in taken[:place]].count(class_of(query)) for place, query in enumerate(taken)
        ]
        queries += [query for query, before in zip(taken, of_class, strict=True) if before < 2][:12]
    page = to_html(compatible, store=store)
    assert f"{(flip < 0).sum()} queries break and {(flip > 0).sum()} are repaired" in Page(page).text
    found = page.split('<details class="example"')[1:]
    for item, query in zip(found, queries, strict=True):
        item = f"<details{item.split('</details>')[0]}</details>"
        text = Page(item).text
        assert f"{100 * change[query]:+.2f} points".replace("-", "−") in text
        expected = []
        for name in ("old", "better"):
            scores = unit["old"] @ unit[name][query]
            scores[query] = -2
            expected += np.argsort(-scores, kind="stable")[:5].tolist()
        marks = ["✓" if class_of(row) == class_of(query) else "✗" for row in expected]
        assert re.findall("[✓✗]", text) == marks
        shown = re.findall(r'(?:alt|class="no-image" title)="[^"]*/(\d+)\.png"', item)
        assert [int(row) for row in shown] == [query, *expected]


def test_pictures_are_small_and_of_the_right_row(compatible, store, images):
    found = re.findall(
        r'<img src="data:image/jpeg;base64,([^"]+)" alt="plain/(\d+)\.png"',
        to_html(compatible, store=store, images=images),
    )
    assert len(found) > 10
    for data, row in found:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (96, 58)
            assert image.getpixel((5, 5)) == pytest.approx((int(row),) * 3, abs=2)


def test_only_a_folder_that_the_reader_names_is_read(compatible, store, images, tmp_path):
    """The root in the store is data: whoever wrote the store may have named a private folder of the reader's."""
    assert store.dataset("shop").root == str(images)
    page = Page(to_html(compatible, store=store))
    assert page.all("img") == []
    assert "plain/" in page.text
    assert Page(to_html(compatible, store=store, images=tmp_path)).all("img") == []
    with pytest.raises(NotFoundError):
        to_html(compatible, store=store, images=tmp_path / "missing")


def test_an_undecided_verdict_and_no_update_gain(undecided, store):
    assert undecided.compatible["map"] is None
    text = Page(to_html(undecided, store=store)).text
    assert "Undecided. It is open whether" in text
    assert "Not available: no reference set was given." in text
    own = undecided.differences["new/new - old/old"]["map"]
    assert ("not surely better even on its own gallery" in text) == (own.low <= 0)


def test_a_reference_that_is_no_better_gives_one_reason_for_all_metrics(store):
    result = evaluate(store, EvalRequest(old="shop/old", new="shop/twin", reference="shop/twin", bootstrap=200))
    text = Page(to_html(result, store=store)).text
    assert result.update_gain["map"] is None
    assert text.count("the reference is not surely better than old/old") == 1


def test_metrics_that_disagree_are_said_at_the_top(compatible):
    verdicts = {**dict.fromkeys(compatible.compatible, True), "recall@1": False, "recall@5": None}
    mixed = compatible.model_copy(update={"compatible": verdicts})
    text = Page(to_html(mixed)).text
    assert "Not every metric agrees (not compatible: recall@1; undecided: recall@5)." in text


def test_unrelated_spaces_are_marked(store):
    request = EvalRequest(old="shop/old", new="shop/other", allow_unrelated=True, bootstrap=0)
    page = to_html(evaluate(store, request), store=store)
    text = Page(page).text
    assert "Nothing declares the spaces of two models comparable" in text
    assert "new/old unrelated" in text
    assert 'class="dot other hollow"' in page
    assert "without an interval because no bootstrap was asked for" in text


def test_one_pair_has_no_verdict(store):
    result = evaluate(store, EvalRequest(query="shop/better", gallery="shop/old", bootstrap=100))
    text = Page(to_html(result, store=store)).text
    assert text.startswith("Evaluation report")
    assert f"Measured. map is {100 * result.cells[0].metrics['map']:.1f} %" in text
    assert "Update gain" not in text


def test_a_result_from_json_gives_a_page_without_single_queries(compatible, store):
    again = EvalResult.model_validate_json(compatible.to_json())
    text = Page(to_html(again, store=store)).text
    assert "Compatible." in text
    assert "Queries to look at" not in text
    assert "Where it changes" in text


def test_without_a_store_there_are_classes_but_no_examples(compatible):
    page = to_html(compatible)
    text = Page(page).text
    assert "Classes that gain most" in text
    assert "Queries to look at" not in text
    assert page.count('class="point ') == 9


def test_it_is_written_whole_or_not_at_all(compatible, store, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    assert write_report(compatible, path, store=store) == path
    assert path.read_text(encoding="utf-8") == to_html(compatible, store=store)
    first = path.read_bytes()

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(compatible, path, title="another")
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_the_ending_chooses_the_format(compatible, tmp_path):
    assert write_report(compatible, tmp_path / "r.md").read_text(encoding="utf-8").startswith("# Compatibility report")
    found = write_report(compatible, tmp_path / "r.json").read_text(encoding="utf-8")
    assert EvalResult.model_validate_json(found).model_dump() == compatible.model_dump()
    with pytest.raises(UsageError, match=r"\.html, \.md or \.json"):
        write_report(compatible, tmp_path / "r.pdf")
    (tmp_path / "d.html").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        write_report(compatible, tmp_path / "d.html")
    with pytest.raises(NotFoundError, match="does not exist"):
        write_report(compatible, tmp_path / "missing" / "r.html")


def test_backfill_thresholds_and_flips_are_those_of_the_result(compatible, html):
    text = Page(html).text
    for curve in compatible.backfill:
        for metric in ("map",):
            for point in (*curve.metrics[metric], curve.area_trapezoid[metric], curve.area_mean[metric]):
                assert f"{100 * point.value:.1f} {100 * point.low:.1f} – {100 * point.high:.1f}" in text
    for item in compatible.thresholds:
        for role, point in item.kept.items():
            assert f"{role} {point.threshold:.4f} {100 * point.fpr:.3g} % {100 * point.tpr:.3g} %" in text
    assert "below one pair" in text
    for role, by_metric in compatible.flips.items():
        for metric, found in by_metric.items():
            shares = [f"{100 * x.value:.1f} {100 * x.low:.1f} – {100 * x.high:.1f}" for x in (found.nfr, found.pfr)]
            assert f"{metric.split('@')[1]} {' '.join(shares)}" in text, role
    for score in (compatible.p_up["map"], compatible.p_comp["map"], compatible.p_1["map"]):
        assert f"{100 * score.value:.1f} {100 * score.low:.1f} – {100 * score.high:.1f}" in text


def test_a_chain_shows_every_cross_test_and_its_scores(chain, store):
    text = Page(to_html(chain, store=store)).text
    assert "queries ↓ gallery → v1 v2 v3" in text
    for cell in chain.cells:
        assert f"{100 * cell.metrics['map']:.1f}" in text
    for role in ("v2/v1", "v3/v1", "v3/v2"):
        change = chain.differences[f"{role} - {role[3:]}/{role[3:]}"]["map"]
        assert f"{100 * change.value:+.2f}".replace("-", "−") in text
    assert f"{chain.chain.ac['map'].value:.2f} ({chain.chain.ac_nonstrict['map'].value:.2f})" in text
    assert "cross-tests pass in map" in text


def test_what_was_left_out_is_said(compatible):
    without = compatible.model_copy(update={"left_out": {"new/mapped-old": "its width differs"}})
    assert "new/mapped-old was left out: its width differs." in Page(to_html(without)).text


@pytest.mark.parametrize(
    "request_",
    [
        {"protocol": "verification"},
        {"score": "euclidean"},
        {"score": "inner", "fpr": (0.1,)},
        {"distractors": "noise"},
    ],
    ids=["verification", "euclidean", "inner", "distractors"],
)
def test_pages_of_other_protocols_and_scores(store, features, request_):
    if not store.has_dataset("noise"):
        store.create_dataset("noise", NewRows([f"n{row}" for row in range(N)]))
        for name in ("old", "better"):
            add_set(store, "noise", name, features["other"], space=store.features(f"shop/{name}").space)
    request = EvalRequest(old="shop/old", new="shop/better", bootstrap=50, **request_)
    result = evaluate(store, request)
    page = Page(to_html(result, store=store))
    assert f"{100 * result.cells[0].metrics[result.headline]:.1f}" in page.text
    assert ("Queries to look at" in page.text) == ("protocol" not in request_)
    assert ("a distractor" in page.text) == ("distractors" in request_)
    assert to_markdown(result)
