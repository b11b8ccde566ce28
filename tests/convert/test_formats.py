"""Files as users have them, in every layout that a format knows."""

import json
import sys
import warnings
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import zarr

from featstore.convert import export_features, import_features
from featstore.convert.formats import chunked, format_of
from featstore.errors import AlignmentError, BadInputError, MissingExtraError, UnknownNameError, UsageError
from featstore.store import Store

VALUES = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
IDS = [f"k{n % 3}/{n}.png" for n in range(30)]
ORDER = np.random.default_rng(1).permutation(30)


@pytest.fixture
def store(tmp_path):
    return Store.init(tmp_path / "store")


def check(store, path, *, keys=None, values=VALUES, ids=IDS, **options):
    """The file comes in as it is, as a new dataset and joined to one whose rows stand in another order."""
    number = len(store.datasets())
    report = import_features(store, path, f"d{number}/f", keys=keys, **options)
    made = store.features(report.set)
    np.testing.assert_array_equal(made.gather(np.arange(len(values))), values)
    assert list(made.dataset.ids) == ids
    np.savez(path.parent / "order.npz", features=values[ORDER], ids=np.array(ids)[ORDER])
    import_features(store, path.parent / "order.npz", f"o{number}/f")
    if ids[0] != "0":
        import_features(store, path, f"o{number}/g", keys=keys, **options)
        np.testing.assert_array_equal(store.features(f"o{number}/g").take_ids(ids), values)
    return made


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"chunks": (7, 6), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (4, 2)},
        {"chunks": (30, 1), "compression": "lzf"},
        {"chunks": (1, 6)},
        {"maxshape": (None, 6)},
        {"dtype": ">f4"},
    ],
    ids=str,
)
@pytest.mark.parametrize("tall", [False, True])
def test_hdf5_in_any_layout(store, tmp_path, monkeypatch, layout, tall):
    monkeypatch.setattr(chunked, "_MAX_BAND_BYTES", 1 if tall else 1 << 20)
    monkeypatch.setattr(chunked, "block_rows", lambda _size: 8)
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file.create_dataset("emb", data=VALUES, **layout)
        file["ids"] = IDS
    check(store, tmp_path / "a.h5", keys={"features": "emb"})


