"""What the comparisons of methods share: settings chosen on validation rows, runs reported once, one kept file a run.

A *ground* is one question asked of all methods: whose rows train, validate and test, and which old set a seed has. For every
method the shipped recipe gets the same number of trials on the selection seeds; what `sweep.lock` says is trained and tested
on the report seeds. Each finished run leaves `results/METHOD-SEED.npz` with the values of every test query, so that the same
command goes on where it was stopped, and tables are made from kept files alone.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featstore.evaluate import EvalRequest, evaluate
from featstore.runs import read_card
from featstore.store import Store
from featstore.whole_files import write_whole
from featstore_training import AdapterConfig, fit_adapter, train
from featstore_training.column_cache import ColumnCache
from featstore_training.recipes import find_recipe, merged
from featstore_training.run_folder import BRIDGE
from featstore_training.sweep import LOCK, Lock, read_lock, sweep, trial_config

METRICS = ("map", "recall@1")
SELECTION_SEEDS = (100, 101, 102)
REFERENCE = "independent"
ADAPTERS = ("procrustes", "ridge")


@dataclass
class Ground:
    """One question.

    Attributes:
        folder: Where sweeps, runs and results are.
        store: Holds the sets.
        settings: What every run has in common, as in TrainConfig, `{seed}` standing for the seed.
        test: Filters on the test rows.
        prepare: Makes splits and old set of a seed; called before its first run.
        encode: Makes a feature set of a run.
        sets: Name of the feature set that a method's run of a seed makes.
        special: Further settings of single methods.
        trials: Combinations of each recipe.
        selection_seeds: What they are trained with.
        asked: Further fields of every evaluation, as in EvalRequest.
        tested: Where the test rows of a set are, if they are another dataset's.
        reference: Folder of the ground whose reference divides self-tests; None for this one.
        cache: Columns that runs share.
    """

    folder: Path
    store: Store
    settings: dict[str, Any]
    test: tuple[str, ...]
    prepare: Callable[[int], object]
    encode: Callable[[Path, str], object]
    sets: str
    special: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    trials: int = 4
    selection_seeds: tuple[int, ...] = SELECTION_SEEDS
    asked: Mapping[str, Any] = field(default_factory=dict)
    tested: Callable[[str], str] = str
    reference: Path | None = None
    cache: ColumnCache = field(default_factory=ColumnCache)

    def of(self, method: str) -> dict[str, Any]:
        """Settings of every run of a method."""
        return merged(self.settings, self.special.get(method, {}))

    def result(self, method: str, seed: int) -> Path:
        """Where the values of a run are kept."""
        return self.folder / "results" / f"{method}-{seed}.npz"

    def lock(self, method: str) -> Path:
        """Where it says what was chosen for a method."""
        return self.folder / "sweeps" / method / LOCK


def say(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def choose(ground: Ground, method: str) -> Lock:
    """The settings that a method's trials chose; the reference's must have been chosen before."""
    if not ground.lock(method).is_file():
        for seed in ground.selection_seeds:
            ground.prepare(seed)
        reference = None if method == REFERENCE else read_lock(ground.lock(REFERENCE))
        recipe = find_recipe(method).model_copy(update={"trials": ground.trials, "seeds": ground.selection_seeds})
        report = sweep(
            ground.store, recipe, ground.lock(method).parent, settings=ground.of(method), reference=reference
        )
        for trial in report.trials:
            numbers = ", ".join(f"{key} {value:.4f}" for key, value in trial.validation.items())
            say(f"{ground.folder.name} {method}: {trial.settings} → {numbers}{' ◆' if trial.frontier else ''}")
    return read_lock(ground.lock(method))


def report(ground: Ground, method: str, seed: int, lock: Lock) -> None:
    """Train a method as locked, and keep what its test queries find. Nothing where that is kept already."""
    if ground.result(method, seed).is_file():
        return
    began = time.monotonic()
    ground.prepare(seed)
    config = trial_config(merged(lock.settings, ground.of(method)), {}, seed, _reference(ground, method, seed))
    run = ground.folder / "runs" / f"{method}-{seed}"
    done = train(ground.store, config, run, cache=ground.cache)
    new = ground.sets.format(method=method, seed=seed)
    ground.encode(run, new)
    bridge = run / BRIDGE
    keep(
        ground,
        method,
        seed,
        request(ground, seed, old=config.old, new=new, query_map=bridge if bridge.is_dir() else None),
        old_classes=read_card(config.old_run).training["head"]["class_names"] if config.old_run else [],
        about={"settings": config.model_dump(mode="json"), "epoch": done.epoch, "validation": done.validation},
    )
    say(f"{ground.folder.name} {method} seed {seed}: {time.monotonic() - began:.1f} s")


def report_adapters(ground: Ground, seed: int, sets: Mapping[str, str]) -> None:
    """Label-free maps of the queries of each of some new sets into the old space, as rows of their own."""
    for label, new in sets.items():
        for adapter in ADAPTERS:
            method = f"{adapter} of {label}"
            if ground.result(method, seed).is_file():
                continue
            base = trial_config(merged(ground.settings, {"loss": REFERENCE}), {}, seed)
            config = AdapterConfig(
                loss=adapter, old=base.old or "", new=new, where=base.where, val_where=base.val_where, seed=seed
            )
            run = ground.folder / "runs" / f"{adapter}-{label}-{seed}"
            fitted = fit_adapter(ground.store, config, run)
            names = read_card(base.old_run).training["head"]["class_names"] if base.old_run else []
            about = {
                "settings": config.model_dump(mode="json"),
                "chosen": fitted.chosen,
                "validation": fitted.validation,
            }
            keep(ground, method, seed, request(ground, seed, old=base.old, new=new, query_map=run), names, about)


def report_raw(ground: Ground, seed: int, sets: Mapping[str, str]) -> None:
    """What the trunks do without any head: self-tests of some sets."""
    for label, name in sets.items():
        if not ground.result(label, seed).is_file():
            keep(ground, label, seed, request(ground, seed, new=name), [], {})


def request(ground: Ground, seed: int, **sides: Any) -> EvalRequest:
    """The evaluation of a run on the test rows."""
    where = tuple(part.format(seed=seed) for part in ground.test)

    def tested(given: Any) -> Any:
        if isinstance(given, str):
            return ground.tested(given)
        return tuple(map(tested, given)) if isinstance(given, tuple | list) else given

    sets: dict[str, Any] = {role: tested(given) for role, given in sides.items()}
    return EvalRequest(where=where, metrics=METRICS, bootstrap=0, allow_unrelated=True, **ground.asked, **sets)


def keep(
    ground: Ground,
    method: str,
    seed: int,
    asked: EvalRequest,
    old_classes: Iterable[str],
    about: dict[str, Any],
    more: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Evaluate, and write every query's values: roles `old`, `cross` and `self`, float32 [Q] by metric, and what `more` has.

    Beside them stand the classes of the queries (codes into a table of names) and whether the old model saw them.
    """
    result = evaluate(ground.store, asked)
    found = result.evidence
    mapped = dict.fromkeys(("mapped-new/old", "new/mapped-old"), "cross")
    roles = {"old/old": "old", "new/old": "cross", **mapped, "new/new": "self"}
    arrays: dict[str, Any] = {
        f"{roles[role]} {metric}": per_query.values[metric].astype(np.float32)
        for role, per_query in found.per_query.items()  # the mapped cross-test comes later and takes the other's place
        for metric in METRICS
    }
    arrays |= {name: values.astype(np.float32) for name, values in (more or {}).items()}
    names = np.array(found.problem.class_names)
    saw = np.isin(names, list(old_classes))
    widths = {
        key: ground.store.features(ref).width
        for key, ref in (("old", asked.old), ("new", asked.new))
        if ref is not None
    }
    text = json.dumps({**about, "method": method, "seed": seed, "widths": widths})
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays, classes=found.problem.classes, class_names=names, old_saw=saw, about=text)
    path = ground.result(method, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, stream.getvalue())


def _reference(ground: Ground, method: str, seed: int) -> Lock | None:
    """The unconstrained reference's self-test on this seed's validation rows, which the epoch's score divides by."""
    path = replace(ground, folder=ground.reference or ground.folder).result(REFERENCE, seed)
    if method == REFERENCE or not path.is_file():
        return None
    with np.load(path) as held:
        return Lock({}, {seed: json.loads(str(held["about"]))["validation"]["self_test"]})
