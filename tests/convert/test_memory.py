"""Files larger than the memory they may take go in and out: the peak of anonymous memory is measured in a fresh process."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr

WIDTH = 4096
ROWS = 12_000  # 94 MiB of float16
MOST = 60 << 20
# pyarrow's allocator takes about 100 MiB whatever the file, so its file is twice as large
ROWS_OF_PARQUET = 24_000
MOST_FOR_PARQUET = 150 << 20
WORK = """
import json, sys, threading, time
from pathlib import Path
import h5py, pyarrow.parquet, safetensors, zarr
from featstore.convert import export_features, import_features, importing
from featstore.store import Store

importing.plan_shard_rows = lambda *_: 512  # shards stay small, so that what is seen is the reading and writing

def anonymous():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024

def watch():
    while running:
        seen.append(anonymous())
        time.sleep(0.002)

def peak_of(work, *arguments):
    global running, seen
    running, seen = True, [anonymous()]
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work(*arguments)
    finally:
        running = False
        watcher.join()
    return max(seen) - seen[0]

folder = Path(sys.argv[1])
store = Store.init(folder / "store")
peaks = {}
for number, name in enumerate(sys.argv[2:]):
    peaks[name] = [
        peak_of(import_features, store, folder / name, f"d{number}/f"),
        peak_of(export_features, store, f"d{number}/f", folder / f"{number}_{name}"),
    ]
print(json.dumps(peaks))
"""


def write(path):
    rows = ROWS_OF_PARQUET if path.suffix == ".parquet" else ROWS
    values = np.ones((rows, WIDTH), dtype=np.float16)
    if path.name == "tall.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=values, chunks=(ROWS, 8), compression="lzf")
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["features"] = values
    elif path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, features=values)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file({"features": values}, path)
    elif path.suffix == ".parquet":
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), WIDTH)
        pq.write_table(pa.table({"features": vectors}), path, row_group_size=rows, use_dictionary=False)
    else:
        zarr.create_group(path).create_array("features", data=values, chunks=(250, 2048))


def _most(name):
    return MOST_FOR_PARQUET if name.endswith(".parquet") else MOST


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is counted as Linux does")
@pytest.mark.parametrize(
    "names",
    [
        ["a.npz", "tall.h5", "a.safetensors"],
        pytest.param(["a.npy", "a.h5", "a.parquet", "a.zarr"], marks=pytest.mark.full),
    ],
    ids=" ".join,
)
def test_importing_and_exporting_hold_a_few_blocks_of_the_file(new_folder, names):
    folder = new_folder()
    for name in names:
        write(folder / name)
    done = subprocess.run([sys.executable, "-c", WORK, folder, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout)
    assert {name: both for name, both in peaks.items() if max(both) > _most(name)} == {}
