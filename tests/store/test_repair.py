"""Repair: every kind of file, deleted, cut off or flipped, mended from a copy; rows from elsewhere where there is none."""

import shutil

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.extract import EncodeAgain, ExtractRequest, extract
from featstore.spaces import Space
from featstore.store import NewRows, RowStatus, Store, repair, restore_marker, verify
from featstore_cli.main import run as featstore
from tests.extract.conftest import make_images
from tests.store_factory import add_set

OLD = "python:tests.extract.factories:old"


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 3] ^= 4
        path.write_bytes(data)


def contents(store):
    return {p.relative_to(store.files.root): p.read_bytes() for p in store.files.root.rglob("*") if p.is_file()}


def copied(store, tmp_path, name="copy"):
    return Store.open(shutil.copytree(store.location, tmp_path / name))


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
def test_every_kind_of_file_is_put_back_from_a_copy(small, tmp_path, how):
    store = copied(small, tmp_path)
    before = contents(store)
    for name in before:
        path = store.files.root / name
        if name.name in ("plan.json", "featstore.json") or "alive" in name.parts:
            continue
        if how == "delete" and "tags" in name.parts:
            continue  # a tag that is gone is a tag that was never there
        if how == "delete" and name.as_posix() == "datasets/d/versions/1.json":
            continue  # an older version may have been dropped on purpose
        damage(path, how)
        report = repair(store, copy=small.location)
        assert report.mended, (name, report)
        assert len(report.restored) == 1, (name, report)
        assert report.replaced == [], name
        assert contents(store) == before, name


def test_the_file_without_which_a_store_does_not_open(small, tmp_path):
    store = copied(small, tmp_path)
    assert not restore_marker(store.location, small.location)
    damage(store.files.root / "featstore.json", "truncate")
    assert featstore(["--store", store.location, "repair", "--from", small.location]) == 0
    assert contents(store) == contents(small)


def test_another_store_is_no_copy(small, tmp_path):
    store = copied(small, tmp_path)
    next(store.files.root.glob("features/d/f/segments/*/status/c.0")).unlink()
    other = Store.init(tmp_path / "other")
    with pytest.raises(UsageError, match="another store"):
        repair(store, copy=other.location)


def test_what_follows_from_other_files_needs_no_copy(small, tmp_path):
    store = copied(small, tmp_path)
    before = contents(store)
    follows = [
        "features/d/f/segments/*/zarr.json",
        "features/d/f/segments/*/*/zarr.json",
        "features/d/f/segments/*/digest_index/*/c.0",
        "features/d/f/segments/*/status/c.*",
        "features/d/f/plans/*/shards/[12].json",
        "spaces/*/d/f/*.json",
    ]
    paths = [path for pattern in follows for path in store.files.root.glob(pattern)]
    assert len(paths) == 13
    for path in paths:
        for how in ("delete", "flip"):
            damage(path, how)
            report = repair(store)
            assert report.mended, (path, report)
            assert len(report.restored) == 1
            assert contents(store) == before


# --- rows from elsewhere ----------------------------------------------------------------------------------------------

SPACE = Space.named("s", 6)
ROWS = 40
VALUES = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
INPUTS = np.random.default_rng(1).integers(0, 256, (ROWS, 16), dtype=np.uint8)


def filled(store, dataset, rows, dtype="f4"):
    store.create_dataset(dataset, NewRows(ids=[f"{n}.png" for n in rows]))
    part = np.asarray(rows)
    add_set(
        store,
        dataset,
        "f",
        VALUES[part].astype(dtype),
        space=SPACE,
        digests=INPUTS[part],
        shard_rows=8,
        provenance={"made by": "hand"},
    )
    store.tag(f"{dataset}/f", "live")


@pytest.fixture
def store(tmp_path):
    store = Store.init(tmp_path / "store")
    filled(store, "a", range(ROWS))
    return store


def shard_file(store, shard, dataset="a", array="features"):
    [path] = store.files.root.glob(f"features/{dataset}/f/segments/*/{array}/c.{shard}*")
    return path


def test_rows_of_other_sets_with_the_same_inputs_prove_the_bytes(store):
    filled(store, "b", list(range(20, 4, -1)))
    before = contents(store)
    damage(shard_file(store, 1), "delete")
    report = repair(store, "a/f")
    assert (report.mended, report.replaced) == (True, [])
    assert "digest index" in report.restored[0][1]
    assert contents(store) == before


