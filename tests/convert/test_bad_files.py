"""Files that are hostile or simply wrong: a typed error with a hint, and nothing written."""

import io
import json
import pickle
import struct
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from featstore.convert import import_features
from featstore.convert.formats import chunked
from featstore.errors import AlignmentError, BadInputError, FeatstoreError, NonFiniteError, UnknownNameError
from featstore.store import Store

VALUES = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
IDS = [f"k/{n}.png" for n in range(12)]


@pytest.fixture
def store(tmp_path):
    return Store.init(tmp_path / "store")


def refused(store, path, match, kind=BadInputError, **options):
    with pytest.raises(kind, match=match) as caught:
        import_features(store, path, "d/f", **options)
    assert caught.value.hint, "says what to do next"
    assert store.datasets() == [], "nothing half-written"


# --- npy and npz -------------------------------------------------------------------------------------------------------


def npy_header(shape, descr="<f4", fortran=False):
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "cannot be read"),
        (pickle.dumps(VALUES), "cannot be read"),
        (npy_header((2**40, 64)) + VALUES.tobytes(), "281,474,976,710,656 bytes"),
        (npy_header((2**62, 2**62)), "truncated or damaged"),
        (npy_header((12, 5)) + VALUES.tobytes(), "truncated"),
        (npy_header((11, 4)) + VALUES.tobytes(), "16 bytes after"),
        (npy_header((-12, -4)) + VALUES.tobytes(), "records"),
        (npy_header((12, 4), "|O") + VALUES.tobytes(), "pickled objects"),
        (npy_header((12, 4), [("a", "<f4")]) + VALUES.tobytes(), "records"),
        (npy_header((12, 4), "<U1") + VALUES.tobytes(), "not numbers"),
        (npy_header((12, 2), "<c8") + VALUES.tobytes(), "not numbers"),
        (npy_header((12, 4), "|b1") + VALUES.tobytes()[:48], "not numbers"),
        (npy_header((48,)) + VALUES.tobytes(), "shape"),
        (npy_header((12, 0)), "shape"),
        (npy_header((0, 4)), "shape"),
        (npy_header((3, 4, 4)) + VALUES.tobytes(), "shape"),
        (npy_header("open('x')") + VALUES.tobytes(), "cannot be read"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535, "cannot be read"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"{" * 100, "cannot be read"),
        (b"\x93NUMPY\x09\x00" + npy_header((12, 4))[8:] + VALUES.tobytes(), "cannot be read"),
    ],
)
def test_bad_npy(store, tmp_path, content, match):
    (tmp_path / "a.npy").write_bytes(content)
    refused(store, tmp_path / "a.npy", match)
    if match not in ("16 bytes after", "truncated", "cannot be read"):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("features.npy", content)
        refused(store, tmp_path / "a.npz", f"{match}|but holds")


def test_bad_npz(store, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK")
    refused(store, path, "cannot be read")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", npy_header((12, 4)) + VALUES.tobytes() + b"more")
    refused(store, path, "but holds 196")
    np.savez(path, features=VALUES, ids=np.array([{}] * 12, dtype=object))
    refused(store, path, "pickled")
    np.savez(path, features=VALUES, ids=np.arange(12.0))
    refused(store, path, "ids")
    np.savez(path, features=VALUES, ids=np.array(IDS[:11]))
    refused(store, path, "11 ids", AlignmentError)
    np.savez(path, features=VALUES, ids=np.array([*IDS[:11], ""]))
    refused(store, path, "row 11 of .* has no id")
    np.savez(path, features=VALUES, ids=np.array([b"ok"] * 11 + [b"\xff\xfe"]))
    refused(store, path, "row 11 of 'ids' .* not UTF-8")
    np.savez(path, features=VALUES, when=np.array(["2024-01-01"] * 12, dtype="M8[D]"))
    refused(store, path, "neither text nor numbers")
    np.savez(path, emb=VALUES)
    refused(store, path, "emb|features", UnknownNameError)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", npy_header((12, 4)) + VALUES.tobytes())
        archive.writestr("ids.npy", npy_header((12,), "<U99999999"))
    refused(store, path, "but holds 0")


def test_the_bytes_of_an_archive_are_never_taken_whole(store, tmp_path):
    """A megabyte that unpacks to a gigabyte of zeros is read in blocks, and refused for its zeros."""
    buffer = io.BytesIO(npy_header((1 << 18, 1 << 8)))
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("features.npy", "w") as out,
    ):
        out.write(buffer.getvalue())
        for _ in range(64):
            out.write(bytes(1 << 22))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    refused(store, tmp_path / "a.npz", "nothing but zeros in 262,144 of ")


