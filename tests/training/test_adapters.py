"""Adapters: their closed forms against references written from the definition, and a fit from a store to a verdict."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from featstore.errors import AlreadyExistsError, TrainingError, UnknownNameError, UsageError
from featstore.evaluate import EvalRequest, evaluate
from featstore.maps import apply_map, load_map
from featstore.runs import read_card
from featstore.spaces import Space, comparable
from featstore.store import NewRows, RowStatus
from featstore_cli.main import run as cli
from featstore_training import AdapterConfig, adapter_infos, fit_adapter
from featstore_training.adapters.base import Pairs, Work
from featstore_training.adapters.held_out import HeldOut
from featstore_training.adapters.moments import Moments
from featstore_training.adapters.procrustes import nearest_orthogonal
from featstore_training.adapters.registry import ADAPTERS, build_adapter
from featstore_training.adapters.ridge import RidgePath
from featstore_training.old_rows import HeldColumn

from .conftest import NEW, OLD, write

CLOSED_FORMS = ["procrustes", "procrustes:centred", "ridge", "ridge:adjoint", "lowrank"]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(rows=400, width=9, out=6, seed=0):
    """Pairs that are related, but not by a linear map alone."""
    generator = np.random.default_rng(seed)
    x = unit(generator.normal(size=(rows, width)) + 0.3)
    y = x @ generator.normal(size=(width, out)) + 0.4 * generator.normal(size=(rows, out))
    return x, unit(y)


def moments_of(x, y, size=64):
    blocks = ((torch.from_numpy(x[n : n + size]), torch.from_numpy(y[n : n + size])) for n in range(0, len(x), size))
    return Moments.of(blocks, x.shape[1], y.shape[1])


def fitted(loss, x, y, params=None, held=100, seed=0):
    """A method's candidate on all but the last rows, chosen by them; without a store."""
    held_out = HeldOut(x[-held:], y[-held:], np.full(held, -1), maps_queries=True, by=None, metric="map")
    pairs = Pairs(*(HeldColumn(torch.from_numpy(side[:-held]).float()) for side in (x, y)))
    return build_adapter(loss, params or {}).fit(pairs, held_out.choose, Work(seed, Path()))


def mapped(module, x):
    with torch.inference_mode():
        return module(torch.from_numpy(np.asarray(x)).float()).numpy()


def procrustes_by_definition(x, y):
    """Both sides filled up with zeros to one width; the orthogonal W with the greatest Σ yᵀ W x, cut to the widths."""
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x, y))
    left, _, right = np.linalg.svd(y.T @ x)
    return left @ right


@pytest.mark.parametrize("parts", [1, 3, 7, 400])
def test_moments_of_any_division_in_any_order_are_the_dense_sums(parts):
    x, y = draw()
    pieces = [
        moments_of(x[rows], y[rows]) for rows in np.array_split(np.random.default_rng(parts).permutation(400), parts)
    ]
    total = sum(pieces[1:], start=pieces[0])
    reverse = sum(pieces[-2::-1], start=pieces[-1])
    for sums in (total, reverse):
        assert sums.rows == 400
        for got, dense in ((sums.x, x.sum(0)), (sums.y, y.sum(0)), (sums.yx, y.T @ x), (sums.xx, x.T @ x)):
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, dense, rtol=1e-12, atol=1e-12)
    centred = total.centred()
    np.testing.assert_allclose(centred.xx, (x - x.mean(0)).T @ (x - x.mean(0)), atol=1e-12)
    np.testing.assert_allclose(centred.yx, (y - y.mean(0)).T @ (x - x.mean(0)), atol=1e-12)


@pytest.mark.parametrize("reflect", [False, True])
def test_procrustes_recovers_an_orthogonal_map(reflect):
    x, _ = draw(width=8)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    turn[:, 0] *= np.sign(np.linalg.det(turn)) * (-1 if reflect else 1)
    found = fitted("procrustes", x, x @ turn.T)
    np.testing.assert_allclose(found.module.body[1].weight.detach().numpy(), turn, atol=1e-5)
    np.testing.assert_allclose(mapped(found.module, 5 * x), x @ turn.T, atol=1e-5)
    only = fitted("procrustes:rotation", x, x @ turn.T).module.body[1].weight.detach().double().numpy()
    assert np.linalg.det(only) == pytest.approx(1)
    np.testing.assert_allclose(only @ only.T, np.eye(8), atol=1e-5)
    if not reflect:
        np.testing.assert_allclose(only, turn, atol=1e-5)


