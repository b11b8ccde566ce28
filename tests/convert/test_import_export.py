"""Features in from npz, npy + csv and HDF5, and out again."""

import csv
import pickle

import h5py
import numpy as np
import pytest

from featstore.convert import export_features, import_features
from featstore.errors import (
    AlignmentError,
    AlreadyExistsError,
    BadInputError,
    NonFiniteError,
    NotFoundError,
    UnknownNameError,
    UsageError,
)
from featstore.store import Store

VALUES = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
IDS = [f"k{n % 3}/{n}.png" for n in range(12)]
LABELS = [f"k{n % 3}" for n in range(12)]


@pytest.fixture
def store(tmp_path):
    return Store.init(tmp_path / "store")


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_npz_makes_a_dataset_with_labels_and_columns(store, tmp_path):
    path = write_npz(tmp_path / "a.npz", emb=VALUES, label=np.arange(12) % 3, ids=np.array(IDS), size=np.arange(12.0))
    report = import_features(store, path, "d/old", keys={"features": "emb"})
    assert (report.rows, report.dtype, report.created, report.cached) == (12, "float32", True, False)
    features = store.features("d/old")
    np.testing.assert_array_equal(features.take_ids(IDS[::-1]), VALUES[::-1])
    assert features.dataset.labels.texts()[:4] == ["0", "1", "2", "0"]
    assert features.dataset.column("size").tolist() == list(range(12))
    assert features.space.identity == {"kind": "named", "name": "d/old"}
    assert import_features(store, path, "d/old", keys={"features": "emb"}).cached
    with pytest.raises(AlreadyExistsError, match="something else"):
        import_features(store, write_npz(tmp_path / "b.npz", features=-VALUES, ids=np.array(IDS)), "d/old")


def test_rows_join_by_id_in_any_order(store, tmp_path):
    import_features(
        store, write_npz(tmp_path / "a.npz", features=VALUES, ids=np.array(IDS), labels=np.array(LABELS)), "d/old"
    )
    order = np.random.default_rng(1).permutation(12)[:9]
    path = write_npz(tmp_path / "b.npz", features=VALUES[order] * 2, ids=np.array(IDS)[order])
    report = import_features(store, path, "d/new", space="better")
    assert (report.rows, report.absent, report.created) == (9, 3, False)
    new = store.features("d/new")
    np.testing.assert_array_equal(new.gather(np.sort(order)), VALUES[np.sort(order)] * 2)
    assert new.space.identity["name"] == "better"
    stranger = write_npz(tmp_path / "c.npz", features=VALUES, ids=np.array([*IDS[:11], "stranger"]))
    with pytest.raises(AlignmentError, match="stranger"):
        import_features(store, stranger, "d/other")
    twice = write_npz(tmp_path / "t.npz", features=VALUES, ids=np.array([*IDS[:11], IDS[0]]))
    with pytest.raises(BadInputError, match="stood there before"):
        import_features(store, twice, "d/other")
    other_labels = write_npz(tmp_path / "l.npz", features=VALUES, ids=np.array(IDS), labels=np.array(LABELS[::-1]))
    with pytest.raises(AlignmentError, match="another label"):
        import_features(store, other_labels, "d/other")


def test_position_joins_only_when_asked(store, tmp_path):
    import_features(store, write_npz(tmp_path / "a.npz", features=VALUES), "d/old")
    assert store.dataset("d").ids.take([0, 11]) == ["0", "11"]
    bare = write_npz(tmp_path / "b.npz", features=-VALUES)
    with pytest.raises(AlignmentError, match="--by-position"):
        import_features(store, bare, "d/new")
    import_features(store, bare, "d/new", by_position=True)
    with pytest.raises(AlignmentError, match="11 rows"):
        import_features(store, write_npz(tmp_path / "c.npz", features=VALUES[1:]), "d/c", by_position=True)


def test_npy_with_a_csv_of_rows(store, tmp_path):
    np.save(tmp_path / "a.npy", VALUES.astype(np.float16))
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "path", "Class Name", "code", "score"])
        writer.writerows([n, IDS[n], LABELS[n], f"0{n}", n / 2] for n in range(12))
    keys = {"ids": "path", "labels": "Class Name"}
    report = import_features(store, tmp_path / "a.npy", "d/old", keys=keys, rows_file=tmp_path / "rows.csv")
    assert report.dtype == "float16"
    dataset = store.dataset("d")
    assert dataset.labels.texts() == LABELS
    np.savez(tmp_path / "both.npz", features=VALUES, label=np.arange(12))
    import_features(store, tmp_path / "both.npz", "b/old", keys=keys, rows_file=tmp_path / "rows.csv")
    assert store.dataset("b").labels.texts() == LABELS
    assert store.dataset("b").column("other_label").tolist() == list(range(12))
    assert dataset.column("code").texts()[3] == "03"
    assert dataset.column("score")[3] == 1.5
    (tmp_path / "short.csv").write_text("id\na\n")
    with pytest.raises(AlignmentError, match="1 rows"):
        import_features(store, tmp_path / "a.npy", "e/old", rows_file=tmp_path / "short.csv")
    (tmp_path / "torn.csv").write_text("id,label\na\n")
    with pytest.raises(BadInputError, match="line 2"):
        import_features(store, tmp_path / "a.npy", "e/old", rows_file=tmp_path / "torn.csv")


