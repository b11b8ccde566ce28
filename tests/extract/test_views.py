"""Cached views: the same random change of an image for every encoder, in feature sets of their own."""

import numpy as np
import pytest

from featstore.encoders import Augment, ViewRecipe, load_encoder, view_recipe
from featstore.errors import SpaceMismatchError, UsageError
from featstore.extract import EncodeAgain, ExtractRequest, extract
from featstore.sources import ImageFolder, decode_image
from featstore.spaces import comparable
from featstore.store import repair
from tests.extract.conftest import make_images, one_by_one
from tests.store.test_repair import damage

OLD = "python:tests.extract.factories:old"
NEW = "python:tests.extract.factories:new"


def run(store, source, **options):
    values = {"source": str(source), "dataset": "d", "models": {"old": OLD, "new": NEW}, "workers": 1, "views": 2}
    return extract(store, ExtractRequest(**values | options))


def by_definition(source, encoder, ids, recipe):
    folder = ImageFolder.open(source)
    images = [(decode_image(folder.read(id_)), recipe.draw(id_)) for id_ in ids]
    return np.concatenate([encoder.encode(encoder.preprocess.apply(*drawn)[None]) for drawn in images])


@pytest.mark.parametrize("workers", [1, 2])
def test_views_are_drawn_from_seed_id_and_number_for_every_encoder(store, images, workers):
    augment = Augment(area=(0.3, 0.6), angle=20, brightness=0.2)
    report = run(store, images, augment=augment, view_seed=5, batch=7, workers=workers)
    assert list(report.sets) == ["old", "old.v1", "old.v2", "new", "new.v1", "new.v2"]
    assert (report.encoded, report.failed) == (60, 0)
    ids = list(store.dataset("d").ids)
    for name, uri in (("old", OLD), ("new", NEW)):
        encoder = load_encoder(uri)
        clean = store.features(f"d/{name}").gather(np.arange(60))
        np.testing.assert_allclose(clean, one_by_one(images, encoder, ids), atol=1e-6)
        for number in (1, 2):
            recipe = ViewRecipe(number=number, seed=5, augment=augment)
            features = store.features(f"d/{name}.v{number}")
            expected = by_definition(images, encoder, ids, recipe)
            np.testing.assert_allclose(features.gather(np.arange(60)), expected, atol=1e-6)
            assert view_recipe(features.space) == recipe
            assert not np.allclose(expected, clean, atol=1e-3)


def test_a_view_is_comparable_with_the_clean_set_and_never_mixes_with_another_recipe(store, images):
    run(store, images)
    clean, first, second = (store.features(f"d/{name}").space for name in ("old", "old.v1", "old.v2"))
    assert comparable(clean, first)
    assert len({clean.digest, first.digest, second.digest}) == 3
    make_images(images, 4, start=300)
    with pytest.raises(SpaceMismatchError, match=r"view\.seed"):
        run(store, images, view_seed=1)
    with pytest.raises(SpaceMismatchError, match=r"view\.augment\.flip"):
        run(store, images, augment=Augment(flip=False))
    assert run(store, images).sets["old.v2"].rows == 64


def test_more_views_join_later_and_leave_the_others_alone(store, images):
    run(store, images, views=1, models={"old": OLD})
    report = run(store, images, views=3, models={"old": OLD})
    assert [made.encoded for made in report.sets.values()] == [0, 0, 60, 60]
    assert run(store, images, views=3, models={"old": OLD}).encoded == 0


def test_equal_bytes_under_two_names_have_two_views(store, images):
    first = min(images.rglob("*.png"))
    (first.parent / "twin.png").write_bytes(first.read_bytes())
    run(store, images)
    rows = store.dataset("d").ids.rows_of([f"{first.parent.name}/{name}" for name in (first.name, "twin.png")])
    clean, view = (store.features(f"d/{name}").gather(rows) for name in ("old", "old.v1"))
    np.testing.assert_allclose(*clean, atol=1e-6)
    assert not np.allclose(*view, atol=1e-3)


def test_a_damaged_view_is_encoded_again_as_the_same_view(store, images):
    run(store, images, models={"old": OLD})
    before = store.features("d/old.v1").gather(np.arange(60))
    damage(next(store.files.root.glob("features/d/old.v1/segments/*/features/c.0.0")), "delete")
    report = repair(store, sources=[EncodeAgain(str(images), {"old": OLD})])
    assert not report.unmended
    np.testing.assert_allclose(store.features("d/old.v1").gather(np.arange(60)), before, atol=1e-6)


def test_a_model_may_not_take_the_name_of_a_view(store, images):
    with pytest.raises(UsageError, match=r"old\.v1"):
        run(store, images, models={"old.v1": OLD})


def test_unknown_changes_are_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="no 'angel'") as caught:
        Augment(angel=3)
    assert "angle" in caught.value.hint
