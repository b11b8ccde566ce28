"""What is in a store: descriptions, sizes, differences and declarations, each against the definition."""

import numpy as np
import pytest

from featstore.convert import add_columns
from featstore.errors import AlignmentError, BadInputError, SpaceMismatchError, UnknownNameError, UsageError
from featstore.spaces import Space, check_comparable, comparable
from featstore.store import NewRows, RowFailure, RowStatus, Store, collect_garbage, compact, compare, describe, usage

VALUES = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def fill(store, name, values, *, space="s", failed=()):
    dataset = store.dataset(name.partition("/")[0])
    job = store.plan_features(
        dataset, name.partition("/")[2], Space.named(space, values.shape[1]), np.dtype("f4"), shard_rows=8
    )
    for shard in range(job.n_shards):
        start, stop = job.shard_range(shard)
        status = np.array(
            [RowStatus.FAILED if row in failed else RowStatus.VALID for row in range(start, stop)], np.uint8
        )
        failures = [
            RowFailure(row=row, id=str(row), stage="read", error="gone") for row in failed if start <= row < stop
        ]
        job.publish(shard, values[start:stop], status=status, failures=failures)
    job.commit({})


def rows(start, stop):
    ids = [f"{n}.png" for n in range(start, stop)]
    labels = ["ab"[n % 2] if n % 5 else None for n in range(start, stop)]
    return NewRows(ids=ids, labels=labels, columns={"size": np.arange(start, stop)})


@pytest.fixture
def store(tmp_path):
    store = Store.init(tmp_path / "store")
    store.create_dataset("d", rows(0, 30))
    fill(store, "d/f", VALUES, failed=(3, 4))
    return store


def test_a_set_in_numbers(store):
    store.remove_rows("d", ["4.png", "5.png", "6.png"])
    store.append_rows("d", rows(30, 32))
    found = describe(store.features("d/f"))
    assert (found.valid, found.failed, found.absent, found.removed) == (26, 1, 0, 3)
    valid = [n for n in range(30) if n not in (3, 4, 5, 6)]
    assert dict(found.classes) == {name: sum(1 for n in valid if n % 5 and "ab"[n % 2] == name) for name in ("a", "b")}
    assert found.unlabelled == sum(1 for n in valid if n % 5 == 0)
    norms = np.linalg.norm(VALUES[valid].astype(np.float64), axis=1)
    counts, edges = np.histogram(norms, bins=10)
    assert (found.norm_counts, found.norms_of) == (tuple(counts), 26)
    np.testing.assert_allclose(found.norm_edges, edges)
    assert sum(describe(store.features("d/f"), sample=7).norm_counts) == 7
    assert [failure.row for failure in store.features("d/f").failures()] == [3]


def test_sizes_add_up_to_the_files(store):
    def on_disk():
        return sum(path.stat().st_size for path in store.files.root.rglob("*") if path.is_file())

    marker = (store.files.root / "featstore.json").stat().st_size
    before = usage(store)
    assert [item.name for item in before] == ["d", "d/f"]
    assert sum(item.bytes for item in before) == on_disk() - marker
    assert [(item.history, item.unfinished) for item in before] == [(0, 0), (0, 0)]
    store.remove_rows("d", ["1.png"])
    compact(store, "d")
    after = {item.name: item for item in usage(store)}
    assert after["d/f"].history == before[1].newest
    assert after["d"].versions == 3
    for item in after.values():
        assert item.bytes == item.newest + item.history + item.unfinished + item.records
    assert [item.name for item in usage(store, "d")] == ["d", "d/f"]
    assert usage(store, "d/f") == [after["d/f"]]
    expected = sum(item.bytes for item in collect_garbage(store, dry_run=True).garbage)
    assert expected == 0
    with pytest.raises(UnknownNameError):
        usage(store, "e")


def test_differences_of_sets_are_those_of_their_rows(store):
    changed = VALUES.copy()
    changed[[7, 20], 2] += 0.5
    fill(store, "d/g", changed, space="t", failed=(9,))
    found = compare(store, "d/f", "d/g")
    assert (found.added, found.removed, found.changed, found.same) == (2, 1, 2, 25)
    assert found.examples == {"added": ["3.png", "4.png"], "removed": ["9.png"], "changed": ["7.png", "20.png"]}
    assert found.largest == pytest.approx(0.5, abs=1e-6)
    cosines = [float(VALUES[n] @ changed[n] / np.linalg.norm(VALUES[n]) / np.linalg.norm(changed[n])) for n in (7, 20)]
    assert found.lowest_cosine == pytest.approx(min(cosines), abs=1e-6)
    assert [(field.field, field.left, field.right) for field in found.fields] == [("name", "s", "t")]
    assert not found.equal

    # the same by id, over another dataset in another order
    order = np.random.default_rng(1).permutation(30)[:25]
    store.create_dataset("e", NewRows(ids=[f"{n}.png" for n in order]))
    fill(store, "e/f", VALUES[order])
    found = compare(store, "d/f", "e/f")
    lost = set(range(30)) - set(order.tolist()) - {3, 4}
    assert (found.removed, found.added) == (len(lost), len({3, 4} & set(order.tolist())))
    assert (found.changed, found.same) == (0, 25 - found.added)

    wide = compare(store, "d/f", "d/f")
    assert wide.equal
    with pytest.raises(UsageError, match="a dataset and a feature set"):
        compare(store, "d/f", "d")


