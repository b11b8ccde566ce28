"""What feeds the loop: the rows held out, the batches, the rate, the score."""

import json

import numpy as np
import pytest
import torch

from featstore.errors import UsageError
from featstore_training import TrainConfig, train
from featstore_training.batches import CachedColumn, TrainingRows
from featstore_training.holdout import hold_out
from featstore_training.loop import learning_rate
from featstore_training.old_rows import HeldColumn
from featstore_training.selection import Validation, harmonic


@pytest.mark.parametrize("seed", range(3))
def test_by_image_every_class_gives_at_least_two_rows_and_at_most_half(seed):
    sizes = [1, 3, 4, 10, 40]
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(5), sizes))
    held = hold_out(labels, 0.2, "image", seed)
    assert np.bincount(labels[held], minlength=5).tolist() == [0, 0, 2, 2, 8]
    np.testing.assert_array_equal(held, hold_out(labels, 0.2, "image", seed))
    assert (held != hold_out(labels, 0.2, "image", seed + 1)).any()


def test_by_class_whole_classes_go_and_two_stay_on_either_side():
    labels = np.repeat(np.arange(10), 6)
    held = hold_out(labels, 0.3, "class", 0)
    assert sorted(set(np.bincount(labels[held], minlength=10).tolist())) == [0, 6]
    assert held.sum() == 18
    assert hold_out(labels, 0.01, "class", 0).sum() == 12
    assert hold_out(labels, 0.99, "class", 0).sum() == 48
    with pytest.raises(UsageError, match="3 classes"):
        hold_out(labels[:18], 0.3, "class", 0)


def test_no_more_validation_rows_than_are_useful():
    labels = np.repeat(np.arange(400), 5)
    held = hold_out(labels, 0.4, "image", 0, limit=100)
    assert held.sum() == 100
    assert set(np.bincount(labels[held]).tolist()) <= {0, 2}
    assert not hold_out(labels, 0.0, "image", 0).any()


@pytest.mark.parametrize("resident_bytes", [0, 1 << 30])
def test_every_row_once_a_pass_in_an_order_of_seed_and_epoch(store, resident_bytes):
    rows = np.arange(7, 150)
    features = store.features("toy/new")
    labels = np.arange(len(rows)) % 8
    old = CachedColumn(store.features("toy/old"), rows, unit=True, resident_bytes=resident_bytes)
    inputs = CachedColumn(features, rows, unit=False, resident_bytes=resident_bytes)
    data = TrainingRows(inputs, torch.from_numpy(labels), 8, {"old_feature": old})

    def one_pass(seed, epoch):
        batches = list(data.batches(32, seed, epoch))
        assert len(batches) == data.steps(32) == 5
        assert {len(b.label) for b in batches} == {28, 29}
        assert len({b.generator.initial_seed() for b in batches}) == 5
        new = [inputs.take(b.rows.numpy()) for b in batches]
        parts = (new, [b.label for b in batches], [data.columns_at(b.rows, 0)["old_feature"] for b in batches])
        return [torch.cat(part).numpy() for part in parts]

    got = one_pass(0, 3)
    raw = store.features("toy/old").gather(rows).astype(np.float64)
    expected = np.hstack([features.gather(rows), labels[:, None], raw / np.linalg.norm(raw, axis=1, keepdims=True)])
    table = np.hstack([got[0], got[1][:, None], got[2]])
    np.testing.assert_allclose(table[np.argsort(table[:, 0])], expected[np.argsort(expected[:, 0])], atol=1e-6)
    np.testing.assert_array_equal(one_pass(0, 3)[0], got[0])
    assert (one_pass(0, 4)[0] != got[0]).any()
    assert (one_pass(1, 3)[0] != got[0]).any()

    mean, deviation = data.input_statistics()
    np.testing.assert_allclose(mean, features.gather(rows).astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(deviation, features.gather(rows).astype(np.float64).std(axis=0))


def test_the_rate_warms_up_and_falls_to_nothing():
    config = TrainConfig(loss="bct", new="a/b", epochs=10, lr=0.1, warmup=2)
    rates = [learning_rate(config, step, 5) for step in range(50)]
    assert rates[0] < 0.011
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 2e-4
    flat = TrainConfig(loss="bct", new="a/b", lr=0.1, warmup=0, schedule="constant")
    assert {learning_rate(flat, step, 5) for step in range(200)} == {0.1}


def test_score_is_the_harmonic_mean_of_both_gains():
    assert harmonic(1.2, 0.8) == pytest.approx(2 / (1 / 1.2 + 1 / 0.8))
    assert harmonic(0.0, 5.0) == 0
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 5)
    new = draw.normal(size=(6, 4))[labels] + draw.normal(size=(30, 4))
    old = draw.normal(size=(6, 4))[labels] + 2 * draw.normal(size=(30, 4))
    same = torch.nn.Identity()
    common = {"by_cross": True, "metric": "map", "reference_self": None, "raw": new}
    inputs = HeldColumn(torch.from_numpy(new))
    equal = Validation(inputs, labels, new, **common).score(same)
    assert equal.self_test == equal.cross_test
    assert equal.score == pytest.approx(1, abs=1e-6)  # old = new: cross equals self
    judged = Validation(inputs, labels, old, **common | {"reference_self": 0.5})
    found = judged.score(same)
    assert found.score == pytest.approx(harmonic(found.cross_test / judged.old_old, found.self_test / 0.5))
    assert Validation(inputs, labels, old, **common | {"by_cross": False}).score(same).score == found.self_test


def test_the_weights_saved_are_those_of_the_best_epoch(store, tmp_path):
    settings = {"loss": "odpp", "new": "toy/new", "old": "toy/old", "val_where": "split=test", "lr": 0.03, "batch": 32}
    report = train(store, TrainConfig(epochs=25, **settings), tmp_path / "run")
    assert report.epoch < 25  # so that best and last are different weights
    from featstore.maps import load_map

    dataset = store.dataset("toy")
    rows = dataset.select(["split=test"])
    rows = rows[dataset.labels.codes[rows] >= 0]
    new, old = (store.features(name).gather(rows) for name in ("toy/new", "toy/old"))
    codes, inputs = dataset.labels.codes[rows].astype(np.int64), HeldColumn(torch.from_numpy(new))
    again = Validation(inputs, codes, old, by_cross=True, metric="map", raw=new, reference_self=None).score(
        load_map(report.folder).module
    )
    assert again.score == report.validation["score"]
    lines = [json.loads(line) for line in (report.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[report.epoch - 1]["validation"] == again.as_json()