def test_a_flipped_byte_inside_an_archive_is_found(store, tmp_path):
    np.savez(tmp_path / "a.npz", features=VALUES)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(VALUES.tobytes()) + 100] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    refused(store, tmp_path / "a.npz", "CRC")


# --- safetensors -------------------------------------------------------------------------------------------------------


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "body", "match"),
    [
        ({"features": entry([12, 4], 0, 192)}, 191, "cannot be read"),
        ({"features": entry([12, 4], 0, 192)}, 193, "cannot be read"),
        ({"features": entry([12, 4], 0, 192), "ids": entry([12, 4], 0, 192)}, 192, "cannot be read"),
        ({"features": entry([12, 4], 8, 200)}, 200, "cannot be read"),
        ({"features": entry([12, 4], 192, 0)}, 192, "cannot be read"),
        ({"features": entry([12, 5], 0, 192)}, 192, "cannot be read"),
        ({"features": entry([-12, -4], 0, 192)}, 192, "cannot be read"),
        ({"features": entry([2**40, 2**40], 0, 192)}, 192, "cannot be read"),
        ({"features": entry([12, 4], 0, 192, "F33")}, 192, "cannot be read"),
        ({"features": entry([12, 16], 0, 192, "F8_E4M3")}, 192, "F8_E4M3"),
        ({"features": entry([192], 0, 192, "U8")}, 192, "shape"),
        (b"[]", 0, "cannot be read"),
        (b"\xff\xfe", 0, "cannot be read"),
        (b"{" * 10000, 0, "cannot be read"),
    ],
)
def test_bad_safetensors(store, tmp_path, header, body, match):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"\x01" * body)
    refused(store, tmp_path / "a.safetensors", match)


@pytest.mark.parametrize("length", [0, 7, 100_000_001, 2**63, 2**64 - 1])
def test_a_safetensors_header_of_any_claimed_length(store, tmp_path, length):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    refused(store, tmp_path / "a.safetensors", "cannot be read")


# --- HDF5 --------------------------------------------------------------------------------------------------------------


def test_bad_hdf5(store, tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    refused(store, path, "cannot be read")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = VALUES
    layout = h5py.VirtualLayout(shape=(12, 4), dtype="f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "features", shape=(12, 4))
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "features")
        file["soft"] = h5py.SoftLink("/link")
        file["loop"] = h5py.SoftLink("/loop")
        file.create_group("group")["over"] = h5py.SoftLink("/link")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (12, 4), "f4", external=[(str(tmp_path / "raw.bin"), 0, 192)])
        file.create_dataset("holes", (2**40, 2**20), "f4", chunks=(1024, 1024))
        file.create_dataset("never", (12, 4), "f4")
        file.create_dataset("ragged", (12,), h5py.vlen_dtype(np.float32))
        file.create_dataset("text", (12, 4), h5py.string_dtype())
        file["record"] = np.zeros(12, dtype=[("a", "f4"), ("b", "f4")])
        file["empty"] = h5py.Empty("f4")
        file["scalar"] = 1.0
        partly = file.create_dataset("partly", (12, 4), "f4", chunks=(4, 4))
        partly[:8] = VALUES[:8]
    for key, match in {
        "link": "another file", "soft": "another file", "group/over": "another file", "loop": "without an end",
        "virtual": "other files", "raw": "other files", "holes": "never written", "never": "never written",
        "partly": "never written", "ragged": "shape", "text": "not numbers|never written", "record": "shape",
        "empty": "shape", "scalar": "shape",
    }.items():  # fmt: skip
        refused(store, path, match, keys={"features": key})
    for key in ("group", "nothing", "../other", "holes/x"):
        refused(store, path, "called", UnknownNameError, keys={"features": key})
    with h5py.File(path, "w") as file:
        file["features"] = VALUES
        file["ids"] = h5py.ExternalLink("other.h5", "features")
    refused(store, path, "ids.*link to another file")


