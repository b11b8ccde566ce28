"""Adapters that need more than pairs for a query: slerp the old encoder, posterior the classes of the gallery."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from featstore.errors import AlignmentError, UsageError
from featstore.evaluate import EvalRequest, evaluate
from featstore.maps import SlerpConfig, apply_map, build_map, load_map
from featstore.runs import read_card
from featstore.spaces import Space
from featstore.store import NewRows
from featstore_cli.main import run as cli
from featstore_training import AdapterConfig, TrainConfig, fit_adapter, train
from featstore_training.adapters.base import Classes, Pairs, Work
from featstore_training.adapters.registry import build_adapter
from featstore_training.heads import CosineSoftmax
from featstore_training.old_rows import HeldColumn

from .conftest import NEW, OLD, write
from .test_adapters import draw, procrustes_by_definition, unit

LABEL = np.random.default_rng(4).integers(-1, 5, 400)


def columns(*sides):
    return [HeldColumn(torch.from_numpy(np.asarray(side)).float()) for side in sides]


def mapped(module, x):
    with torch.inference_mode():
        return module(torch.from_numpy(np.asarray(x)).float()).numpy()


def first(candidates):
    return next(iter(candidates))


def slerp_of(share, x, y):
    pairs = Pairs(*columns(np.concatenate([x, y], axis=1), y))
    return build_adapter("slerp", {"shares": [share]}).fit(pairs, first, Work(0, Path(), sides=(y.shape[1],))).module


@pytest.mark.parametrize("widths", [(9, 6), (6, 6), (4, 6)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_slerp_by_definition(widths, share):
    x, y = draw(width=widths[0], out=widths[1])
    both = np.concatenate([x, y], axis=1)
    turn = procrustes_by_definition(x, y)[: y.shape[1], : x.shape[1]]
    found = mapped(slerp_of(share, x, y), both * 3)
    for row, (v, u) in zip(found, zip(x, y, strict=True), strict=True):
        b = turn @ v / np.linalg.norm(turn @ v)
        angle = math.acos(np.clip(u @ b, -1, 1))
        expected = (math.sin((1 - share) * angle) * u + math.sin(share * angle) * b) / math.sin(angle)
        np.testing.assert_allclose(row, expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_slerp_of_equal_and_of_opposite_queries_is_finite():
    module = build_map(SlerpConfig(share=0.4), 8, 4)
    with torch.no_grad():
        module.body.turn.weight.copy_(torch.eye(4))
    u = torch.nn.functional.normalize(torch.randn(20, 4), dim=1)
    near = torch.nn.functional.normalize(u + 1e-5 * torch.randn(20, 4), dim=1)
    torch.testing.assert_close(mapped(module, torch.cat([u, near], dim=1)), u.numpy(), atol=1e-4, rtol=0)
    assert np.isfinite(mapped(module, torch.cat([u, -u], dim=1))).all()
    with pytest.raises(AlignmentError, match="in front of"):
        build_map(SlerpConfig(share=0.4), 4, 4)


def posterior_of(x, y, classes, **settings):
    pairs = Pairs(*columns(x, y), classes)
    return build_adapter("posterior", settings).fit(pairs, first, Work(0, Path())).module


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_posterior_by_definition(with_head, share):
    x, y = draw()
    head = CosineSoftmax(6, x.shape[1], 12.0, torch.Generator().manual_seed(1)) if with_head else None
    classes = Classes(torch.from_numpy(LABEL), 6 if with_head else 5, head)
    module = posterior_of(x, y, classes, scales=[7.0], shares=[share], shrinkage=0.2)
    keys, queries = [], []
    scatter = np.zeros((y.shape[1],) * 2)
    means = {c: y[c == LABEL].mean(axis=0) for c in range(5)}
    for row, c in zip(y, LABEL.tolist(), strict=True):
        if c >= 0:
            scatter += np.outer(row - means[c], row - means[c])
    scatter /= (LABEL >= 0).sum()
    scatter = 0.8 * scatter + 0.2 * np.trace(scatter) / y.shape[1] * np.eye(y.shape[1])
    for c in range(classes.count):
        keys.append(unit(head.weight[[c]].detach().numpy())[0] if head else unit(x[c == LABEL].mean(axis=0)[None])[0])
        known = c in means  # the classifier has a class that no row shows
        queries.append(unit(np.linalg.solve(scatter, unit(means[c][None])[0])[None])[0] if known else 0 * y[0])
    turn = procrustes_by_definition(x, y)[: y.shape[1], : x.shape[1]]
    for row, found in zip(x, mapped(module, x * 4), strict=True):
        weights = [math.exp(7.0 * float(row @ key)) for key in keys]
        query = sum(w * q for w, q in zip(weights, queries, strict=True))
        blend = share * unit(query[None]) + (1 - share) * unit((turn @ row)[None])
        np.testing.assert_allclose(found, unit(blend)[0], atol=2e-5)


def config(loss, **changes):
    return AdapterConfig(**({"loss": loss, "old": "toy/old", "new": "toy/new", "where": "split=train"} | changes))


def roles(store, run, **more):
    request = {"old": "toy/old", "new": "toy/new", "query_map": run, "where": ("split=test",), "bootstrap": 0}
    return {cell.role: cell.metrics["map"] for cell in evaluate(store, EvalRequest(**(request | more))).cells}


def test_slerp_from_training_to_evaluation(store, tmp_path):
    run = tmp_path / "run"
    report = fit_adapter(store, config("slerp", val_fraction=0.3), run)
    assert report.query_time == ["old encoder", "new encoder", "map"]
    assert read_card(run).training["adapter"]["query_time"] == report.query_time
    assert report.validation["cross_test"] >= report.validation["old_old"]  # α = 0 is among the candidates
    assert [space.name for space in load_map(run).side_spaces] == ["old"]
    cells = roles(store, run, side=("toy/old",))
    apply_map(store, run, "toy/new", "toy/query", side=["toy/old"])
    stored = evaluate(store, EvalRequest(query="toy/query", gallery="toy/old", where=("split=test",), bootstrap=0))
    assert cells["mapped-new/old"] == pytest.approx(stored.cells[0].metrics["map"], abs=1e-6)
    turned = fit_adapter(store, config("procrustes", val_fraction=0.3), tmp_path / "turn")
    assert turned.query_time == ["new encoder", "map"]
    assert cells["mapped-new/old"] > roles(store, tmp_path / "turn")["mapped-new/old"]
    with pytest.raises(UsageError, match="takes one set of side-information, not 0"):
        roles(store, run)
    with pytest.raises(UsageError, match="read by a map"):
        evaluate(store, EvalRequest(old="toy/old", new="toy/new", side=("toy/old",)))
    with pytest.raises(UsageError, match="find itself"):
        fit_adapter(store, config("slerp", select_by="pairs"), tmp_path / "pairs")
    with pytest.raises(UsageError, match="not old-to-new"):
        fit_adapter(store, config("slerp", direction="old-to-new"), tmp_path / "wrong")


def test_posterior_serves_known_classes_and_falls_back_for_others(store, tmp_path):
    known = fit_adapter(store, config("posterior", val_fraction=0.3), tmp_path / "known")
    assert known.chosen["share"] > 0
    assert roles(store, tmp_path / "known")["mapped-new/old"] > roles(store, tmp_path / "known")["old/old"]
    other = fit_adapter(store, config("posterior", val_by="class", val_fraction=0.4), tmp_path / "other")
    assert other.chosen["share"] < known.chosen["share"]
    plain = fit_adapter(store, config("procrustes", val_by="class", val_fraction=0.4), tmp_path / "plain")
    assert other.validation["cross_test"] >= plain.validation["cross_test"]
    # control: with the labels dealt out anew, a posterior alone finds nothing
    labels = store.dataset("toy").labels
    texts = np.random.default_rng(0).permutation([labels.names[code] for code in labels.codes]).tolist()
    dealt = store.create_dataset("dealt", NewRows(store.dataset("toy").ids.take(range(160)), texts))
    for name, width in (("old", OLD), ("new", NEW)):
        write(store, dealt, name, store.features(f"toy/{name}").gather(np.arange(160)), Space.named(name, width))
    nonsense = AdapterConfig(loss="posterior", old="dealt/old", new="dealt/new", params={"shares": [1.0]})
    report = fit_adapter(store, nonsense, tmp_path / "nonsense")
    assert report.validation["cross_test"] < 1.5 * report.validation["old_old"]


def test_posterior_takes_the_new_classifier(store, tmp_path):
    base = {"loss": "independent", "new": "toy/new", "width": 8, "epochs": 5, "lr": 1e-2, "where": "split=train"}
    train(store, TrainConfig(**base), tmp_path / "head")
    apply_map(store, tmp_path / "head", "toy/new", "toy/headed")
    report = fit_adapter(store, config("posterior", new="toy/headed", new_run=tmp_path / "head"), tmp_path / "run")
    keys = load_map(tmp_path / "run").module.body.keys
    assert keys.shape == (8, 8)
    assert "2 rows have no class" in report.notes[0]
    train(store, TrainConfig(**base, head="softmax"), tmp_path / "soft")
    apply_map(store, tmp_path / "soft", "toy/new", "toy/soft")
    with pytest.raises(UsageError, match="class means"):
        fit_adapter(store, config("posterior", new="toy/soft", new_run=tmp_path / "soft"), tmp_path / "other")


@pytest.mark.usefixtures("store")
def test_the_command_line_ends_with_the_command_that_judges(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["--store", str(tmp_path / "store")]
    fit = ["train", "--loss", "slerp", "--old", "toy/old", "--new", "toy/new", "--where", "split=train"]
    assert cli([*fit, "--out", "runs/slerp", *base]) == 0
    judge = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    assert judge.endswith("--query-map runs/slerp --side toy/old")
    assert cli([*judge.split()[1:], "--json", *base]) == 0
    assert "mapped-new/old" in [cell["role"] for cell in json.loads(capsys.readouterr().out)["cells"]]
