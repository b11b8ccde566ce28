"""The plan measures what it says, on rows that no map has seen, and recommends what its rule says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from featstore.errors import AlignmentError, UnknownNameError, UsageError
from featstore.evaluate import Estimated, EvalRequest, evaluate
from featstore.maps import apply_map
from featstore.report import Plan, plan_to_html
from featstore.spaces import Space
from featstore.store import NewRows
from featstore_cli.main import run
from featstore_training import TrainConfig, train
from featstore_training.upgrade import PlanRequest, make_plan
from featstore_training.upgrade.recommend import recommend
from tests.store_factory import add_set, labelled_store
from tests.upgrade.conftest import LACKING, N

ONLY = ("procrustes", "slerp", "gallery-ridge")


@pytest.fixture
def planned(store, tmp_path):
    request = PlanRequest(old="shop/old", new="shop/new", only=ONLY, bootstrap=200, images_per_second=10)
    return request, tmp_path / "plan", make_plan(store, request, tmp_path / "plan")


def test_every_way_is_what_an_evaluation_of_it_says(store, planned):
    _, folder, plan = planned
    fitted, measured = ((folder / name).read_text().split() for name in ("fitted.txt", "measured.txt"))
    assert not set(fitted) & set(measured)
    assert len(fitted) + len(measured) == N - len(LACKING)
    labels = store.dataset("shop").labels
    of = [{labels.codes[int(text.removesuffix(".jpg"))] for text in ids} for ids in (fitted, measured)]
    assert (len(of[0]), len(of[1]), of[0] & of[1]) == (4, 4, set())
    where = (f"id=@{folder / 'measured.txt'}",)
    asked = EvalRequest(
        old="shop/old", new="shop/new", where=where, gallery_map=learned(folder, "gallery-ridge"), bootstrap=200
    )
    direct = evaluate(store, asked)
    ways = {path.name: path for path in plan.paths}
    assert ways["today"].value.value == pytest.approx(direct.cell("old/old").metrics["map"])
    assert ways["full-backfill"].value.value == pytest.approx(direct.cell("new/new").metrics["map"])
    assert ways["gallery-ridge"].metrics == direct.cell("new/mapped-old").metrics
    difference = direct.differences["new/mapped-old - old/old"]["map"]
    assert ways["gallery-ridge"].change == difference
    assert [ways[name].gallery_bytes for name in ("procrustes", "gallery-ridge")] == [0, N * 12 * 4]
    assert [ways[name].images for name in ("gallery-ridge", "gallery-ridge+20%", "full-backfill")] == [0, N // 5, N]
    assert ways["slerp"].encoders == ways["two-indexes+5%"].encoders == 2
    assert ways["gallery-ridge+50%"].value.value == pytest.approx(
        max(curve.metrics["map"][4].value for curve in plan.curves if curve.serving == "one index"), abs=0.2
    )
    assert [curve.fractions for curve in plan.curves] == [[0, 0.05, 0.1, 0.2, 0.5, 1]] * 4
    for curve in plan.curves:
        ends = [curve.metrics["map"][place].value for place in (0, -1)]
        start = "today" if curve.serving == "two indexes" else "gallery-ridge"
        assert ends == pytest.approx([ways[start].value.value, ways["full-backfill"].value.value])
        values = [point.value for point in curve.metrics["map"]]
        assert curve.area_trapezoid["map"].value == pytest.approx(np.trapezoid(values, curve.fractions))
        assert curve.area_mean["map"].value == pytest.approx(np.mean(values))


def learned(folder, name):
    [run_folder] = folder.glob(f"maps-*/{name}")
    return run_folder


def test_a_plan_of_other_rows_in_the_same_folder_learns_its_own_maps(store, planned):
    request, folder, _ = planned
    fewer = request.model_copy(
        update={"only": ("procrustes",), "where": ("popularity!=-1",), "train_where": ("popularity=-1",)}
    )
    with pytest.raises(UsageError):  # nothing is left to learn on
        make_plan(store, fewer, folder)
    half = tuple(f"id={','.join(f'{row}.jpg' for row in range(first, N, 2))}" for first in (0, 1))
    update = {"only": ("procrustes",), "where": half[:1], "train_where": half[1:]}
    other = make_plan(store, request.model_copy(update=update), folder)
    assert other.left_out == {}
    assert len(list(folder.glob("maps-*/procrustes"))) == 2


def test_the_same_plan_again_learns_nothing_and_says_the_same(store, planned):
    request, folder, plan = planned
    cards = {path: path.stat().st_mtime_ns for path in folder.rglob("card.json")}
    assert make_plan(store, request, folder) == plan  # kept whole
    (folder / "plan.json").write_text("{}")
    again = make_plan(store, request, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("card.json")} == cards

    def measured(found):
        return [path.model_copy(update={"seconds": 0.0}) for path in found.paths]

    assert measured(again) == measured(plan)
    assert (again.recommended, again.reason) == (plan.recommended, plan.reason)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_page_escapes_and_loads_nothing(planned):
    _, _, plan = planned
    page = plan_to_html(plan.model_copy(update={"old": "<script>alert(1)</script>", "left_out": {"fct": "<b>no</b>"}}))
    assert "<script" not in page
    assert "&lt;b&gt;no" in page
    assert "http" not in page.replace("http-equiv", "")
    for path in plan.paths:
        assert path.title in page
        assert f"{100 * path.value.value:.1f}" in page
    assert ("Recommended:" in page) == (plan.recommended is not None)
    none = plan_to_html(plan.model_copy(update={"recommended": None, "curves": ()}))
    assert "Do not switch yet." in none


def way(name, value, low, *, images=0, rewritten=0, encoders=1, spread=0.001):
    path = SimpleNamespace(
        name=name, value=Estimated(value=value, low=None, high=None), compatible=low > 0 or None, images=images,
        change=Estimated(value=value - 0.3, low=low, high=value), gallery_bytes=rewritten, encoders=encoders,
    )  # fmt: skip
    return SimpleNamespace(path=path, resamples=np.random.default_rng(1).normal(value, spread, 500))


@pytest.mark.parametrize(
    ("budget", "encoders", "expected"),
    [(0.0, 1, "map"), (0.1, 1, "map+10%"), (1.0, 1, "full"), (0.0, 2, "blend")],
)
def test_the_best_within_the_budget_is_recommended(budget, encoders, expected):
    ways = [
        way("today", 0.3, 0), way("unsure", 0.9, -0.01), way("map", 0.4, 0.05, rewritten=10),
        way("map+10%", 0.45, 0.1, images=10, rewritten=10), way("blend", 0.5, 0.1, encoders=2),
        way("full", 0.6, 0.2, images=100, rewritten=10),
    ]  # fmt: skip
    assert recommend(ways, budget=budget, rows=100, encoders=encoders)[0] == expected


def test_of_ways_that_are_level_the_cheaper_is_recommended():
    ways = [way("cheap", 0.44, 0.1, spread=0.1), way("dear", 0.45, 0.1, images=10, spread=0.2)]
    name, reason = recommend(ways, budget=0.5, rows=100, encoders=1)
    assert name == "cheap"
    assert "inside the noise" in reason
    assert recommend([way("unsure", 0.9, -0.01)], budget=1, rows=10, encoders=1)[0] is None


@pytest.fixture
def unlabelled(store, features, tmp_path):
    store.create_dataset("bare", NewRows(ids=[f"{row}.jpg" for row in range(N)]))
    for name in ("old", "new"):
        add_set(store, "bare", name, features[name])
    request = PlanRequest(old="bare/old", new="bare/new", only=(*ONLY, "bct"), bootstrap=200)
    return store, tmp_path / "bare", make_plan(store, request, tmp_path / "bare")


def test_without_labels_ways_are_compared_by_agreement_and_nothing_is_claimed(unlabelled):
    store, folder, plan = unlabelled
    fitted, measured = (set((folder / name).read_text().split()) for name in ("fitted.txt", "measured.txt"))
    assert (len(fitted), len(measured), fitted & measured) == (N // 2, N // 2, set())
    ways = {path.name: path for path in plan.paths}
    where = (f"id=@{folder / 'measured.txt'}",)
    direct = evaluate(
        store,
        EvalRequest(
            old="bare/old",
            new="bare/new",
            where=where,
            query_map=learned(folder, "procrustes"),
            protocol="agreement",
            bootstrap=200,
        ),
    )
    for name, role in (("today", "old/old"), ("procrustes", "mapped-new/old"), ("full-backfill", "new/new")):
        assert ways[name].metrics == direct.cell(role).metrics
    assert ways["full-backfill"].value.value == 1
    assert {path.compatible for path in plan.paths} == {None}
    assert (plan.recommended, plan.judged_by) == (None, "agreement")
    assert ways[plan.nearest].change.low > 0
    assert ways[plan.nearest].images <= N // 5
    assert plan.reason.startswith("Without labels nothing says whether the new model is better")
    assert set(plan.left_out) == {"slerp", "bct"}
    page = plan_to_html(plan)
    assert "No verdict without labels." in page
    for claim in ("Recommended", "surely better", "undecided", "of 8 classes"):
        assert claim not in page, claim


def test_fastfill_is_tried_with_the_run_that_has_the_new_classifier(store, tmp_path):
    run_folder = tmp_path / "head"
    train(store, TrainConfig(loss="independent", new="shop/new", width=8, epochs=3), run_folder)
    apply_map(store, run_folder, "shop/new", "shop/head")
    sets = {"old": "shop/old", "new": "shop/head", "bootstrap": 50}
    request = PlanRequest(**sets, new_run=run_folder, only=("fastfill", "posterior"))
    plan = make_plan(store, request, tmp_path / "with")
    ways = {path.name: path for path in plan.paths}
    assert (
        ways["fastfill"]
        .commands[0]
        .startswith(f"featstore train --loss fastfill --old shop/old --new shop/head --new-run {run_folder} ")
    )
    learn, serve = ways["fastfill"].commands
    fitted, measured = (set((tmp_path / "with" / name).read_text().split()) for name in ("fitted.txt", "measured.txt"))
    assert f"--where id=@{tmp_path / 'with' / 'fitted.txt'} --out " in learn
    assert serve.endswith(f"--where id=@{tmp_path / 'with' / 'measured.txt'}")
    assert fitted
    assert measured
    assert not fitted & measured
    assert ways["fastfill"].gallery_bytes == N * 8 * 4
    assert (ways["posterior"].kind, ways["posterior"].images, ways["posterior"].encoders) == ("queries", 0, 1)
    assert "uncertainty" in {curve.order for curve in plan.curves}


def test_what_cannot_be_planned_says_so(store, tmp_path):
    with pytest.raises(UsageError, match="left to learn maps on"):
        make_plan(store, PlanRequest(old="shop/old", new="shop/new", query_where=("popularity!=-1",)), tmp_path / "a")
    with pytest.raises(UsageError, match="no share of the images"):
        make_plan(store, PlanRequest(old="shop/old", new="shop/new", budget=2), tmp_path / "b")
    other = labelled_store(tmp_path / "other", "zoo", [0, 0, 1, 1])
    add_set(other, "zoo", "a", np.eye(4, dtype=np.float32))
    add_set(other, "zoo", "b", np.eye(4, dtype=np.float32), space=Space.named("b", 4))
    with pytest.raises(UsageError, match="2 classes cannot be parted"):
        make_plan(other, PlanRequest(old="zoo/a", new="zoo/b"), tmp_path / "c")
    store.create_dataset("bare", NewRows(ids=[f"{n}" for n in range(20)]))
    for name in "ab":
        add_set(store, "bare", name, np.eye(20, dtype=np.float32))
    with pytest.raises(UsageError, match="the gallery has 10 rows"):
        make_plan(store, PlanRequest(old="bare/a", new="bare/b"), tmp_path / "d")
    with pytest.raises(UnknownNameError, match="fastfil"):
        make_plan(store, PlanRequest(old="shop/old", new="shop/new", only=("fastfil",)), tmp_path / "f")
    with pytest.raises(AlignmentError, match="different datasets"):
        make_plan(store, PlanRequest(old="shop/old", new="bare/b"), tmp_path / "e")


def test_the_command_prints_a_table_and_json(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FEATSTORE_STORE", str(root))
    command = ["plan", "--old", "shop/old", "--new", "shop/new", "--only", "gallery-ridge"]
    assert run([*command, "--report", "p.html"]) == 0
    text = capsys.readouterr().out
    table = text[: text.index(" queries, ")].splitlines()[:-1]
    assert max(map(len, table)) <= 80
    assert "recommended" in text
    assert (tmp_path / "p.html").is_file()
    assert run([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == set(Plan.model_fields)
    assert run([*command, "--report", "p.pdf"]) == 2