def test_the_rotation_is_the_best_of_determinant_one():
    generator = np.random.default_rng(3)
    matrix = generator.normal(size=(3, 3)) * [[1.0], [1.0], [-1.0]]
    found = nearest_orthogonal(matrix, rotation=True)
    for _ in range(300):
        other = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        other[:, 0] *= np.linalg.det(other)
        assert (other * matrix).sum() <= (found * matrix).sum() + 1e-9


@pytest.mark.parametrize(("width", "out"), [(9, 6), (6, 9), (7, 7)])
def test_procrustes_is_the_svd_solution_of_padded_rows(width, out):
    x, y = draw(width=width, out=out)
    weight = fitted("procrustes", x, y).module.body[1].weight.detach().double().numpy()
    padded = procrustes_by_definition(x[:-100], y[:-100])
    objective = (weight * (y[:-100].T @ x[:-100])).sum()
    assert objective == pytest.approx((padded[:out, :width] * (y[:-100].T @ x[:-100])).sum(), rel=1e-6)
    short = weight @ weight.T if out <= width else weight.T @ weight
    np.testing.assert_allclose(short, np.eye(min(width, out)), atol=1e-6)


def test_a_turned_space_gives_the_same_mapped_rows():
    """Turning what goes in changes nothing that comes out; turning the target turns it."""
    x, y = draw(width=8)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0]
    target_turn = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 6)))[0]
    for loss in CLOSED_FORMS:
        plain = mapped(fitted(loss, x, y).module, x)
        np.testing.assert_allclose(mapped(fitted(loss, x @ turn, y).module, x @ turn), plain, atol=2e-5)
        np.testing.assert_allclose(mapped(fitted(loss, x, y @ target_turn).module, x), plain @ target_turn, atol=2e-5)


def ridge_by_definition(x, y, strength):
    """The normal equations of centred rows with the penalty."""
    xc, yc = x - x.mean(0), y - y.mean(0)
    penalty = strength * np.trace(xc.T @ xc) / x.shape[1]
    weight = np.linalg.solve(xc.T @ xc + penalty * np.eye(x.shape[1]), xc.T @ yc).T
    return weight, y.mean(0) - weight @ x.mean(0)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_ridge_solves_its_normal_equations(strength):
    x, y = draw()
    weight, bias = ridge_by_definition(x, y, strength)
    path = RidgePath(moments_of(x, y))
    np.testing.assert_allclose(path.weight(strength), weight, atol=1e-9)
    np.testing.assert_allclose(path.bias(path.weight(strength)), bias, atol=1e-9)


def test_the_adjoint_scores_rows_as_regressing_them_would():
    x, y = draw()
    found = fitted("ridge:adjoint", x, y, {"strengths": [0.1]})
    weight, _ = ridge_by_definition(y[:-100], x[:-100], 0.1)  # rows that are searched, onto queries
    np.testing.assert_allclose(mapped(found.module, x), unit(x @ weight), atol=1e-5)
    scores, regressed = mapped(found.module, x) @ y.T, x @ (y @ weight.T).T
    np.testing.assert_array_equal(np.argsort(scores, axis=1)[:, -5:], np.argsort(regressed, axis=1)[:, -5:])


def test_what_is_chosen_is_what_retrieves_best_on_held_out_rows():
    x, y = draw()
    found = fitted("ridge", x, y, {"strengths": [100.0, 0.1, 1e-5]})
    ranks = {}
    for strength in (100.0, 0.1, 1e-5):
        weight, bias = ridge_by_definition(x[:-100], y[:-100], strength)
        cosine = unit(x[-100:] @ weight.T + bias) @ y[-100:].T
        ranks[strength] = (1 / (1 + (cosine > np.diag(cosine)[:, None]).sum(axis=1))).mean()
    assert found.settings == {"strength": max(ranks, key=ranks.get)}
    assert len(set(ranks.values())) == 3


