"""Cached views in training: which view a step sees, on both sides, in both modes."""

import numpy as np
import pytest
import torch

from featstore.encoders import Augment, Preparation, ViewRecipe, load_encoder
from featstore.errors import AlignmentError, NotFoundError, SpaceMismatchError, UsageError
from featstore.extract import ExtractRequest, extract
from featstore.runs import read_card
from featstore.sources import ImageFolder, decode_image
from featstore.spaces import Space
from featstore_training import AdapterConfig, TrainConfig, fit_adapter, train
from featstore_training.adapters.rows import choose_adapter_rows
from featstore_training.column_cache import ColumnCache
from featstore_training.job import prepare
from featstore_training.objectives.regression import Regression
from featstore_training.views import drawn_views

from .conftest import CLASSES, EACH, NEW, OLD, write
from .test_full_mode import config as full
from .test_full_mode import shop  # noqa: F401 - a fixture

ROWS = CLASSES * EACH


def add_views(store, count=2, seed=0):
    """Views that show their number: every component of row r in view v is 10·r + v + 1."""
    dataset = store.dataset("toy")
    for name, width in (("old", OLD), ("new", NEW)):
        for number in range(1, count + 1):
            values = np.repeat(10.0 * np.arange(ROWS)[:, None] + number + 1, width, axis=1)
            space = ViewRecipe(number=number, seed=seed).space(Space.named(name, width))
            write(store, dataset, f"{name}.v{number}", values, space)


def config(**changes):
    settings = {"loss": "l2", "old": "toy/old", "new": "toy/new", "views": 2, "epochs": 2, "batch": 32}
    return TrainConfig(**(settings | changes))


def test_every_epoch_draws_a_view_for_every_row_from_the_seed_alone():
    drawn = drawn_views(3, 0, 2, 30_000)
    assert np.bincount(drawn).tolist() == pytest.approx([10_000] * 3, rel=0.05)
    assert (drawn != drawn_views(3, 1, 2, 30_000)).any()
    assert (drawn != drawn_views(4, 0, 2, 30_000)).any()
    drawn_views.cache_clear()
    np.testing.assert_array_equal(drawn, drawn_views(3, 0, 2, 30_000))


def test_both_sides_see_the_same_view_and_passes_over_all_rows_see_none(store):
    add_views(store)
    job = prepare(store, config(seed=7))
    rows, cache = job.rows.train, ColumnCache()
    new = job.new.inputs(rows, cache)
    old = cache.viewed(job.old, job.old_views, rows, unit=False, seed=7)
    clean = {name: torch.from_numpy(store.features(f"toy/{name}").gather(rows)) for name in ("old", "new")}
    for epoch in (0, 1):
        drawn = drawn_views(7, epoch, 2, len(rows))
        positions = np.random.default_rng(epoch).permutation(len(rows))[:50]
        for column, width, name in ((new, NEW, "new"), (old, OLD, "old")):
            expected = [
                clean[name][p] if drawn[p] == 0 else torch.full((width,), 10.0 * rows[p] + drawn[p] + 1)
                for p in positions.tolist()
            ]
            torch.testing.assert_close(column.training(positions, epoch), torch.stack(expected), rtol=0, atol=0)
            torch.testing.assert_close(column.take(positions), clean[name][torch.from_numpy(positions)])
            torch.testing.assert_close(torch.cat([block for _, block in column.blocks()]), clean[name])


@pytest.mark.parametrize(("loss", "asked", "paired"), [
    ("l2", None, True),
    ("ract", None, True),
    ("mixbct", None, True),
    ("l2", "clean", False),
    ("bank", None, False),
    ("bank", "paired", True),
    ("odpp", None, False),
])  # fmt: skip
def test_methods_that_compare_row_by_row_are_paired_unless_asked_otherwise(store, loss, asked, paired):
    add_views(store)
    assert len(prepare(store, config(loss=loss, old_views=asked)).old_views) == 2 * paired


def test_a_run_on_views_is_another_run_and_resumes(store, tmp_path):
    add_views(store)
    reports = {views: train(store, config(views=views), tmp_path / f"{views}") for views in (0, 1, 2)}
    cards = {views: read_card(report.folder) for views, report in reports.items()}
    assert len({str(card.training["inputs"]) for card in cards.values()}) == 3
    assert train(store, config(views=2), tmp_path / "2").cached
    assert cards[2].training["config"]["views"] == 2


