"""The loop's options: samplers, clipping, averaged weights, half precision."""

import json
from functools import partialmethod

import numpy as np
import pytest
import torch
from torch.amp import GradScaler

from featstore.errors import UsageError
from featstore_training import train
from featstore_training.average import Average
from featstore_training.checkpoint import read_header
from featstore_training.samplers import epoch_batches

from .test_train import Listener, assert_equal, config, weights


def sampled(sampler, labels, batch, per_class=1, seed=0):
    return epoch_batches(labels, batch, sampler, per_class, np.random.default_rng(seed))


def test_samplers_give_every_row_every_class_or_so_many_of_each():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [1, 3, 8, 20, 30]))
    for sampler, batch, per_class in (("shuffle", 16, 1), ("balanced", 16, 1), ("pk", 12, 4)):
        batches = sampled(sampler, labels, batch, per_class)
        assert len(batches) == -(-len(labels) // batch)
        assert max(map(len, batches)) <= batch
        again, other = sampled(sampler, labels, batch, per_class), sampled(sampler, labels, batch, per_class, seed=1)
        np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(again))
        assert (np.concatenate(batches) != np.concatenate(other)).any()

    assert sorted(np.concatenate(sampled("shuffle", labels, 16))) == list(range(62))

    rows = np.concatenate(sampled("balanced", labels, 16))
    counts = np.bincount(labels[rows])
    assert len(rows) == 62
    assert counts.max() - counts.min() <= 1
    seen = np.bincount(rows, minlength=62)
    for code in range(5):  # the rows of a class take turns
        assert seen[labels == code].max() - seen[labels == code].min() <= 1

    pk = sampled("pk", labels, 12, 4)
    for batch in pk:
        assert sorted(np.bincount(labels[batch])[np.unique(labels[batch])]) == [4, 4, 4]
    big = np.concatenate([batch[labels[batch] == 4] for batch in pk])
    assert len(set(big.tolist())) == min(len(big), 30)


def test_batches_that_cannot_be_made_are_refused(store, tmp_path):
    for batch, per_class, words in ((30, 4, "of each of two"), (4, 4, "of each of two"), (36, 4, "needs 9 classes")):
        with pytest.raises(UsageError, match=words):
            train(store, config(sampler="pk", batch=batch, per_class=per_class), tmp_path / "run")


def test_gradients_are_clipped_together(store, tmp_path, monkeypatch):
    norms, step = [], torch.optim.SGD.step

    def watched(self, *args):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    train(store, config("bct", optimizer="sgd", epochs=2), tmp_path / "free")
    free, norms[:] = list(norms), []
    train(store, config("bct", optimizer="sgd", epochs=2, clip=0.1), tmp_path / "clipped")
    assert max(free) > 0.2
    assert max(norms) == pytest.approx(0.1, rel=1e-4)


def test_the_average_follows_its_definition():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average = Average(0.9, {"m": module})
    expected, draw = module[0].weight.detach().clone(), torch.Generator().manual_seed(0)
    for step in range(200):
        with torch.no_grad():
            module[0].weight.copy_(torch.randn(2, 3, generator=draw))
        module[1].num_batches_tracked += 1
        average.follow(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module[0].weight.detach()
    torch.testing.assert_close(average.weights["m.0.weight"], expected)
    assert int(average.weights["m.1.num_batches_tracked"]) == 200
    last = module[0].weight.detach().clone()
    with average.in_place():
        assert torch.equal(module[0].weight, average.weights["m.0.weight"])
    assert torch.equal(module[0].weight, last)


def test_averaged_weights_are_validated_and_kept(store, tmp_path):
    plain = train(store, config("bct", epochs=3, val_fraction=0), tmp_path / "plain")
    averaged = train(store, config("bct", epochs=3, val_fraction=0, ema=0.9), tmp_path / "averaged")
    left, right = weights(plain.folder), weights(averaged.folder)
    assert not torch.equal(left["weight"], right["weight"])
    assert left["weight"].norm() > right["weight"].norm()  # class weights grow from nearly nothing

    def losses(run):
        return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]

    assert losses(plain.folder) == losses(averaged.folder)  # the average never takes part in training


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_changes_little_and_weights_stay_float32(store, tmp_path, amp):
    plain = train(store, config("bct"), tmp_path / "plain")
    rounded = train(store, config("bct", amp=amp), tmp_path / "rounded")
    left, right = weights(plain.folder)["body.weight"], weights(rounded.folder)["body.weight"]
    assert right.dtype == torch.float32
    assert not torch.equal(left, right)
    assert abs(plain.validation["score"] - rounded.validation["score"]) < 0.05


def test_a_step_that_overflows_is_left_out_and_halves_the_scale(store, tmp_path, monkeypatch):
    monkeypatch.setattr(GradScaler, "__init__", partialmethod(GradScaler.__init__, init_scale=2.0**127))
    options = {"amp": "fp16", "clip": 0.5, "epochs": 2, "batch": 8}
    steps = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_, **__: steps.append(1))
    with pytest.raises(KeyboardInterrupt):
        train(store, config(**options), tmp_path / "run", progress=Listener(stop_after=1))
    header = read_header(tmp_path / "run")
    assert 1 < 2.0**127 / header["scaler"]["scale"] == 2.0 ** (12 - len(steps))  # 96 rows are 12 steps


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_run_with_every_option_resumes_to_the_same_weights(store, tmp_path, amp):
    options = {"sampler": "pk", "per_class": 4, "clip": 0.5, "ema": 0.95, "amp": amp, "epochs": 5}
    whole = train(store, config(**options), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(store, config(**options), tmp_path / "broken", progress=Listener(stop_after=3))
    assert train(store, config(**options), tmp_path / "broken").resumed_at == 3
    assert_equal(weights(whole.folder), weights(tmp_path / "broken"))