def test_hdf5_takes_ids_from_the_group_of_the_features(store, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for part, sign in (("train", 1), ("test", -1)):
            file[f"{part}/emb"] = sign * VALUES
            file[f"{part}/ids"] = np.array([f"{part}/{text}" for text in IDS], dtype="S")
            file[f"{part}/size"] = sign * np.arange(30)
        file["alias"] = h5py.SoftLink("/test/emb")
        file["names"] = IDS
        file["test/loop"] = h5py.SoftLink("/test/loop")
        file["test/gone"] = h5py.SoftLink("nowhere")
    made = check(
        store, tmp_path / "a.h5", keys={"features": "test/emb"}, values=-VALUES, ids=[f"test/{t}" for t in IDS]
    )
    assert made.dataset.column("size").tolist() == [-n for n in range(30)]
    check(store, tmp_path / "a.h5", keys={"features": "alias"}, values=-VALUES, ids=[f"test/{t}" for t in IDS])
    check(store, tmp_path / "a.h5", keys={"features": "train/emb", "ids": "names"})
    with pytest.raises(UnknownNameError, match="test/emb"):
        import_features(store, tmp_path / "a.h5", "x/f")
    with pytest.raises(UnknownNameError, match="train/emb"):
        import_features(store, tmp_path / "a.h5", "x/f", keys={"features": "train"})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_compressed_or_not(store, tmp_path, save, order):
    save(tmp_path / "a.npz", features=np.array(VALUES, order=order), ids=np.array(IDS), table=VALUES)
    check(store, tmp_path / "a.npz")


@pytest.mark.parametrize("array", [VALUES, np.asfortranarray(VALUES), VALUES.astype(">f4"), VALUES.astype("<f8")])
def test_npy_of_any_order(store, tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with (tmp_path / "rows.csv").open("w") as stream:
        stream.writelines(["path\n", *[f"{text}\n" for text in IDS]])
    check(store, tmp_path / "a.npy", keys={"ids": "path"}, rows_file=tmp_path / "rows.csv")


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32(), 6),
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.fixed_shape_tensor(pa.float32(), [6]),
    ],
    ids=str,
)
def test_parquet_with_lists(store, tmp_path, kind):
    storage = kind.storage_type if isinstance(kind, pa.FixedShapeTensorType) else kind
    vectors = pa.array(VALUES.tolist(), storage)
    if storage is not kind:
        vectors = pa.ExtensionArray.from_storage(kind, vectors)
    table = pa.table(
        {
            "path": IDS,
            "emb": vectors,
            "label": pa.array([None if n == 3 else f"k{n % 3}" for n in range(30)]).dictionary_encode(),
            "size": pa.array([None if n == 5 else n for n in range(30)], pa.int32()),
            "sharp": pa.array([None if n == 2 else n % 2 == 0 for n in range(30)]),
            "when": pa.array([0] * 30, pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    made = check(store, tmp_path / "a.parquet", keys={"features": "emb", "ids": "path"})
    assert made.dataset.labels.texts()[:4] == ["k0", "k1", "k2", None]
    size = made.dataset.column("size")
    assert np.isnan(size[5])
    assert size[6] == 6
    assert made.dataset.column("sharp").texts()[:4] == ["true", "false", None, "false"]
    assert made.dataset.column_names == ["label", "sharp", "size"]


def test_parquet_with_a_column_for_each_component(store, tmp_path):
    columns = {"ids": IDS, "dim_x": IDS, **{f"dim_{n}": VALUES[:, n] for n in (3, 1, 0, 2, 5, 4)}}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=11)
    check(store, tmp_path / "a.parquet", keys={"features": "dim_*"})
    pq.write_table(pa.table({"ids": IDS, **{str(n + 1): VALUES[:, n] for n in range(6)}}), tmp_path / "b.parquet")
    check(store, tmp_path / "b.parquet", keys={"features": "*"})
    pq.write_table(pa.table({"ids": IDS, **{str(n): VALUES[:, n] for n in (0, 1, 3)}}), tmp_path / "c.parquet")
    with pytest.raises(BadInputError, match="no 2"):
        import_features(store, tmp_path / "c.parquet", "x/f", keys={"features": "*"})
    with pytest.raises(UnknownNameError):
        import_features(store, tmp_path / "c.parquet", "x/f", keys={"features": "emb*"})


def test_parquet_needs_pyarrow(store, tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"featstore\[parquet\]"):
        import_features(store, tmp_path / "a.parquet", "d/f")
    np.savez(tmp_path / "a.npz", features=VALUES)
    import_features(store, tmp_path / "a.npz", "d/f")
    with pytest.raises(MissingExtraError, match="pyarrow"):
        export_features(store, "d/f", tmp_path / "out.parquet")


def test_safetensors_with_ids_in_the_metadata_and_numbers_as_tensors(store, tmp_path):
    metadata = {"ids": json.dumps(IDS), "labels": json.dumps(["a", None, *["b"] * 28]), "model": "resnet", "note": "[1"}
    safetensors.numpy.save_file(
        {"features": VALUES, "size": np.arange(30)}, tmp_path / "a.safetensors", metadata=metadata
    )
    made = check(store, tmp_path / "a.safetensors")
    assert made.dataset.labels.texts()[:3] == ["a", None, "b"]
    assert made.dataset.column("size").tolist() == list(range(30))


def test_bfloat16_is_stored_as_float32_exactly(store, tmp_path):
    tensor = torch.from_numpy(VALUES).to(torch.bfloat16)
    safetensors.torch.save_file({"emb": tensor, "scale": tensor[:, 0].contiguous()}, tmp_path / "a.safetensors")
    report = import_features(store, tmp_path / "a.safetensors", "d/f", keys={"features": "emb"})
    assert report.dtype == "float32"
    np.testing.assert_array_equal(store.features("d/f").gather(np.arange(30)), tensor.float().numpy())
    assert store.dataset("d").column_names == []
    halves = torch.eye(4, 6, dtype=torch.bfloat16)
    safetensors.torch.save_file({"features": halves}, tmp_path / "b.safetensors")
    assert import_features(store, tmp_path / "b.safetensors", "e/f").dtype == "float32"
    assert (
        import_features(store, tmp_path / "b.safetensors", "e/g", dtype="float16", by_position=True).dtype == "float16"
    )


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (7, 6)},
        {"chunks": (7, 4), "compressors": None},
        {"chunks": (4, 6), "shards": (12, 6)},
        {"chunks": (30, 1)},
        {"chunks": (8, 3), "dtype": ">f4"},
    ],
    ids=str,
)
def test_a_foreign_zarr_group(store, tmp_path, monkeypatch, version, layout):
    if version == 2 and "shards" in layout:
        version = 3  # Zarr v2 has no shards
    monkeypatch.setattr(chunked, "_MAX_BAND_BYTES", 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
        inner = root.create_group("model")
        inner.create_array("emb", shape=VALUES.shape, **{"dtype": "float32", **layout})[:] = VALUES
        inner.create_array("ids", data=np.array(IDS), chunks=(8,))
        inner.create_array("labels", data=np.arange(30) % 3 - 1)
        inner.create_array("sharp", data=np.arange(30) % 2 == 0)
    made = check(store, tmp_path / "a.zarr", keys={"features": "model/emb"})
    assert made.dataset.labels.texts()[:3] == [None, "0", "1"]
    assert made.dataset.column("sharp").texts()[:2] == ["true", "false"]
    with pytest.raises(UnknownNameError, match="model/emb"):
        import_features(store, tmp_path / "a.zarr", "x/f")


def test_a_bare_zarr_array_and_a_store_s_own_segment(store, tmp_path):
    zarr.create_array(tmp_path / "bare", data=VALUES, chunks=(8, 6))
    check(store, tmp_path / "bare", ids=[str(n) for n in range(30)])
    segment = next((tmp_path / "store/features/d0/f/segments").iterdir())
    check(store, segment, ids=[str(n) for n in range(30)])


def test_formats_are_told_by_their_ending(tmp_path):
    assert format_of(tmp_path / "A.NPZ") is format_of(tmp_path / "b.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file.zarr").write_bytes(b"")
    for name in ("x.pt", "folder.npz", "file.zarr", "folder"):
        with pytest.raises(UsageError):
            format_of(tmp_path / name)


def test_what_is_no_column_is_said(store, tmp_path):
    class Notes(list):
        def start(self, *_args, **_more): ...
        def advance(self, _n): ...

        note = list.append

    notes = Notes()
    np.savez(
        tmp_path / "a.npz", features=VALUES, table=VALUES, **{"Class Name": np.arange(30), "class_name": np.arange(30)}
    )
    import_features(store, tmp_path / "a.npz", "d/f", progress=notes)
    assert notes == ["'table' is not imported: its shape is (30, 6)"]
    assert store.dataset("d").column_names == ["class_name", "class_name_2"]
    notes.clear()
    np.savez(tmp_path / "b.npz", features=-VALUES, ids=np.arange(30), size=np.arange(30))
    import_features(store, tmp_path / "b.npz", "d/g", progress=notes)
    assert notes == ["the dataset keeps its own columns; not imported: size"]
    np.savez(tmp_path / "c.npz", features=VALUES, labels=np.eye(30))
    with pytest.raises(BadInputError, match="labels"):
        import_features(store, tmp_path / "c.npz", "e/f")
    np.savez(tmp_path / "c.npz", features=VALUES, size=np.arange(29))
    with pytest.raises(AlignmentError, match="'size'"):
        import_features(store, tmp_path / "c.npz", "e/f")


def test_a_zip_member_that_is_no_array_is_refused(store, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", b"not an array")
    with pytest.raises(BadInputError, match="cannot be read"):
        import_features(store, tmp_path / "a.npz", "d/f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,n\na,1\nb,2\n", [1, 2]),
        ("id,n\na,1.5\nb,\n", [1.5, None]),
        ("id,n\na,007\nb,7\n", ["007", "7"]),
        ('"id","n"\n"a","7"\n"b",""\n', ["7", None]),
        ('"id","n"\n"a",7\n"b",8\n', [7, 8]),
        ('"id","n"\n"a",nan\n"b",1.0\n', [None, 1.0]),
        ("\ufeffid,n\r\na,x\r\n\r\nb,\r\n", ["x", None]),
        ("id,n\na,99999999999999999999\nb,1\n", ["99999999999999999999", "1"]),
    ],
)
def test_columns_of_a_csv(store, tmp_path, text, expected):
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8", newline="")
    np.save(tmp_path / "a.npy", VALUES[:2])
    import_features(store, tmp_path / "a.npy", "d/f", rows_file=tmp_path / "rows.csv")
    column = store.dataset("d").column("n")
    values = column.texts() if hasattr(column, "texts") else [None if np.isnan(v) else v for v in column.tolist()]
    assert values == expected
    assert list(store.dataset("d").ids) == ["a", "b"]
