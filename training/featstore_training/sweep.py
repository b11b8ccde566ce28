"""`sweep`: every trial of a recipe is a run folder of its own; what is chosen is written down once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from blake3 import blake3

import featstore
from featstore.errors import AlreadyExistsError, CorruptStoreError, NotFoundError, UsageError
from featstore.progress import SILENT, Progress
from featstore.store import Store
from featstore.whole_files import write_whole
from featstore_training.column_cache import ColumnCache
from featstore_training.config import TrainConfig
from featstore_training.job import Job, prepare
from featstore_training.objectives import objective_params
from featstore_training.processes import started_processes
from featstore_training.recipes import Recipe, merged
from featstore_training.runner import train

__all__ = ["LOCK", "Lock", "SweepReport", "Trial", "read_lock", "sweep", "trial_config"]

LOCK = "sweep.lock"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination over all seeds.

    Attributes:
        name: Of its run folders, `trials/NAME-SEED`.
        settings: What it takes from the grid, dotted.
        validation: `score`, `self_test` and, with an old set, `cross_test` and `old_old`: means over the seeds.
        by_seed: The same for each seed.
        frontier: No other trial is at least as good across and by itself and better in one of them.
    """

    name: str
    settings: dict[str, Any]
    validation: dict[str, float]
    by_seed: dict[str, dict[str, float]]
    frontier: bool


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep did.

    Attributes:
        folder: Where trials and lock are.
        chosen: The trial with the highest score.
        trials: All, best first.
        cached: Runs that were there already.
        runs: All runs.
    """

    folder: Path
    chosen: Trial
    trials: list[Trial]
    cached: int
    runs: int


@dataclass(frozen=True, slots=True)
class Lock:
    """What a sweep chose.

    Attributes:
        settings: Of the chosen trial, complete but for sets, rows and seed: nested as in TrainConfig.
        self_by_seed: Its self-test on validation for each seed; what other methods' self-tests are divided by when this
            is the unconstrained reference.
    """

    settings: dict[str, Any]
    self_by_seed: dict[int, float]


def sweep(
    store: Store,
    recipe: Recipe,
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    reference: Lock | None = None,
    progress: Progress = SILENT,
) -> SweepReport:
    """Train every trial of a recipe with every seed, and lock the one with the best mean validation score.

    Everything is checked before anything is trained. The same call goes on where it was stopped. Test rows play no part.

    Args:
        store: Where the feature sets are.
        recipe: What to try.
        out: Folder of the sweep.
        settings: Sets, rows and the like, on top of the recipe's base; `{seed}` stands for the seed.
        reference: Lock of the unconstrained reference's sweep over the same seeds.
        progress: Told of runs.

    Raises:
        UsageError: settings that cannot mean anything, a reference that lacks a seed, several processes, or nothing to choose
            by: no validation rows, or a method without labels.
        AlreadyExistsError: `out` holds another sweep.
        Whatever `train` raises.
    """
    if started_processes() > 1:
        raise UsageError("a sweep is made by one process", hint="start it without torchrun")
    base = merged(recipe.base, settings or {})
    combinations = recipe.combinations()
    configs = {
        (number, seed): trial_config(base, combination, seed, reference)
        for number, combination in enumerate(combinations)
        for seed in recipe.seeds
    }
    plan = {"base": base, "recipe": recipe.model_dump(mode="json"), "reference": _reference_json(reference)}
    for seed in recipe.seeds:
        _check_choosable(prepare(store, configs[0, seed]))
    _begin(out, plan)
    cache, results, cached = ColumnCache(), {}, 0
    progress.start(f"sweep {base['loss']}", len(configs), "runs")
    # one seed after another, because the trials of a seed read the same rows
    for number, seed in sorted(configs, key=lambda key: (recipe.seeds.index(key[1]), key[0])):
        folder = out / "trials" / f"{_name(combinations[number])}-{seed}"
        report = train(store, configs[number, seed], folder, cache=cache)
        results[number, seed] = report.validation
        cached += report.cached
        progress.advance(1)
    trials = [
        _trial(combination, {seed: results[number, seed] for seed in recipe.seeds})
        for number, combination in enumerate(combinations)
    ]
    trials = _with_frontier(sorted(trials, key=lambda trial: -trial.validation["score"]))
    _write_lock(out, plan, base, trials)
    return SweepReport(out, trials[0], trials, cached, len(configs))


def trial_config(
    base: Mapping[str, Any], combination: Mapping[str, Any], seed: int, reference: Lock | None = None
) -> TrainConfig:
    """The checked config of one run.

    Raises:
        UsageError: unknown settings or wrong values, of the objective too; a reference without this seed.
    """
    values = _with_seed(merged(base, combination), seed)
    if reference is not None:
        if seed not in reference.self_by_seed:
            known = ", ".join(map(str, reference.self_by_seed))
            raise UsageError(f"the reference was not trained with seed {seed}, only with {known}")
        values["reference_self"] = reference.self_by_seed[seed]
    config = TrainConfig(**{**values, "seed": seed})
    objective_params(config.loss, config.params)
    return config


def read_lock(path: Path) -> Lock:
    """What a sweep chose, from its `sweep.lock`.

    Raises:
        NotFoundError: there is no such file.
        CorruptStoreError: it is no lock.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no {path}", hint="`featstore train --sweep` writes one when all trials are done")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        chosen = content["trials"][0]
        tests = {int(seed): float(values["self_test"]) for seed, values in chosen["by_seed"].items()}
        return Lock(dict(content["settings"]), tests)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CorruptStoreError(f"{path} is no sweep.lock: {error!r}", hint="run the sweep again") from error


