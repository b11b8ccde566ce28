"""FCT: the published network and loss, side-information from training to evaluation, and its controls."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from featstore.errors import AlreadyExistsError, SpaceMismatchError, UsageError
from featstore.evaluate import EvalRequest, evaluate
from featstore.maps import Branches, apply_map, fold, load_map
from featstore.spaces import Space
from featstore.store import RowStatus
from featstore_cli.main import run as cli
from featstore_training import AdapterConfig, fit_adapter
from featstore_training.adapters.fct import FctParams
from featstore_training.objectives.base import Batch
from featstore_training.objectives.regression import Regression, RegressionParams

from .conftest import NEW, write

SIDE = 7
SMALL = {"hidden": 64, "epochs": 20, "batch": 32, "lr": 5e-3}


@pytest.fixture
def sided(store):
    """The toy store with a side set that knows of the new features what the old ones do not tell."""
    new = store.features("toy/new").gather(np.arange(160))
    draw = np.random.default_rng(8)
    side = new @ draw.normal(size=(NEW, SIDE)) + draw.normal(size=(160, SIDE))
    write(store, store.dataset("toy"), "side", side, Space.named("side", SIDE))
    return store


def config(loss="fct", side=("toy/side",), params=None, **changes):
    settings = {"loss": loss, "old": "toy/old", "new": "toy/new", "side": side, "where": "split=train"}
    return AdapterConfig(**(settings | {"params": SMALL | (params or {}), "select_by": "pairs"} | changes))


def test_the_network_is_the_published_one():
    network = Branches(256, 128, side=[128], hidden=2048, unit=False, norm=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_712_000
    kinds = [type(layer) for layer in network.joined]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    defaults = FctParams()
    assert (defaults.epochs, defaults.batch, defaults.lr, defaults.weight_decay, defaults.warmup, defaults.hidden) == (
        80,
        1024,
        5e-4,
        2**-15,
        5,
        2048,
    )


def test_without_side_information_both_branches_read_the_old_feature():
    network = Branches(5, 4, side=[], hidden=8, unit=False)
    x = torch.randn(3, 5)
    expected = network.joined(torch.cat([network.old(x), network.side(x)], dim=1))
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("side", [[], [3], [3, 2]])
def test_folding_batch_norm_changes_nothing(side):
    torch.manual_seed(0)
    trained = Branches(6 + sum(side), 4, side=side, hidden=16, unit=True, norm=True)
    x = torch.randn(50, 6 + sum(side)) * 3
    for _ in range(5):
        trained(x)
    with torch.no_grad():
        for layer in trained.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.weight.uniform_(0.5, 2)
                layer.bias.normal_()
    plain = Branches(6 + sum(side), 4, side=side, hidden=16, unit=True)
    fold(trained, plain)
    torch.testing.assert_close(plain(x), trained.eval()(x), atol=1e-5, rtol=1e-5)
    scaled = torch.cat([5 * x[:, :6], 2 * x[:, 6:]], dim=1)
    if len(side) < 2:
        torch.testing.assert_close(plain(scaled), plain(x), atol=1e-5, rtol=1e-5)


def test_errors_by_definition_and_the_second_half_keeps_its_statistics():
    feature, target = torch.randn(6, 4), torch.randn(6, 4)
    network = Branches(4, 4, side=[], hidden=8, unit=True, norm=True)
    batch = Batch(feature, torch.zeros(6, dtype=torch.int64), {"target": target})

    def loss(error, **settings):
        return sum(Regression(RegressionParams(error=error, **settings), network, 10).loss(batch, None).values())

    assert loss("mse", unit=False) == pytest.approx(float(((feature - target) ** 2).mean()))
    assert loss("mse") == pytest.approx(float(((feature - 2 * target) ** 2).mean()))
    cosines = [float(f @ t / (f.norm() * t.norm())) for f, t in zip(feature, target, strict=True)]
    assert loss("cosine") == pytest.approx(1 - np.mean(cosines))
    objective = Regression(RegressionParams(), network, 10)
    for epoch, adapts in ((4, True), (5, False)):
        objective.refresh(epoch, None)
        network.train()
        before = network.joined[1].running_mean.clone()
        network(torch.randn(20, 4))
        assert torch.equal(before, network.joined[1].running_mean) != adapts


@pytest.mark.parametrize("loss", ["fct", "fct:raw"])
@pytest.mark.parametrize("error", ["mse", "cosine"])
def test_from_training_to_applied_and_evaluated(sided, tmp_path, loss, error):
    run = tmp_path / "run"
    report = fit_adapter(sided, config(loss, params={"error": error}), run)
    assert report.direction == "old-to-new"
    learned = load_map(run)
    assert [space.name for space in learned.side_spaces] == ["side"]
    assert learned.space.compatible_with == (sided.features("toy/new").space.digest,)
    made = apply_map(sided, run, "toy/old", "toy/up", side=["toy/side"])
    assert made.rows == 160
    stored = sided.features("toy/up")
    assert stored.record.provenance["side"][0]["set"] == "toy/side@1"
    rows = np.arange(160)
    beside = np.concatenate([sided.features(f"toy/{name}").gather(rows) for name in ("old", "side")], axis=1)
    with torch.inference_mode():
        expected = learned.module(torch.from_numpy(beside)).numpy()
    np.testing.assert_allclose(stored.gather(rows), expected, atol=1e-5)
    if loss == "fct":
        np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    request = {"old": "toy/old", "new": "toy/new", "where": ("split=test",), "bootstrap": 0}
    mapped = evaluate(sided, EvalRequest(**request, gallery_map=run, side=("toy/side",)))
    cells = {cell.role: cell.metrics["map"] for cell in mapped.cells}
    applied = evaluate(sided, EvalRequest(query="toy/new", gallery="toy/up", where=("split=test",), bootstrap=0))
    assert cells["new/mapped-old"] == pytest.approx(applied.cells[0].metrics["map"], abs=1e-6)
    assert cells["new/mapped-old"] > cells["old/old"]
    assert apply_map(sided, run, "toy/old", "toy/up", side=["toy/side"]).cached
    with pytest.raises(UsageError, match="--side SET each, the features of: side"):
        apply_map(sided, run, "toy/old", "toy/other")
    with pytest.raises(SpaceMismatchError, match="toy/new"):
        apply_map(sided, run, "toy/old", "toy/other", side=["toy/new"])
    with pytest.raises(UsageError, match="takes one set of side-information, not 0"):
        evaluate(sided, EvalRequest(**request, gallery_map=run))


def test_side_information_helps_and_permuted_does_not(sided, tmp_path):
    """Controls of the protocol."""
    shuffled = np.random.default_rng(3).permutation(sided.features("toy/side").gather(np.arange(160)))
    write(sided, sided.dataset("toy"), "permuted", shuffled, Space.named("permuted", SIDE))

    def found(name, *side):
        return fit_adapter(sided, config(side=side), tmp_path / name).validation["cross_test"]

    alone, helped, permuted = found("alone"), found("helped", "toy/side"), found("permuted", "toy/permuted")
    assert helped > alone + 0.05
    assert permuted < helped - 0.05
    assert found("both", "toy/side", "toy/permuted") > alone


def test_a_resumed_run_reaches_the_same_map(sided, tmp_path):
    class Stops:
        done = 0

        def start(self, task, total, unit, *, done=0): ...

        def advance(self, n):
            self.done += n
            if self.done == 13:
                raise KeyboardInterrupt

        def note(self, message): ...

    fit_adapter(sided, config(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit_adapter(sided, config(), tmp_path / "broken", progress=Stops())
    with pytest.raises(AlreadyExistsError, match="lr"):
        fit_adapter(sided, config(params={"lr": 1e-3}), tmp_path / "broken")
    fit_adapter(sided, config(), tmp_path / "broken")
    whole, resumed = (load_map(tmp_path / name).module.state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 21))
    assert not (tmp_path / "broken" / "resume.safetensors").exists()


def test_a_row_without_side_information_is_not_mapped(sided, tmp_path):
    side = sided.features("toy/side").gather(np.arange(160))
    status = np.full(160, RowStatus.VALID, np.uint8)
    status[[4, 70]] = RowStatus.FAILED
    job = sided.plan_features(sided.dataset("toy"), "holes", Space.named("side", SIDE), np.dtype("f4"), shard_rows=64)
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        job.publish(shard, side[start:stop], status=status[start:stop])
    job.commit({})
    report = fit_adapter(sided, config(side=("toy/holes",)), tmp_path / "run")
    assert report.missing == 2
    made = apply_map(sided, tmp_path / "run", "toy/old", "toy/up", side=["toy/holes"])
    assert (made.rows, made.invalid) == (158, 2)
    np.testing.assert_array_equal(sided.features("toy/up").status(), status)
    cell = evaluate(
        sided,
        EvalRequest(old="toy/old", new="toy/new", gallery_map=tmp_path / "run", side=("toy/holes",), bootstrap=0),
    ).cells[0]
    assert cell.n_queries + cell.n_skipped <= 158


@pytest.mark.usefixtures("sided")
def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["--store", str(tmp_path / "store")]
    fit = ["train", "--loss", "fct", "--old", "toy/old", "--new", "toy/new", "--side", "toy/side", "--out", "runs/up"]
    assert cli([*fit, "--epochs", "2", "--set", "params.hidden=16", *base]) == 0
    judge = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    assert judge.endswith("--gallery-map runs/up --side toy/side")
    assert cli([*judge.split()[1:], "--json", *base]) == 0
    roles = [cell["role"] for cell in json.loads(capsys.readouterr().out)["cells"]]
    assert "new/mapped-old" in roles
    assert cli(["apply", "runs/up", "toy/old", "--side", "toy/side", "--as", "toy/up", *base]) == 0
    assert cli([*fit, "--direction", "new-to-old", *base]) == 2
    assert cli(["train", "--loss", "ridge", *fit[3:], *base]) == 2
    assert cli(["train", "--loss", "ridge", *fit[3:7], "--out", "runs/x", "--epochs", "3", *base]) == 2
    assert "no 'epochs'" in capsys.readouterr().err