def test_hdf5_any_layout_but_no_other_file(store, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("deep/emb", data=VALUES, chunks=(5, 2), compression="gzip")
        file.create_dataset("ids", data=IDS, dtype=h5py.string_dtype())
        file["labels"] = np.arange(12) % 3 - 1
    import_features(store, tmp_path / "a.h5", "d/old", keys={"features": "deep/emb"})
    np.testing.assert_array_equal(store.features("d/old").take_ids(IDS), VALUES)
    assert store.dataset("d").labels.texts()[:3] == [None, "0", "1"]
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["features"] = h5py.ExternalLink(str(tmp_path / "a.h5"), "deep/emb")
    with pytest.raises(BadInputError, match="another file"):
        import_features(store, tmp_path / "evil.h5", "e/old")
    layout = h5py.VirtualLayout(shape=(12, 6), dtype="f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "a.h5"), "deep/emb", shape=(12, 6))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("features", layout)
    with pytest.raises(BadInputError, match="other files"):
        import_features(store, tmp_path / "virtual.h5", "e/old")


def test_the_narrowest_lossless_type(store, tmp_path):
    halves = VALUES.astype(np.float16).astype(np.float32)
    assert import_features(store, write_npz(tmp_path / "a.npz", features=halves), "a/f").dtype == "float16"
    wide = VALUES.astype(np.float64) + 1e-12
    assert import_features(store, write_npz(tmp_path / "b.npz", features=wide), "b/f").dtype == "float64"
    assert (
        import_features(store, write_npz(tmp_path / "c.npz", features=wide), "c/f", dtype="float32").dtype == "float32"
    )
    small = np.arange(12, dtype=np.int8).reshape(4, 3)
    assert import_features(store, write_npz(tmp_path / "d.npz", features=small), "i/f").dtype == "float16"


def test_what_cannot_be_imported(store, tmp_path):
    with pytest.raises(NotFoundError):
        import_features(store, tmp_path / "nothing.npz", "d/f")
    with pytest.raises(UnknownNameError, match="emb"):
        import_features(store, write_npz(tmp_path / "a.npz", emb=VALUES), "d/f")
    with pytest.raises(BadInputError, match="shape"):
        import_features(store, write_npz(tmp_path / "b.npz", features=VALUES[0]), "d/f")
    (tmp_path / "p.npy").write_bytes(pickle.dumps(VALUES))
    with pytest.raises(BadInputError, match="cannot be read"):
        import_features(store, tmp_path / "p.npy", "d/f")
    np.savez(tmp_path / "o.npz", features=np.array([{}, {}], dtype=object))
    with pytest.raises(BadInputError, match="pickled"):
        import_features(store, tmp_path / "o.npz", "d/f")
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="known file types"):
        import_features(store, tmp_path / "x.pt", "d/f")
    with pytest.raises(UsageError, match="version"):
        import_features(store, tmp_path / "b.npz", "d/f@2")
    holes = VALUES.copy()
    holes[7] = np.inf
    with pytest.raises(NonFiniteError, match=r"k1/7\.png"):
        import_features(store, write_npz(tmp_path / "c.npz", features=holes, ids=np.array(IDS)), "h/f")
    assert not store.has_features("h/f")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5"])
def test_export_and_import_again_is_the_same(store, tmp_path, suffix):
    path = write_npz(
        tmp_path / "a.npz", features=VALUES, ids=np.array(IDS), labels=np.array(LABELS), size=np.arange(12)
    )
    import_features(store, path, "d/old")
    out = tmp_path / f"out{suffix}"
    report = export_features(store, "d/old", out)
    assert (report.rows, report.left_out) == (12, 0)
    rows_file = tmp_path / "out.csv" if suffix == ".npy" else None
    import_features(store, out, "again/old", rows_file=rows_file)
    again = store.features("again/old")
    np.testing.assert_array_equal(again.take_ids(IDS), VALUES)
    assert again.dataset.labels.texts() == LABELS
    assert again.dataset.column("size").tolist() == list(range(12))
    with pytest.raises(AlreadyExistsError, match="--overwrite"):
        export_features(store, "d/old", out)
    export_features(store, "d/old", out, overwrite=True)
    with pytest.raises(UsageError, match="known file types"):
        export_features(store, "d/old", tmp_path / "x.txt")
