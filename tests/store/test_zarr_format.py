"""Segments are plain Zarr v3: what we write equals zarr-python's own bytes, and it reads what we wrote."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from featstore.errors import CorruptStoreError
from featstore.store.zarr_format import (
    array_metadata,
    chunk_key,
    decode_chunk,
    encode_chunk,
    encode_shard,
    index_bytes,
    read_regular_index,
    shard_bytes,
)


def zarr_file(folder: Path, values: np.ndarray, chunk: int, shard: int) -> tuple[dict[str, bytes], bytes]:
    """Shard files by number and the metadata that zarr-python writes for the same rows."""
    array = zarr.create_array(
        str(folder),
        shape=values.shape,
        chunks=(chunk, values.shape[1]),
        shards=(shard, values.shape[1]),
        dtype=values.dtype,
        compressors=[Crc32cCodec()],
        fill_value=float("nan"),
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
    array[:] = values
    files = {path.name: path.read_bytes() for path in folder.glob("c.*.0")}
    return files, (folder / "zarr.json").read_bytes()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 5),
    chunk=st.sampled_from([1, 2, 4]),
    chunks=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    hole=st.booleans(),
)
def test_shards_equal_zarr_pythons_bytes(tmp_path_factory, rows, width, chunk, chunks, dtype, hole):
    values = np.random.default_rng(0).normal(size=(rows, width)).astype(dtype)
    if hole:
        values[: min(chunk, rows)] = np.nan
    shard = chunk * chunks
    files, metadata = zarr_file(tmp_path_factory.mktemp("z") / "a", values, chunk, shard)
    for number, start in enumerate(range(0, rows, shard)):
        part = values[start : start + shard]
        ours = b"".join(bytes(piece) for piece in encode_shard(part, chunk, shard))
        assert ours == files[chunk_key("", number, 2).strip("/")]
        assert len(ours) == shard_bytes(len(part), width * values.itemsize, chunk, shard)
    assert array_metadata(values.shape, values.dtype, (chunk, width), shard=(shard, width)) == metadata


def test_the_index_tells_a_regular_shard_from_another_layout():
    values = np.ones((8, 3), dtype=np.float32)
    data = b"".join(bytes(piece) for piece in encode_shard(values, 2, 8))
    tail = data[-index_bytes(2, 8) :]
    assert read_regular_index(tail, 8, 12, 2, 8, where="x")
    assert not read_regular_index(tail, 6, 12, 2, 8, where="x")  # says four chunks where three were expected
    assert not read_regular_index(tail, 8, 8, 2, 8, where="x")
    damaged = bytearray(tail)
    damaged[3] ^= 1
    with pytest.raises(CorruptStoreError, match="index of x"):
        read_regular_index(bytes(damaged), 8, 12, 2, 8, where="x")


@given(st.integers(0, 19), st.integers(0, 7))
def test_every_flipped_bit_of_a_chunk_is_noticed(byte, bit):
    data = bytearray(b"".join(bytes(piece) for piece in encode_chunk(np.arange(4, dtype=np.float32), 4)))
    data[byte] ^= 1 << bit
    with pytest.raises(CorruptStoreError):
        decode_chunk(bytes(data), np.dtype("f4"), where="x")
