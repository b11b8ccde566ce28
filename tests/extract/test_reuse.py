"""Row-level reuse: an image that the store has encoded in a space before is copied, in whatever dataset it is."""

import shutil

import numpy as np
import pytest
import zarr

from featstore.encoders import load_encoder
from featstore.extract import ExtractRequest, extract, pipeline
from featstore.store import DigestIndex, NewRows, RowStatus, Store, verify
from featstore_cli.main import run as featstore
from tests.extract import factories
from tests.extract.conftest import make_images, one_by_one
from tests.store_factory import add_set

OLD = "python:tests.extract.factories:old"
NEW = "python:tests.extract.factories:new"


def run(store, source, dataset, **options):
    return extract(
        store,
        ExtractRequest(**{"source": str(source), "dataset": dataset, "models": {"old": OLD}, "workers": 1} | options),
    )


@pytest.fixture
def others(images, tmp_path):
    """A folder with 20 of the 60 images under other names, and 10 of its own."""
    root = tmp_path / "others"
    make_images(root, 10, start=500)
    for number, path in enumerate(sorted(images.rglob("*.*"))[::3]):
        (root / "shared").mkdir(exist_ok=True)
        shutil.copy(path, root / f"shared/{number:03}{path.suffix}")
    return root


@pytest.fixture
def encoded(monkeypatch):
    """Images encoded after the probe, by name of the encoder's architecture and width."""
    seen = []
    real = pipeline.encode_isolated

    def counted(encoder, positions, *rest):
        seen.append((encoder.width, len(positions)))
        return real(encoder, positions, *rest)

    monkeypatch.setattr(pipeline, "encode_isolated", counted)
    return lambda width: sum(count for w, count in seen if w == width)


def by_id(store, name):
    features = store.features(name)
    rows = features.valid_rows()
    return dict(zip(features.dataset.ids.take(rows), features.gather(rows), strict=True))


def test_shared_images_are_copied_bit_for_bit_and_not_encoded(store, images, others, encoded, tmp_path):
    run(store, images, "d")
    assert encoded(8) == 60
    report = run(store, others, "e")
    assert encoded(8) == 70
    assert (report.images, report.encoded, report.copied, report.cached) == (30, 10, 20, 0)
    assert (report.sets["old"].encoded, report.sets["old"].copied) == (10, {"d/old": 20})
    first, second = by_id(store, "d/old"), by_id(store, "e/old")
    for number, path in enumerate(sorted(images.rglob("*.*"))[::3]):
        ours = second[f"shared/{number:03}{path.suffix}"]
        np.testing.assert_array_equal(ours, first[path.relative_to(images).as_posix()])
    # as if there were no index
    alone = Store.init(tmp_path / "alone")
    run(alone, others, "e")
    for id_, feature in by_id(alone, "e/old").items():
        np.testing.assert_allclose(second[id_], feature, atol=1e-6)
    np.testing.assert_array_equal(store.features("e/old").input_digests(), alone.features("e/old").input_digests())
    assert verify(store, full=True).problems == []


def test_only_the_encoders_that_lack_an_image_run(store, images, others, encoded):
    run(store, images, "d")
    report = run(store, others, "e", models={"old": OLD, "new": NEW}, batch=4)
    assert (encoded(8), encoded(24)) == (70, 30)
    assert (report.encoded, report.copied) == (30, 0)
    assert {name: made.copied for name, made in report.sets.items()} == {"old": {"d/old": 20}, "new": {}}
    expected = one_by_one(others, factories.new(), list(store.dataset("e").ids))
    np.testing.assert_allclose(store.features("e/new").gather(np.arange(30)), expected, atol=1e-6)


def test_worker_processes_copy_too_and_the_report_counts_over_them(store, images, others):
    run(store, images, "d")
    report = run(store, others, "e", workers=2)
    assert (report.encoded, report.copied, report.sets["old"].copied) == (10, 20, {"d/old": 20})