def test_lowrank_is_the_best_of_its_rank():
    """Among factors of rank 2, the penalised error has no lower value: alternating least squares ends there too."""
    x, y = draw()
    x, y = x[:-100], y[:-100]
    module = fitted("lowrank", *draw(), {"ranks": [2], "strengths": [0.1]}).module
    up, down = (module.body[n].weight.detach().double().numpy() for n in (2, 1))
    xc, yc = x - x.mean(0), y - y.mean(0)
    penalty = 0.1 * np.trace(xc.T @ xc) / x.shape[1]

    def cost(weight):
        return ((xc @ weight.T - yc) ** 2).sum() + penalty * (weight**2).sum()

    gram = xc.T @ xc + penalty * np.eye(x.shape[1])
    right = np.random.default_rng(0).normal(size=(2, x.shape[1]))
    for _ in range(500):
        left = yc.T @ xc @ right.T @ np.linalg.inv(right @ gram @ right.T)
        right = np.linalg.solve(left.T @ left, left.T @ yc.T @ xc) @ np.linalg.inv(gram)
    assert np.linalg.matrix_rank(up @ down) == 2
    assert cost(up @ down) == pytest.approx(cost(left @ right), rel=1e-6)
    full = fitted("lowrank", *draw(), {"ranks": [6], "strengths": [0.1]}).module
    weight, bias = ridge_by_definition(x, y, 0.1)
    np.testing.assert_allclose(mapped(full, x), unit(x @ weight.T + bias), atol=1e-5)


@pytest.mark.parametrize("loss", CLOSED_FORMS)
def test_degenerate_rows_give_a_finite_map(loss):
    x, y = draw()
    x[:, 3] = 0.5  # constant
    x[:, 4] = x[:, 5]  # rank-deficient
    y[:, 2] = 0.0
    found = fitted(loss, unit(x), unit(y))
    assert np.isfinite(mapped(found.module, x)).all()
    few = fitted(loss, *(side[:103] for side in draw(width=40, out=30)))  # three pairs in 40 dimensions
    assert np.isfinite(mapped(few.module, draw(width=40)[0])).all()


def test_local_is_procrustes_of_every_region_and_with_much_of_the_whole_the_global_one():
    """Two regions, each turned in its own way: no one rotation fits both."""
    generator = np.random.default_rng(6)
    x = unit(np.eye(8)[0] * np.where(np.arange(400) % 2, 2.5, -2.5)[:, None] + generator.normal(size=(400, 8)))
    turns = [np.linalg.qr(generator.normal(size=(8, 8)))[0] for _ in range(2)]
    y = np.where((np.arange(400) % 2)[:, None] == 1, x @ turns[0], x @ turns[1])
    found = fitted("local", x, y, {"parts": [2], "prior": [1e-3], "sharpness": 200})
    clear = np.abs(x[:, 0]) > 0.5
    assert ((mapped(found.module, x) * y).sum(axis=1)[clear] > 0.99).mean() > 0.95
    assert (mapped(fitted("procrustes", x, y).module, x) * y).sum(axis=1).mean() < 0.9
    centres, weight = found.module.body.centres.detach().numpy(), found.module.body.weight.detach().numpy()
    share = np.exp(200 * x @ centres.T - (200 * x @ centres.T).max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    blended = sum(share[:, [k]] * (x @ weight[8 * k : 8 * k + 8].T) for k in range(2))
    np.testing.assert_allclose(mapped(found.module, 3 * x), unit(blended), atol=1e-5)
    everything = fitted("local", x, y, {"parts": [2], "prior": [1e9]})
    np.testing.assert_allclose(mapped(everything.module, x), mapped(fitted("procrustes", x, y).module, x), atol=1e-3)
    with pytest.raises(TrainingError, match="clusters"):
        fitted("local", x, y, {"parts": [301]})


def test_mlp_begins_at_procrustes_and_says_what_held_out_rows_kept(tmp_path):
    generator = np.random.default_rng(9)
    x = unit(generator.normal(size=(600, 6)))
    y = unit(np.tanh(4 * x @ generator.normal(size=(6, 6))))  # bent: no rotation fits
    held_out = HeldOut(x[-100:], y[-100:], np.full(100, -1), maps_queries=True, by=None, metric="map")
    pairs = Pairs(*(HeldColumn(torch.from_numpy(side[:-100]).float()) for side in (x, y)))

    def fit(name, **params):
        return build_adapter("mlp", {"hidden": 64, **params}).fit(pairs, held_out.choose, Work(0, tmp_path / name))

    kept = fit("good", epochs=60, lr=1e-2, batch=64)
    straight = fitted("procrustes", x, y).module
    assert kept.settings == {"trained": True}
    assert held_out.score(kept.module) > held_out.score(straight)
    spoilt = fit("bad", epochs=1, lr=50.0)
    assert spoilt.settings == {"trained": False}
    np.testing.assert_allclose(mapped(spoilt.module, x), mapped(straight, x), atol=1e-5)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="did you mean strengths"):
        build_adapter("ridge", {"strenghts": [1.0]})
    with pytest.raises(UnknownNameError, match="rotation"):
        build_adapter("procrustes:rotate", {})
    with pytest.raises(UsageError, match="rotation_only=True, not False"):
        build_adapter("procrustes:rotation", {"rotation_only": False})
    with pytest.raises(UsageError, match="did you mean direction"):
        AdapterConfig(loss="ridge", old="toy/old", new="toy/new", dircetion="old-to-new")
    with pytest.raises(TrainingError, match="no determinant"):
        fitted("procrustes:rotation", *draw())
    with pytest.raises(TrainingError, match="no rank 7"):
        fitted("lowrank", *draw(), {"ranks": [7]})