def _check_choosable(job: Job) -> None:
    """Refuse to try settings that nothing can tell apart afterwards."""
    if "label" not in job.needs:
        raise UsageError(
            f"loss '{job.config.loss}' reads no labels, so a sweep has nothing to choose its settings by",
            hint=f"train it as it is: `featstore train --recipe {job.config.loss} …`; compare what several runs make with "
            "`featstore eval`",
        )
    if not job.rows.can_validate:
        raise UsageError("a sweep needs validation rows to choose by, two of a class", hint="--val-where split=val")


def _with_seed(value: Any, seed: int) -> Any:
    if isinstance(value, str):
        return value.replace("{seed}", str(seed))
    if isinstance(value, Path):
        return Path(str(value).replace("{seed}", str(seed)))
    if isinstance(value, dict):
        return {key: _with_seed(part, seed) for key, part in value.items()}
    return [_with_seed(part, seed) for part in value] if isinstance(value, list | tuple) else value


def _name(combination: Mapping[str, Any]) -> str:
    return blake3(json.dumps(combination, sort_keys=True).encode()).hexdigest()[:10]


def _trial(combination: dict[str, Any], by_seed: dict[int, dict[str, float]]) -> Trial:
    keys = [key for key in ("score", "cross_test", "self_test", "old_old") if all(key in v for v in by_seed.values())]
    means = {key: fmean(values[key] for values in by_seed.values()) for key in keys}
    return Trial(_name(combination), combination, means, {str(seed): v for seed, v in by_seed.items()}, frontier=False)


def _with_frontier(trials: Sequence[Trial]) -> list[Trial]:
    def axes(trial: Trial) -> tuple[float, float]:
        return trial.validation.get("cross_test", 0.0), trial.validation["self_test"]

    def beaten(trial: Trial) -> bool:
        mine = axes(trial)
        return any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in map(axes, trials))

    return [Trial(t.name, t.settings, t.validation, t.by_seed, frontier=not beaten(t)) for t in trials]


def _reference_json(reference: Lock | None) -> dict[str, float] | None:
    return {str(seed): value for seed, value in reference.self_by_seed.items()} if reference else None


def _begin(out: Path, plan: dict[str, Any]) -> None:
    """Claim the folder for this sweep, or find that it is this one's already."""
    path, text = out / "sweep.json", json.dumps(plan, indent=1, sort_keys=True, default=str)
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise AlreadyExistsError(f"{out} holds another sweep", hint="give a new folder to --out")
        return
    if out.exists() and any(out.iterdir()):
        raise AlreadyExistsError(f"{out} holds other files", hint="give a new folder to --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _write_lock(out: Path, plan: dict[str, Any], base: dict[str, Any], trials: list[Trial]) -> None:
    of_sets = {"new", "images", "dataset", "old", "side", "where", "val_where", "old_run", "seed"}
    settings = {key: value for key, value in merged(base, trials[0].settings).items() if key not in of_sets}
    lock = {
        "format": FORMAT,
        "settings": settings,
        "plan": blake3(json.dumps(plan, sort_keys=True, default=str).encode()).hexdigest(),
        "seeds": plan["recipe"]["seeds"],
        "trials": [
            {
                "name": trial.name,
                "settings": trial.settings,
                "validation": trial.validation,
                "by_seed": trial.by_seed,
                "frontier": trial.frontier,
            }
            for trial in trials
        ],
        "versions": {"featstore": featstore.__version__},
    }
    write_whole(out / LOCK, (json.dumps(lock, indent=1, default=str) + "\n").encode())
