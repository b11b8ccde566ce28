"""Recipes as data, and sweeps that keep every trial and lock the best."""

import json

import pytest

from featstore.errors import AlreadyExistsError, CorruptStoreError, NotFoundError, UnknownNameError, UsageError
from featstore_training import TrainConfig, train
from featstore_training.recipes import find_recipe, merged, parse_recipe, shipped_recipes
from featstore_training.sweep import LOCK, Trial, _write_lock, read_lock, sweep, trial_config

RECIPE = """
description: a small one
base: {loss: bct, epochs: 2, batch: 32, lr: 0.01, head: cosine, val_where: split=test}
grid:
  params.weight: [1, 3]
  head.scale: [12, 6]
seeds: [100, 101]
"""
SETS = {"old": "toy/old", "new": "toy/new"}


class Stops:
    """Stops a sweep after some runs, like a user."""

    def __init__(self, after):
        self.after, self.runs = after, 0

    def start(self, task, total, unit, *, done=0): ...

    def advance(self, n):
        self.runs += n
        if self.runs == self.after:
            raise KeyboardInterrupt

    def note(self, message): ...


def test_shipped_recipes_give_every_method_the_same_number_of_trials():
    recipes = {name: parse_recipe(text, name) for name, text in shipped_recipes().items()}
    assert {"independent", "l2", "bct", "unibct", "mixbct", "ndpp", "odpp", "ours"} <= recipes.keys()
    assert not recipes.pop("simclr").grid  # without labels there is nothing to choose by
    for name, recipe in recipes.items():
        assert len(recipe.combinations()) == 16, name
        assert recipe.seeds == (100, 101, 102)
        assert recipe.description
        configs = [trial_config({**recipe.base, **SETS}, trial, 100) for trial in recipe.combinations()]
        assert len({config.model_dump_json() for config in configs}) == 16, name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nbase: *x", "alias"),
        ("base: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("base: {}\nbase: {}", "twice"),
        ("[1, 2]", "no settings"),
        ("base: {loss: bct}\ngird: {lr: [1]}", "did you mean grid"),
        ("base: {loss: bct}\nseeds: []", "seeds"),
        ("base: {", "cannot be read"),
    ],
)
def test_a_recipe_is_plain_data(text, said):
    with pytest.raises(UsageError) as caught:
        parse_recipe(text, "r.yaml")
    assert said in caught.value.message + caught.value.hint


def test_trials_are_drawn_from_the_grid_and_the_first_combination_stays():
    text = "base: {loss: bct}\ngrid: {lr: [1, 2, 3, 4], batch: [8, 16, 32]}\ntrials: 5"
    drawn = parse_recipe(text, "r").combinations()
    assert len({json.dumps(trial) for trial in drawn}) == 5
    assert drawn[0] == {"lr": 1, "batch": 8}
    assert parse_recipe(text, "r").combinations() == drawn
    assert parse_recipe(text + "\ndraw: 1", "r").combinations() != drawn
    assert all([trial["lr"] for trial in drawn].count(lr) >= 1 for lr in (1, 2, 3, 4))
    assert all([trial["batch"] for trial in drawn].count(batch) >= 1 for batch in (8, 16, 32))
    nearly_all = parse_recipe(text.replace("trials: 5", "trials: 11"), "r").combinations()
    assert len({json.dumps(trial) for trial in nearly_all}) == 11
    with pytest.raises(UsageError, match="no values"):
        parse_recipe("base: {}\ngrid: {lr: []}", "r").combinations()


def test_dotted_settings_lie_on_top():
    base = {"params": {"weight": 1}, "head": "arcface"}
    assert merged(base, {"params.mix.share": 0.5, "head.margin": 0.2}) == {
        "params": {"weight": 1, "mix": {"share": 0.5}},
        "head": {"name": "arcface", "margin": 0.2},
    }
    assert base == {"params": {"weight": 1}, "head": "arcface"}
    with pytest.raises(UsageError, match="one value"):
        merged({"lr": 1}, {"lr.x": 2})