def both_ways(name):
    return len(ADAPTERS[name].directions) == 2


def config(loss="procrustes", **changes):
    return AdapterConfig(**({"loss": loss, "old": "toy/old", "new": "toy/new", "where": "split=train"} | changes))


@pytest.mark.parametrize("info", [info for info in adapter_infos() if both_ways(info.name)], ids=lambda info: info.name)
@pytest.mark.parametrize("direction", ["new-to-old", "old-to-new"])
def test_a_run_folder_maps_and_declares(store, tmp_path, info, direction):
    report = fit_adapter(store, config(info.name, direction=direction), tmp_path / "run")
    source, target = (store.features(f"toy/{name}") for name in direction.split("-to-"))
    learned = load_map(tmp_path / "run")
    assert learned.input_space.digest == source.space.digest
    assert learned.space.compatible_with == (target.space.digest,)
    assert comparable(learned.space, target.space)
    assert (report.rows + report.validation_rows, report.missing, report.selected_by) == (120, 0, "labels")
    card = read_card(tmp_path / "run")
    assert card.training["adapter"]["direction"] == direction
    assert card.training["inputs"]["old"].startswith("toy/old@1 ")
    apply_map(store, tmp_path / "run", source.ref, "toy/mapped")
    roles = {"new-to-old": ("query_map", "mapped-new/old"), "old-to-new": ("gallery_map", "new/mapped-old")}
    option, role = roles[direction]
    request = {"old": "toy/old", "new": "toy/new", option: tmp_path / "run", "where": ("split=test",), "bootstrap": 0}
    cells = {cell.role: cell for cell in evaluate(store, EvalRequest(**request)).cells}
    sides = (
        {"query": "toy/mapped", "gallery": "toy/old"}
        if option == "query_map"
        else {"query": "toy/new", "gallery": "toy/mapped"}
    )
    stored = evaluate(store, EvalRequest(**sides, where=("split=test",), bootstrap=0)).cells[0]
    assert cells[role].metrics["map"] == pytest.approx(stored.metrics["map"], abs=1e-6)
    assert cells[role].metrics["map"] > 0.8 * cells["old/old"].metrics["map"]
    again = fit_adapter(store, config(info.name, direction=direction), tmp_path / "run")
    assert again.cached
    assert (again.chosen, again.validation) == (report.chosen, report.validation)