def test_a_changed_file_is_not_reused(store, images, others, encoded):
    run(store, images, "d")
    changed = min(others.rglob("shared/*.png"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    report = run(store, others, "e")
    assert report.sets["old"].copied == {"d/old": 19}
    assert encoded(8) == 60 + 11


def test_another_space_is_not_reused(store, images, others, encoded):
    run(store, images, "d")
    report = run(store, others, "e", models={"old": "python:tests.extract.factories:other_old"})
    assert (report.copied, encoded(8)) == (0, 90)


def test_removed_rows_and_failed_rows_are_not_reused(store, images, others, encoded):
    (images / "c0/page.jpg").write_bytes(b"<html>")
    (others / "page.jpg").write_bytes(b"<html>")
    run(store, images, "d")
    shared = sorted(images.rglob("*[0-9].*"))[::3]
    store.remove_rows("d", [path.relative_to(images).as_posix() for path in shared[:5]])
    before = encoded(8)
    report = run(store, others, "e")
    assert (report.sets["old"].copied, report.failed) == ({"d/old": 15}, 1)
    assert encoded(8) - before == 15


def test_narrower_features_are_reused_only_where_nothing_is_lost(store, images, others):
    run(store, images, "d", dtype="float16")
    assert run(store, others, "e").copied == 0  # float32 features have digits that d/old lacks
    assert run(store, others, "f", dtype="float16").sets["old"].copied == {"d/old": 20, "e/old": 10}
    half = {"half": "python:tests.extract.factories:half"}
    run(store, images, "d", models=half)
    report = run(store, others, "e", models=half, dtype="float32")
    assert report.sets["half"].copied == {"d/half": 20}
    assert store.features("e/half").dtype == np.float32
    np.testing.assert_array_equal(
        store.features("e/half").gather(np.arange(30)),
        one_by_one(others, factories.half(), list(store.dataset("e").ids)).astype(np.float32),
    )


def test_damage_is_not_copied(store, images, others):
    run(store, images, "d")
    [shard] = (store.files.root / "features/d/old").glob("segments/*/features/c.0.0")
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    assert 0 < run(store, others, "e").copied < 20
    expected = one_by_one(others, factories.old(), list(store.dataset("e").ids))
    np.testing.assert_allclose(store.features("e/old").gather(np.arange(30)), expected, atol=1e-6)


def test_sets_that_are_gone_are_not_looked_for(store, images, others):
    run(store, images, "d")
    shutil.rmtree(store.files.root / "features/d")
    assert run(store, others, "e").copied == 0


def test_the_command_says_what_was_copied(store, images, others, capsys):
    run(store, images, "d")
    assert (
        featstore(["--store", store.location, "extract", str(others), "--dataset", "e", "--model", f"old={OLD}"]) == 0
    )
    assert "20 of 30 images copied from d/old, 10 encoded" in capsys.readouterr().out


# --- the index itself -------------------------------------------------------------------------------------------------

SPACE = load_encoder(OLD).space


def hand_made(store, dataset, digests, values, status=None):
    store.create_dataset(dataset, NewRows(ids=[str(n) for n in range(len(values))]))
    add_set(store, dataset, "f", values, space=SPACE, status=status, digests=digests, shard_rows=16)


def test_the_index_finds_what_a_dict_finds(store):
    random = np.random.default_rng(0)
    digests = random.integers(0, 256, (300, 16), dtype=np.uint8)
    digests[100:110] = digests[50:60]  # the same inputs twice
    digests[110:120, :8] = digests[60:70, :8]  # others with the same prefix
    digests[200:210] = 0
    status = np.full(300, RowStatus.VALID, np.uint8)
    status[::7] = RowStatus.FAILED
    values = random.normal(size=(300, 8)).astype(np.float32)
    hand_made(store, "a", digests[:200], values[:200], status[:200])
    hand_made(store, "b", digests[200:], values[200:], status[200:])
    known = {}
    for n in np.flatnonzero((status == RowStatus.VALID) & digests.any(axis=1)):
        known.setdefault(digests[n].tobytes(), []).append(values[n])
    asked = np.concatenate([digests, random.integers(0, 256, (50, 16), dtype=np.uint8)])
    copied = DigestIndex(store, SPACE).copy(asked, np.dtype("f4"))
    for digest, feature, source in zip(asked, copied.features, copied.sources, strict=True):
        candidates = known.get(digest.tobytes(), [])
        assert (source is not None) == bool(candidates)
        assert not candidates or any(np.array_equal(feature, one) for one in candidates)
    assert not DigestIndex(store, load_encoder(NEW).space)
    group = zarr.open_group(
        f"{store.location}/features/a/f/segments/{store.features('a/f').record.segments[0].name}", mode="r"
    )
    prefix, row = group["digest_index/prefix"][:], group["digest_index/row"][:]
    assert (prefix[:-1] <= prefix[1:]).all()
    np.testing.assert_array_equal(digests[row][:, :8].copy().view("<u8")[:, 0], prefix)


def test_features_without_known_inputs_and_views_have_no_index(store):
    values = np.eye(8, dtype=np.float32)
    hand_made(store, "a", np.zeros((8, 16), np.uint8), values)
    view = store.plan_features(store.dataset("a"), "f.v1", SPACE, np.dtype("f4"), shard_rows=8)
    view.publish(0, values, digests=np.ones((8, 16), np.uint8))
    view.commit({})
    assert [store.features(name).record.segments[0].indexed for name in ("a/f", "a/f.v1")] == [0, 0]
    assert store.files.names("spaces") == []
    assert not DigestIndex(store, SPACE)