def test_chunks_too_large_for_bounded_memory_are_refused(store, tmp_path, monkeypatch):
    monkeypatch.setattr(chunked, "_MAX_CHUNK_BYTES", 100)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=VALUES, chunks=(12, 4))
    refused(store, tmp_path / "a.h5", "bounded memory")


# --- parquet -----------------------------------------------------------------------------------------------------------


def lists(rows):
    return pa.array(rows, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("column", "match", "kind"),
    [
        (lists([[1.0, 2.0], None]), "are null", BadInputError),
        (lists([None, None]), "are null", BadInputError),
        (lists([[1.0, None], [1.0, 2.0]]), "are null", BadInputError),
        (lists([[1.0, 2.0], [1.0]]), "not all as long", AlignmentError),
        (lists([[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]]), "not all as long", AlignmentError),
        (lists([[], []]), "shape", BadInputError),
        (lists([]), "no rows", BadInputError),
        (pa.array([["a"], ["b"]]), "not numbers", BadInputError),
        (pa.array([[[1.0]], [[1.0]]]), "not numbers", BadInputError),
        (pa.array([1.0, 2.0]), "not a list", BadInputError),
        (pa.array([{"a": 1.0}]), "not a list", BadInputError),
        (pa.array([None, [1.0, 2.0]], pa.list_(pa.float32(), 2)), "are null", BadInputError),
    ],
)
def test_bad_parquet(store, tmp_path, column, match, kind):
    pq.write_table(pa.table({"features": column}), tmp_path / "a.parquet")
    refused(store, tmp_path / "a.parquet", match, kind)


def test_bad_parquet_columns(store, tmp_path):
    wide = {"e0": [1.0, None], "e1": [1.0, 2.0]}
    pq.write_table(pa.table(wide), tmp_path / "a.parquet")
    refused(store, tmp_path / "a.parquet", "are null", keys={"features": "e*"})
    pq.write_table(pa.table({"e0": ["a", "b"]}), tmp_path / "b.parquet")
    refused(store, tmp_path / "b.parquet", "not numbers", keys={"features": "e*"})
    pq.write_table(pa.table({"features": lists([[1.0], [2.0]]), "ids": ["a", None]}), tmp_path / "c.parquet")
    refused(store, tmp_path / "c.parquet", "row 1 .* has no id")
    pq.write_table(pa.table({"features": lists([[1.0], [2.0]]), "ids": [b"a", b"b"]}), tmp_path / "d.parquet")
    refused(store, tmp_path / "d.parquet", "ids.*binary")
    (tmp_path / "e.parquet").write_bytes(b"PAR1" + b"\xff" * 40 + b"PAR1")
    refused(store, tmp_path / "e.parquet", "cannot be read")


# --- Zarr --------------------------------------------------------------------------------------------------------------


def zarr_folder(path, version=3):
    root = zarr.open_group(path, mode="w", zarr_format=version)
    root.create_array("features", data=VALUES, chunks=(5, 4))
    return path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_bad_zarr(store, tmp_path):
    v3 = zarr_folder(tmp_path / "v3.zarr")
    document = v3 / "features/zarr.json"
    good = document.read_text()
    codecs = json.loads(good)["codecs"]
    for changes, match in (
        ({"codecs": [*codecs, {"name": "numcodecs.pickle", "configuration": {}}]}, "codec numcodecs.pickle"),
        ({"codecs": [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "evil"}]}}]}, "codec evil"),
        ({"data_type": "r64"}, "cannot be read|not read"),
        ({"data_type": {"name": "numpy.datetime64", "configuration": {"unit": "s"}}}, "not read|cannot be read"),
        ({"data_type": "complex64"}, "not read"),
        ({"shape": [10**12, 4]}, "missing or empty"),
        ({"shape": [10**30, 4]}, "missing or empty|cannot be read"),
        ({"shape": [12, -4]}, "cannot be read"),
        ({"shape": "many"}, "cannot be read"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 4]}}}, "cannot be read"),
        ({"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../../"}}}, "cannot be read"),
        ({"codecs": 7}, "cannot be read"),
    ):  # fmt: skip
        edit(document, **changes)
        refused(store, v3, match)
        document.write_text(good)
    for content in ("", "{", "[]", '"x"', good[:-20]):
        document.write_text(content)
        refused(store, v3, "cannot be read|called", FeatstoreError)
    document.write_text(good)
    chunk = v3 / "features/c/1/0"
    bytes_ = chunk.read_bytes()
    for content in (b"", bytes_[:-3], b"junk"):
        chunk.write_bytes(content)
        refused(store, v3, "missing or empty|cannot be read")
    chunk.unlink()
    refused(store, v3, "c/1/0 .* is missing")
    refused(store, v3, "called", UnknownNameError, keys={"features": "../v3.zarr/features"})


