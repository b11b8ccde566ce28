"""Opening a feature set of 10^8 rows: time and memory in a fresh process. The files are sparse, so the set costs no disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from featstore.spaces import Space
from featstore.store import Store
from featstore.store.log import Log
from featstore.store.records import DatasetVersion, FeatureSetVersion, RowSegment, VectorSegment
from featstore.store.zarr_format import chunk_key, encode_index, shard_bytes

ROWS, WIDTH, SHARD, CHUNK = 10**8, 256, 1 << 18, 1 << 12

_CHILD = """
import sys, time
from pathlib import Path
import numpy
from featstore.store import Store
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
before = anonymous()
began = time.perf_counter()
features = Store.open(sys.argv[1]).features("d/f")
opened = time.perf_counter() - began
row = features.row(87_654_321)
first = time.perf_counter() - began
assert features.rows == 10**8 and row.shape == (256,)
print(f"opening 10^8 × 256 float16: {1000 * opened:.1f} ms (reach < 50), with its first row {1000 * first:.1f} ms, "
      f"{(anonymous() - before) / 1024:.1f} MB of memory (reach < 50)")
"""


def opening(folder: Path) -> None:
    """Make the set, open it elsewhere, print."""
    store = Store.init(folder / "large")
    dataset = RowSegment(name="rows", start=0, stop=ROWS, digest="")
    Log(store.files, "datasets/d", DatasetVersion).commit(
        lambda _, number: DatasetVersion(
            name="d", number=number, parent=None, rows=ROWS, root=None, segments=(dataset,)
        )
    )
    row_bytes = WIDTH * 2
    for shard in range(-(-ROWS // SHARD)):
        rows = min(SHARD, ROWS - shard * SHARD)
        path = store.files.path(chunk_key("features/d/f/segments/all/features", shard, 2))
        path.parent.mkdir(parents=True, exist_ok=True)
        tail = b"".join(encode_index(rows, row_bytes, CHUNK, SHARD))
        with path.open("wb") as stream:
            os.ftruncate(stream.fileno(), shard_bytes(rows, row_bytes, CHUNK, SHARD))
            os.pwrite(stream.fileno(), tail, shard_bytes(rows, row_bytes, CHUNK, SHARD) - len(tail))
    segment = VectorSegment(
        name="all", start=0, stop=ROWS, group_rows=ROWS, shard_rows=SHARD, chunk_rows=CHUNK, valid=ROWS, digest=""
    )
    Log(store.files, "features/d/f", FeatureSetVersion).commit(
        lambda _, number: FeatureSetVersion(
            dataset="d", name="f", number=number, parent=None, rows=ROWS, dtype="float16",
            space=Space.named("bench", WIDTH), segments=(segment,),
        )
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", _CHILD, str(folder / "large")], check=True)
