"""What is exported and imported again is the same, in every format; and strangers open it without featstore."""

import csv
import json
import unicodedata

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.convert import export_features, import_features
from featstore.errors import AlreadyExistsError, BadInputError, IncompleteError, NotFoundError, UsageError
from featstore.store import Categories, NewRows, Store
from tests.store_factory import add_set

SUFFIXES = [".npz", ".npy", ".h5", ".parquet", ".safetensors", ".zarr"]
BESIDE = {".npy", ".safetensors"}

# NUL cannot be held by most formats (tested below); '' is a missing text in all of them
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
names = st.one_of(texts, st.sampled_from(["7", "007", "1e3", "nan", "-1", "true", "ä", "a,b", 'say "x"', "two\nlines"]))


@st.composite
def sets(draw):
    ids = draw(st.lists(names, min_size=1, max_size=12, unique_by=lambda text: unicodedata.normalize("NFC", text)))
    n = len(ids)

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    columns = {
        "size": np.array(column(st.integers(-(2**63), 2**63 - 1)), dtype=np.int64),
        "score": np.array(column(st.floats()), dtype=np.float64),
        "camera": column(st.none() | names),
    }
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]))
    features = np.random.default_rng(n).normal(size=(n, draw(st.integers(1, 5)))).astype(dtype)
    valid = np.array(column(st.booleans()))
    valid[0] = True
    return NewRows(ids, column(st.none() | names), columns), features, valid


def make(store, rows, features, valid=None):
    store.create_dataset("d", rows)
    failed = () if valid is None else np.flatnonzero(~valid)
    add_set(store, "d", "f", features, failed=failed, shard_rows=4)
    return store.features("d/f")


def same_column(ours, theirs):
    if isinstance(ours, Categories):
        return isinstance(theirs, Categories) and ours.texts() == theirs.texts()
    return ours.dtype == theirs.dtype and np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_import_of_an_export_is_the_same(suffix, new_folder):
    @settings(max_examples=12, deadline=None)
    @given(sets())
    def check(made):
        folder = new_folder()
        first = make(Store.init(folder / "store"), *made)
        out = folder / f"out{suffix}"
        report = export_features(Store.open(folder / "store"), "d/f", out)
        rows = first.valid_rows()
        assert (report.rows, report.left_out) == (len(rows), first.rows - len(rows))
        again = Store.init(folder / "again")
        beside = out.with_suffix(".csv") if suffix in BESIDE else None
        assert import_features(again, out, "d/f", rows_file=beside, dtype=first.dtype.name).rows == len(rows)
        second = again.features("d/f")
        assert second.dtype == first.dtype
        np.testing.assert_array_equal(second.gather(np.arange(second.rows)), first.gather(rows))
        assert list(second.dataset.ids) == first.dataset.ids.take(rows)
        assert second.dataset.column_names == first.dataset.column_names
        for name in first.dataset.column_names:
            assert same_column(first.dataset.column(name)[rows], second.dataset.column(name)), name

    check()


VALUES = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
IDS = [f"k{n % 3}/ä{n}.png" for n in range(9)]
LABELS = [None if n == 4 else f"k{n % 3}" for n in range(9)]


@pytest.fixture
def store(tmp_path):
    store = Store.init(tmp_path / "store")
    make(store, NewRows(IDS, LABELS, {"size": np.arange(9)}), VALUES)
    return store