def test_versions_before_and_after_a_compaction_are_equal(store):
    store.remove_rows("d", ["1.png"])
    compact(store, "d")
    found = compare(store, "d/f@1", "d/f")
    assert (found.left, found.right, found.same, found.equal) == ("d/f@1", "d/f@2", 27, True)
    found = compare(store, "d@1", "d")
    assert (found.same, found.removed, found.examples["removed"]) == (29, 1, ["1.png"])


def test_differences_of_datasets(store):
    store.append_rows("d", NewRows(ids=["new"], labels=["a"]))
    store.add_columns("d", {"split": ["x"] * 31, "size": np.array([*range(29), 99, 1])})
    store.relocate("d", "/elsewhere")
    found = compare(store, "d@1", "d")
    assert (found.same, found.added, found.changed) == (29, 1, 1)
    assert found.examples["changed"] == ["29.png"]
    assert [tuple(field) for field in found.fields] == [
        ("root", "(none)", "/elsewhere"),
        ("column split", "(none)", "there"),
    ]


def test_declared_spaces_are_comparable_until_it_is_taken_back(store):
    """Invariant 6: only what is declared, and only between those two."""
    fill(store, "d/g", VALUES, space="t")
    fill(store, "d/h", VALUES, space="u")
    fill(store, "d/wide", np.ones((30, 5), np.float32), space="w")

    def spaces(*names):
        return [store.features(f"d/{name}").space for name in names]

    with pytest.raises(SpaceMismatchError):
        check_comparable(*spaces("f", "g"), left_set="f", right_set="g")
    store.declare("d/f", "d/g", note="same weights")
    check_comparable(*spaces("f", "g"), left_set="f", right_set="g")
    assert comparable(*spaces("g", "f"))
    assert not comparable(*spaces("f", "h"))
    assert [made.note for made in store.declarations("d/g@1")] == ["same weights"]
    # compaction does not write it into the versions
    store.remove_rows("d", ["1.png"])
    compact(store, "d")
    assert comparable(*spaces("f", "g"))
    with pytest.raises(UsageError, match="nobody declared"):
        store.declare("d/f", "d/h", withdraw=True)
    store.declare("d/g", "d/f", withdraw=True)
    assert not comparable(*spaces("f", "g"))
    assert store.declarations("d/f") == []
    with pytest.raises(UsageError, match="one space"):
        store.declare("d/f", "d/f")
    with pytest.raises(AlignmentError, match="4 components"):
        store.declare("d/f", "d/wide")


def test_columns_of_a_csv_join_by_id(store, tmp_path):
    table = tmp_path / "more.csv"
    table.write_text("camera,id,Shot At,size\nnorth,3.png,7,1\nsouth,1.png,9,2\n")
    report = add_columns(store, "d", table)
    assert (report.dataset, report.columns, report.rows, report.left) == ("d@2", ("camera", "shot_at", "size"), 2, 28)
    dataset = store.dataset("d")
    assert dataset.column("camera").texts()[:4] == [None, "south", None, "north"]
    np.testing.assert_array_equal(dataset.column("shot_at")[:4], [np.nan, 9, np.nan, 7])
    assert dataset.column("size").tolist() == [0, 2, 2, 1, *range(4, 30)]
    table.write_text("id,camera\n2.png,east\n")
    add_columns(store, "d", table)
    assert store.dataset("d").column("camera").texts()[:4] == [None, "south", "east", "north"]
    whole = "\n".join(f"{n}.png,{n * 2}" for n in range(30))
    table.write_text(f"id,shot_at\n{whole}\n")
    add_columns(store, "d", table)
    assert store.dataset("d").column("shot_at").dtype == np.int64
    for text, error in (
        ("id,x\nnobody.png,1\n", AlignmentError),
        ("id,x\n1.png,1\n1.png,2\n", BadInputError),
        ("name,x\n1.png,1\n", BadInputError),
        ("id\n1.png\n", BadInputError),
        ("id,camera\n1.png,3\n", BadInputError),
        ("id,size\n1.png,big\n", BadInputError),
        ("id,a b,a_b\n1.png,1,2\n", BadInputError),
    ):
        table.write_text(text)
        with pytest.raises(error):
            add_columns(store, "d", table)
    assert store.dataset("d").version == 4
