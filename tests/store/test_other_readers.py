"""What featstore writes is plain Zarr v3: other programs open it and read the same values."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import zarr

from featstore.spaces import Space
from featstore.store import NewRows, RowStatus, Store

ROWS, D = 75, 12


def write(place, dtype):
    """Rows of which some failed, with labels and ids, in three shards of two chunks each, the last one short."""
    values = np.random.default_rng(0).normal(size=(ROWS, D)).astype(dtype)
    store = Store.init(place)
    ids = [f"ä/{n}.jpg" for n in range(ROWS)]
    store.create_dataset("d", NewRows(ids=ids, labels=[f"c{n % 4}" for n in range(ROWS)]))
    status = np.where(np.arange(ROWS) % 11 == 3, RowStatus.FAILED, RowStatus.VALID).astype(np.uint8)
    values[status == RowStatus.FAILED] = np.nan
    job = store.plan_features(store.dataset("d"), "f", Space.named("x", D), np.dtype(dtype), shard_rows=32)
    digests = np.random.default_rng(1).integers(0, 256, (ROWS, 16), dtype=np.uint8)
    for shard in job.pending():
        start, stop = job.shard_range(shard)
        job.publish(shard, values[start:stop], status=status[start:stop].copy(), digests=digests[start:stop].copy())
    job.commit({})
    segment = f"features/d/f/segments/{store.features('d/f').record.segments[0].name}"
    rows = f"datasets/d/segments/{store.dataset('d').record.segments[0].name}"
    return store, segment, rows, {"features": values, "status": status, "input_digest": digests, "ids": ids}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_zarr_python(tmp_path, dtype):
    store, segment, rows, expected = write(tmp_path, dtype)
    group = zarr.open_group(store.files.where(segment), mode="r")
    for name in ("features", "status", "input_digest"):
        np.testing.assert_array_equal(group[name][:], expected[name])
    assert group["features"].dtype == dtype
    texts = zarr.open_group(store.files.where(rows), mode="r")
    offsets, data = texts["ids/offsets"][:], texts["ids/bytes"][:].tobytes()
    assert [data[a:b].decode() for a, b in pairwise(offsets)] == expected["ids"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_tensorstore(tmp_path, dtype):
    tensorstore = pytest.importorskip("tensorstore", reason="compares with tensorstore, which is not installed")
    store, segment, rows, expected = write(tmp_path, dtype)

    def read(key):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{store.files.where(key)}/"}}
        return tensorstore.open(spec, open=True, read=True).result().read().result()

    for name in ("features", "status", "input_digest"):
        np.testing.assert_array_equal(read(f"{segment}/{name}"), expected[name])
    offsets, data = read(f"{rows}/ids/offsets"), read(f"{rows}/ids/bytes").tobytes()
    assert [data[a:b].decode() for a, b in pairwise(offsets)] == expected["ids"]


def test_zarr_python_on_s3(bucket):
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    store, segment, _, expected = write(f"{bucket}/store", "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr calls its store for object stores experimental
        place = ObjectStore(
            from_url(f"{store.location}/{segment}", client_options={"allow_http": True}), read_only=True
        )
    group = zarr.open_group(place, mode="r")
    for name in ("features", "status", "input_digest"):
        np.testing.assert_array_equal(group[name][:], expected[name])


def test_equal_bytes_wherever_they_are_written(tmp_path, bucket):
    local, segment, _, _ = write(tmp_path, "float32")
    remote = write(f"{bucket}/store", "float32")[0]
    keys = [info.key for info in local.files.walk(segment)]
    assert sorted(keys) == sorted(info.key for info in remote.files.walk(segment))
    for key in keys:
        assert local.files.get(key) == remote.files.get(key)