def test_bad_zarr_v2(store, tmp_path):
    v2 = zarr_folder(tmp_path / "v2.zarr", version=2)
    document = v2 / "features/.zarray"
    good = document.read_text()
    for changes, match in (
        ({"filters": [{"id": "pickle"}], "dtype": "|O"}, "codec pickle"),
        ({"compressor": {"id": "evil"}}, "codec evil"),
        ({"dtype": "|O"}, "not read"),
        ({"dtype": [["a", "<f4"]]}, "not read"),
        ({"dtype": "<M8[s]"}, "not read"),
        ({"shape": [10**9, 4]}, "missing"),
    ):
        edit(document, **changes)
        refused(store, v2, match)
        document.write_text(good)
    import_features(store, v2, "d/f")


def test_arrays_behind_symbolic_links_are_not_seen(store, tmp_path):
    zarr_folder(tmp_path / "a.zarr")
    root = zarr.open_group(tmp_path / "b.zarr", mode="w")
    root.create_array("other", data=VALUES)
    (tmp_path / "b.zarr/features").symlink_to(tmp_path / "a.zarr/features")
    refused(store, tmp_path / "b.zarr", "called", UnknownNameError)


# --- rows --------------------------------------------------------------------------------------------------------------


def test_rows_that_cannot_be(store, tmp_path):
    path = tmp_path / "a.npz"

    def save(values, **more):
        np.savez(path, features=values, ids=np.array(IDS), **more)
        return path

    bad = VALUES.copy()
    bad[3], bad[7, 1] = np.nan, np.inf
    refused(store, save(bad), r"NaN or infinity in 2 of \d+ rows: k/3\.png, k/7\.png", NonFiniteError)
    bad = VALUES.copy()
    bad[5] = 0
    bad[6] = -0.0
    refused(store, save(bad), r"nothing but zeros in 2 of \d+ rows: k/5\.png, k/6\.png")
    assert import_features(store, path, "zero/f", zero_rows="keep").rows == 12
    refused(Store.init(tmp_path / "s2"), save(VALUES * 1e6), "do not fit float16", NonFiniteError, dtype="float16")
    refused(Store.init(tmp_path / "s2"), save(VALUES * 1e-30), "nothing but zeros", dtype="float16")
    refused(Store.init(tmp_path / "s2"), save(np.full((12, 2), 2**53 + 1)), "do not fit float64", NonFiniteError)
    assert import_features(store, path, "big/f", dtype="float64").dtype == "float64"


def test_bad_csv(store, tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    rows = tmp_path / "rows.csv"
    good = ["id,label", *[f"{text},a" for text in IDS]]
    for content, match, kind in (
        (b"", "no rows", BadInputError),
        (b"id\n", "no rows", BadInputError),
        ("\n".join(good[:-1]).encode(), "has 11 rows", AlignmentError),
        ("\n".join([*good, "x"]).encode(), "line 14: 1 fields", BadInputError),
        ("\n".join(good).encode() + b"\xff", "not UTF-8", BadInputError),
        ("\n".join(["id,id", *good[1:]]).encode(), "two columns", BadInputError),
        ("\n".join([*good[:-1], '"k,a']).encode(), "line 13", BadInputError),
        (b"id,label\n" + b"x" * 200_000 + b",a\n", "line 2", BadInputError),
    ):
        rows.write_bytes(content)
        refused(store, tmp_path / "a.npy", match, kind, rows_file=rows)