def test_what_cannot_be_paired_is_refused(store):
    with pytest.raises(NotFoundError, match=r"old\.v1") as caught:
        prepare(store, config())
    assert "--views 2" in caught.value.hint
    add_views(store, count=1)
    space = ViewRecipe(number=2, seed=1).space(Space.named("old", OLD))
    write(store, store.dataset("toy"), "old.v2", np.ones((ROWS, OLD)), space)
    space = ViewRecipe(number=2, seed=0).space(Space.named("new", NEW))
    write(store, store.dataset("toy"), "new.v2", np.ones((ROWS, NEW)), space)
    with pytest.raises(AlignmentError, match="different draws"):
        prepare(store, config())
    assert not prepare(store, config(old_views="clean")).old_views
    write(store, store.dataset("toy"), "new.v3", np.ones((ROWS, NEW)), Space.named("another", NEW))
    with pytest.raises(SpaceMismatchError, match="is no view of"):
        prepare(store, config(views=3, old_views="clean"))
    with pytest.raises(UsageError, match="without views"):
        prepare(store, config(views=0, old_views="paired"))
    with pytest.raises(UsageError, match="nothing to pair"):
        prepare(store, config(loss="odpp", old_views="paired"))


def test_full_mode_cuts_images_as_the_old_views_were_cut(shop, tmp_path):  # noqa: F811 - the fixture
    store, folder = shop
    augment = Augment(area=(0.5, 0.8))
    request = ExtractRequest(
        source=str(folder / "images"), dataset="strokes", models={"old": f"run:{folder / 'v1'}"}, workers=1
    )
    extract(store, request.model_copy(update={"views": 2, "view_seed": 3, "augment": augment}))
    settings = full(folder, loss="l2", views=2, seed=5).model_dump(exclude={"augment"}, exclude_unset=True)
    job = prepare(store, TrainConfig(**settings))
    inputs = job.new.inputs(job.rows.train, ColumnCache())
    positions, drawn = np.arange(0, 40, 3), drawn_views(5, 1, 2, len(job.rows.train))
    seen = inputs.training(positions, 1)
    preprocess = load_encoder(f"run:{folder / 'v1'}").preprocess
    source = ImageFolder.open(str(folder / "images"))
    for k, position in enumerate(positions.tolist()):
        id_ = store.dataset("strokes").ids[int(job.rows.train[position])]
        number = int(drawn[position])
        recipe = ViewRecipe(number=number, seed=3, augment=augment) if number else None
        expected = Preparation(preprocess, recipe).apply(decode_image(source.read(id_)), id_)
        np.testing.assert_array_equal(seen[k].numpy(), expected)
    assert train(store, TrainConfig(**settings), tmp_path / "run").epochs == 3
    with pytest.raises(UsageError, match="fresh views"):
        prepare(store, TrainConfig(**settings | {"old_views": "clean"}))


def test_an_adapter_that_is_trained_sees_the_same_view_of_all_sets(store, tmp_path, monkeypatch):
    add_views(store)
    settings = {
        "old": "toy/old",
        "new": "toy/new",
        "views": 2,
        "seed": 3,
        "params": {"epochs": 2, "hidden": 8, "unit": False},
    }
    steps = []
    real = Regression.loss

    def watched(self, batch, head):
        steps.append((batch.rows, batch.columns["target"], batch.epoch))
        return real(self, batch, head)

    monkeypatch.setattr(Regression, "loss", watched)
    fit_adapter(store, AdapterConfig(loss="fct", **settings), tmp_path / "fct")
    rows = choose_adapter_rows(
        [store.features("toy/old"), store.features("toy/new")], AdapterConfig(loss="fct", **settings)
    )
    drawn = [drawn_views(3, epoch, 2, len(rows.fitted)) for epoch in (0, 1)]
    assert {epoch for _, _, epoch in steps} == {0, 1}
    for positions, target, epoch in steps:
        for position, value in zip(positions.tolist(), target, strict=True):
            number, row = int(drawn[epoch][position]), int(rows.fitted[position])
            clean = store.features("toy/new").gather([row])[0]
            np.testing.assert_allclose(
                value, clean if number == 0 else np.full(NEW, 10.0 * row + number + 1), rtol=1e-6
            )
    with pytest.raises(UsageError, match="step by step"):
        fit_adapter(store, AdapterConfig(loss="procrustes", old="toy/old", new="toy/new", views=2), tmp_path / "turn")