def test_shuffled_pairs_give_chance(store, tmp_path):
    """Control: with the old rows dealt out anew nothing is left to find."""
    old = store.features("toy/old").gather(np.arange(160))
    shuffled = np.random.default_rng(5).permutation(old)
    write(store, store.dataset("toy"), "shuffled", shuffled, Space.named("old", OLD))
    report = fit_adapter(store, config(old="toy/shuffled", select_by="pairs"), tmp_path / "run")
    rows = report.validation_rows
    chance = (1 / np.arange(1, rows + 1)).mean()
    assert report.validation["cross_test"] < 2 * chance
    assert fit_adapter(store, config(select_by="pairs"), tmp_path / "true").validation["cross_test"] > 2.5 * chance


def test_rows_without_a_feature_are_left_out_and_counted(store, tmp_path):
    features = store.features("toy/new").gather(np.arange(160))
    job = store.plan_features(store.dataset("toy"), "holes", Space.named("new", NEW), np.dtype("f4"), shard_rows=64)
    status = np.full(160, RowStatus.VALID, np.uint8)
    status[[0, 1, 4]], status[3] = RowStatus.FAILED, RowStatus.ABSENT  # row 3 is a test row
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        job.publish(shard, features[start:stop], status=status[start:stop])
    job.commit({})
    store.remove_rows("toy", store.dataset("toy").ids.take([5]))
    report = fit_adapter(store, config(new="toy/holes"), tmp_path / "run")
    assert report.missing == 3
    assert report.rows + report.validation_rows == 120 - 3 - 1
    assert report.notes[0] == "3 rows without a feature in every set are left out"


def test_no_label_is_needed(store, tmp_path):
    rows = store.dataset("toy").rows
    bare = store.create_dataset("bare", NewRows([f"r{n}" for n in range(rows)]))
    for name, width in (("old", OLD), ("new", NEW)):
        write(store, bare, name, store.features(f"toy/{name}").gather(np.arange(rows)), Space.named(name, width))
    report = fit_adapter(
        store, AdapterConfig(loss="ridge", old="bare/old", new="bare/new", pairs=100), tmp_path / "run"
    )
    assert (report.selected_by, report.rows, report.validation_rows) == ("pairs", 100, 16)
    with pytest.raises(UsageError, match="select_by=pairs"):
        fit_adapter(
            store, AdapterConfig(loss="ridge", old="bare/old", new="bare/new", select_by="labels"), tmp_path / "x"
        )
    with pytest.raises(UsageError, match="no classes"):
        fit_adapter(store, AdapterConfig(loss="ridge", old="bare/old", new="bare/new", val_by="class"), tmp_path / "x")


def test_a_choice_needs_held_out_rows(store, tmp_path):
    assert fit_adapter(store, config(val_fraction=0), tmp_path / "run").validation == {}
    with pytest.raises(UsageError, match="val_fraction"):
        fit_adapter(store, config("ridge", val_fraction=0), tmp_path / "ridge")
    with pytest.raises(AlreadyExistsError, match="val_fraction"):
        fit_adapter(store, config(), tmp_path / "run")


@pytest.mark.usefixtures("store")
def test_the_command_line_ends_with_the_command_that_judges(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["--store", str(tmp_path / "store")]
    fit = ["train", "--loss", "ridge", "--old", "toy/old", "--new", "toy/new", "--out", "runs/ridge", *base]
    assert cli([*fit, "--where", "split=train", "--set", "params.strengths=[1.0,0.1]"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "next: featstore eval --old toy/old --new toy/new --query-map runs/ridge"
    assert cli([*told[-1].split()[2:], "--where", "split=test", "--json", *base]) == 0
    roles = [cell["role"] for cell in json.loads(capsys.readouterr().out)["cells"]]
    assert "mapped-new/old" in roles
    assert cli([*fit[:2], "procruste", *fit[3:]]) == 2
    assert "procrustes" in capsys.readouterr().err
    assert cli([*fit, "--width", "4"]) == 2
    assert "no 'width'" in capsys.readouterr().err
    assert cli(["train", "--loss", "ridge", "--new", "toy/new", "--out", "runs/x", *base]) == 2
    assert cli(["losses"]) == 0
    assert "procrustes" in capsys.readouterr().out
    assert cli(["losses", "ridge"]) == 0
    assert "params.strengths" in capsys.readouterr().out