def test_rows_that_nothing_has_are_named_and_stay_damaged_unless_given_up(store, capsys):
    filled(store, "b", range(8, 13))
    damage(shard_file(store, 1), "flip")
    before = contents(store)
    dry = repair(store, dry_run=True)
    assert [ids for _, _, ids in dry.unmended] == [("13.png", "14.png", "15.png")]
    assert contents(store) == before
    assert featstore(["--store", store.location, "repair"]) == 1
    said = capsys.readouterr().out
    assert "13.png, 14.png, 15.png" in said
    assert "--give-up" in said
    assert contents(store) == before

    report = repair(store, give_up=True)
    assert report.mended
    assert [(made.set, made.start, made.stop, made.given_up, made.sources) for made in report.replaced] == [
        ("a/f@2", 8, 16, 3, {"digest index": 5})
    ]
    features = store.features("a/f")
    kept = [row for row in range(ROWS) if row not in (13, 14, 15)]
    assert features.valid_rows().tolist() == kept
    np.testing.assert_array_equal(features.gather(kept), VALUES[kept])
    assert {failure.id: failure.stage for failure in features.failures()} == dict.fromkeys(
        ("13.png", "14.png", "15.png"), "repair"
    )
    assert (features.status()[13:16] == RowStatus.FAILED).all()
    record = features.record
    assert [(part.start, part.stop, part.offset) for part in record.segments] == [(0, 8, 0), (8, 16, 0), (16, 40, 16)]
    [marked] = record.damaged
    assert (marked.segment, marked.start, marked.stop) == (record.segments[0].name, 8, 16)
    assert marked.replaced_by == record.segments[1].name
    assert record.provenance["made by"] == "hand"
    assert record.parent == 1

    # a second repair of the same set, in a piece that is listed in part; the marks stay when rows are added
    damage(shard_file(store, 3), "truncate")
    assert repair(store, give_up=True).mended
    assert [(part.start, part.stop) for part in store.features("a/f").record.segments] == [
        (0, 8), (8, 16), (16, 24), (24, 32), (32, 40)
    ]  # fmt: skip
    store.append_rows("a", NewRows(ids=["more"]))
    job = store.plan_features(store.dataset("a"), "f", SPACE, np.dtype("f4"), shard_rows=8)
    job.publish(0, np.ones((1, 6), np.float32))
    job.commit({})
    assert len(store.features("a/f").record.damaged) == 2
    assert verify(store, full=True).problems == []


def test_lost_input_digests_cost_no_feature(store):
    damage(shard_file(store, 2, array="input_digest"), "flip")
    report = repair(store)
    assert report.mended
    assert [(made.start, made.stop, made.sources, made.digests_lost) for made in report.replaced] == [(16, 24, {}, 8)]
    features = store.features("a/f")
    np.testing.assert_array_equal(features.gather(np.arange(ROWS)), VALUES)
    expected = INPUTS.copy()
    expected[16:24] = 0
    np.testing.assert_array_equal(features.input_digests(), expected)


def test_sound_chunks_of_two_damaged_copies_make_one_sound_file(tmp_path):
    store = Store.init(tmp_path / "store")
    made = store.create_dataset("a", NewRows(ids=[str(n) for n in range(4096)]))
    values = np.random.default_rng(2).normal(size=(4096, 512)).astype(np.float32)
    job = store.plan_features(made, "f", Space.named("s", 512), np.dtype("f4"), shard_rows=4096)
    job.publish(0, values)
    job.commit({})
    before = contents(store)
    copy = copied(store, tmp_path)
    for place, at in ((store, 100), (copy, 5 << 20)):
        path = shard_file(place, 0)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    report = repair(store, copy=copy.location)
    assert report.mended
    assert report.restored[0][1] == "what is left of the shard, second copy"
    assert contents(store) == before


def test_images_are_encoded_again_unless_they_changed(tmp_path, capsys):
    images = tmp_path / "images"
    make_images(images, 30)
    store = Store.init(tmp_path / "store")
    extract(store, ExtractRequest(source=str(images), dataset="d", models={"old": OLD}, workers=1, batch=7))
    features = store.features("d/old")
    before = features.gather(np.arange(30))
    path = next(store.files.root.glob("features/d/old/segments/*/features/c.0.0"))
    damage(path, "flip")
    command = ["--store", store.location, "repair", "--images", str(images), "--model", f"old={OLD}"]
    assert featstore(command) == 0
    assert verify(store, full=True).problems == []
    np.testing.assert_allclose(store.features("d/old").gather(np.arange(30)), before, atol=1e-6)
    capsys.readouterr()
    assert featstore(command) == 0
    assert "nothing is damaged" in capsys.readouterr().out

    part = store.features("d/old").record.segments[0]
    damage(store.files.root / f"features/d/old/segments/{part.name}/features/c.0.0", "delete")
    changed = store.dataset("d").ids[3]
    (images / changed).write_bytes((images / store.dataset("d").ids[4]).read_bytes())
    report = repair(store, sources=[EncodeAgain(str(images), {"old": OLD})])
    assert [ids for _, _, ids in report.unmended] == [(changed,)]
    assert featstore(["--store", store.location, "repair", "--images", str(images)]) == 2
    other = "python:tests.extract.factories:other_old"
    report = repair(store, sources=[EncodeAgain(str(images), {"old": other})])
    assert "did not make" in report.unmended[0][1]