def test_every_mistake_in_a_recipe_is_found_before_anything_is_trained(store, tmp_path):
    for change, said in (
        ("params.wieght: [1]", "wieght"),
        ("epochs: [0]", "epochs"),
        ("loss: [bct, bcd]", "bcd"),
        ("head.margin: [0.1]", "margin"),
    ):
        recipe = parse_recipe(RECIPE.replace("params.weight: [1, 3]", change), "r")
        with pytest.raises(UsageError, match=said):
            sweep(store, recipe, tmp_path / "s", settings=SETS)
    assert not (tmp_path / "s").exists()
    with pytest.raises(UnknownNameError, match="odppp"):
        find_recipe("odppp")
    with pytest.raises(NotFoundError):
        read_lock(tmp_path / LOCK)
    (tmp_path / LOCK).write_text("{}")
    with pytest.raises(CorruptStoreError):
        read_lock(tmp_path / LOCK)


def test_a_sweep_keeps_every_trial_resumes_and_locks_the_best(store, tmp_path):
    recipe = parse_recipe(RECIPE, "r")
    reference = sweep(
        store,
        parse_recipe("base: {loss: independent, epochs: 2, val_where: split=test}\nseeds: [100, 101]", "r"),
        tmp_path / "reference",
        settings={**SETS, "width": 12},
    )
    against = read_lock(reference.folder / LOCK)
    with pytest.raises(KeyboardInterrupt):
        sweep(store, recipe, tmp_path / "s", settings=SETS, reference=against, progress=Stops(3))
    report = sweep(store, recipe, tmp_path / "s", settings=SETS, reference=against)
    assert (report.runs, report.cached) == (8, 3)
    assert len(list((tmp_path / "s" / "trials").iterdir())) == 8
    scores = [trial.validation["score"] for trial in report.trials]
    assert scores == sorted(scores, reverse=True)
    assert report.chosen == report.trials[0]
    for trial in report.trials:
        assert trial.validation["score"] == pytest.approx(sum(v["score"] for v in trial.by_seed.values()) / 2)
        for seed, values in trial.by_seed.items():
            assert values["reference_self"] == against.self_by_seed[int(seed)]
        better = [
            t
            for t in report.trials
            if t.validation["cross_test"] > trial.validation["cross_test"]
            and t.validation["self_test"] > trial.validation["self_test"]
        ]
        assert not (trial.frontier and better)
    assert any(trial.frontier for trial in report.trials)

    lock = read_lock(tmp_path / "s" / LOCK)
    config = TrainConfig(**lock.settings, **SETS, seed=100)
    chosen = report.chosen
    assert {"params.weight": config.params["weight"], "head.scale": config.head.scale} == chosen.settings
    again = train(store, config.model_copy(update={"val_where": ("split=test",)}), tmp_path / "again")
    assert again.validation["cross_test"] == chosen.by_seed["100"]["cross_test"]

    with pytest.raises(AlreadyExistsError, match="another sweep"):
        sweep(store, recipe, tmp_path / "s", settings={**SETS, "lr": 0.02})
    with pytest.raises(UsageError, match="seed 102"):
        sweep(store, find_recipe("bct"), tmp_path / "t", settings=SETS, reference=against)
    with pytest.raises(UsageError, match="validation rows"):
        sweep(store, recipe, tmp_path / "u", settings={**SETS, "val_where": (), "val_fraction": 0})


def test_a_lock_names_no_set_and_no_rows(tmp_path):
    sets = {"old": "toy/old-{seed}", "new": "toy/new", "side": "toy/side-{seed}", "where": ["split=train"], "seed": 1}
    values = {"self_test": 0.5, "score": 0.5}
    trial = Trial("a", {"params.keep": 3.0}, values, {"1": values}, frontier=True)
    _write_lock(tmp_path, {"recipe": {"seeds": [1]}}, {"loss": "bt2", "lr": 0.01, **sets}, [trial])
    assert read_lock(tmp_path / LOCK).settings == {"loss": "bt2", "lr": 0.01, "params": {"keep": 3.0}}


def test_names_follow_the_seed():
    base = {"loss": "bct", "new": "cars/new", "old": "cars/old-{seed}", "where": ["split{seed}=train"]}
    config = trial_config(base, {"params.weight": 2}, 7)
    assert (config.old, config.where, config.seed, config.params) == ("cars/old-7", ("split7=train",), 7, {"weight": 2})


def test_a_sweep_without_validation_rows_is_refused_before_it_trains(store, tmp_path):
    recipe = parse_recipe(RECIPE.replace("val_where: split=test", "val_fraction: 0"), "r")
    with pytest.raises(UsageError, match="needs validation rows to choose by"):
        sweep(store, recipe, tmp_path / "sweep", settings=SETS)
    assert not (tmp_path / "sweep").exists()