def test_strangers_open_what_was_exported(store, tmp_path):
    written = {suffix: tmp_path / f"out{suffix}" for suffix in SUFFIXES}
    for suffix, path in written.items():
        path.parent.mkdir(exist_ok=True)
        export_features(store, "d/f", path, overwrite=True)  # .npy and .safetensors share out.csv
        assert not list(tmp_path.glob(".*")), suffix
    labels = [label or "" for label in LABELS]

    group = zarr.open_group(written[".zarr"], mode="r")
    np.testing.assert_array_equal(group["features"][:], VALUES)
    assert group["ids"][:].tolist() == IDS
    assert group["labels"][:].tolist() == labels
    assert group["size"][:].tolist() == list(range(9))

    with np.load(written[".npz"], allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["features"], VALUES)
        assert archive["ids"].tolist() == IDS
        assert archive["labels"].tolist() == labels
    np.testing.assert_array_equal(np.load(written[".npy"], allow_pickle=False), VALUES)
    np.testing.assert_array_equal(safetensors.numpy.load_file(written[".safetensors"])["features"], VALUES)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["ids"] for line in lines] == IDS
    assert [line["size"] for line in lines] == [str(n) for n in range(9)]
    with h5py.File(written[".h5"]) as file:
        assert file["features"].chunks is None
        np.testing.assert_array_equal(file["features"], VALUES)
        assert file["ids"].asstr()[:].tolist() == IDS
    table = pq.read_table(written[".parquet"])
    np.testing.assert_array_equal(np.stack(table["features"].to_numpy()), VALUES)
    assert table["labels"].to_pylist() == LABELS


def test_the_zarr_of_an_export_has_a_checksum_on_every_chunk_and_nothing_but_arrays(store, tmp_path):
    export_features(store, "d/f", tmp_path / "out.zarr")
    codecs = json.loads((tmp_path / "out.zarr/features/zarr.json").read_text())["codecs"]
    assert [codec["name"] for codec in codecs] == ["bytes", "crc32c"]
    assert sorted(zarr.open_group(tmp_path / "out.zarr", mode="r").array_keys()) == [
        "features",
        "ids",
        "labels",
        "size",
    ]


def test_nothing_is_replaced_unasked(store, tmp_path):
    out = tmp_path / "out.npy"
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(AlreadyExistsError, match=r"out\.csv exists"):
        export_features(store, "d/f", out)
    assert (tmp_path / "out.csv").read_text() == "mine"
    export_features(store, "d/f", out, overwrite=True)
    folder = tmp_path / "photos.zarr"
    folder.mkdir()
    (folder / "me.jpg").write_bytes(b"x")
    with pytest.raises(AlreadyExistsError, match="other things"):
        export_features(store, "d/f", folder, overwrite=True)
    export_features(store, "d/f", tmp_path / "twice.zarr")
    export_features(store, "d/f", tmp_path / "twice.zarr", overwrite=True)
    with pytest.raises(UsageError, match="known file types"):
        export_features(store, "d/f", tmp_path / "x.txt")
    with pytest.raises(NotFoundError, match="does not exist"):
        export_features(store, "d/f", tmp_path / "nowhere/x.npz")


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr"])
def test_an_export_that_fails_leaves_nothing(tmp_path, suffix):
    store = Store.init(tmp_path / "store")
    make(store, NewRows(IDS, columns={"note": ["a\0b", *["c"] * 8]}), VALUES)
    with pytest.raises(BadInputError, match="NUL"):
        export_features(store, "d/f", tmp_path / f"out{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_set_without_features_is_not_exported(tmp_path):
    store = Store.init(tmp_path / "store")
    make(store, NewRows(IDS), VALUES, np.zeros(9, dtype=bool))
    with pytest.raises(IncompleteError, match="no row"):
        export_features(store, "d/f", tmp_path / "out.npz")


def test_columns_named_like_the_file_s_own_arrays_get_other_names(tmp_path):
    store = Store.init(tmp_path / "store")
    make(
        store,
        NewRows(IDS, columns={"ids": np.arange(9), "features": np.arange(9) * 2, "other_ids": np.arange(9) * 3}),
        VALUES,
    )
    export_features(store, "d/f", tmp_path / "out.npz")
    again = Store.init(tmp_path / "again")
    import_features(again, tmp_path / "out.npz", "d/f")
    columns = {name: again.dataset("d").column(name).tolist()[1] for name in again.dataset("d").column_names}
    assert columns == {"other_features": 2, "other_ids": 1, "other_ids_2": 3}
