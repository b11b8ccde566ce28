"""What `benchmarks/store.py` compares: each engine writes the rows once and reads them in its best known way."""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import zarr

from featstore.spaces import Space
from featstore.store import NewRows, Store, plan_shard_rows, publisher

BATCH = 1024
OPTIONAL = {"tensorstore": "tensorstore", "lance": "pylance", "datasets": "datasets"}


class Engine(Protocol):
    """An opened copy of the rows. `random_access` is false for engines that decode whole chunks for a row."""

    random_access: bool

    def __init__(self, folder: Path) -> None: ...

    @staticmethod
    def write(folder: Path, values: np.ndarray) -> None: ...

    def scan(self) -> None: ...

    def gather(self, rows: np.ndarray) -> np.ndarray: ...

    def row(self, row: int) -> np.ndarray: ...


class Raw:
    """A `.npy` file and a memory map."""

    random_access = True

    def __init__(self, folder: Path) -> None:
        self.rows = np.load(folder / "raw.npy", mmap_mode="r")

    @cached_property
    def places(self) -> dict[str, int]:
        """Row of each id, as a dictionary in memory."""
        return {f"image-{row:09d}.jpg": row for row in range(len(self.rows))}

    @staticmethod
    def write(folder: Path, values: np.ndarray) -> None:
        np.save(folder / "raw.npy", values)

    def scan(self) -> None:
        for start in range(0, len(self.rows), BATCH):
            np.array(self.rows[start : start + BATCH])

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.rows[rows]

    def row(self, row: int) -> np.ndarray:
        return np.array(self.rows[row])

    def by_id(self, name: str) -> np.ndarray:
        return np.array(self.rows[self.places[name]])


class Featstore:
    """A feature set."""

    random_access = True

    def __init__(self, folder: Path) -> None:
        self.features = Store.open(folder / "store").features("d/f")
        self.ids = self.features.dataset.ids

    @staticmethod
    def write(folder: Path, values: np.ndarray) -> None:
        write_featstore(folder / "store", values, ids=True)

    def scan(self) -> None:
        for _, block in self.features.scan():
            np.array(block)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.features.gather(rows)

    def row(self, row: int) -> np.ndarray:
        return self.features.row(row)

    def by_id(self, name: str) -> np.ndarray:
        return self.features.row(self.ids.row_of(name))


class ZarrPython:
    """zarr-python on featstore's own files."""

    random_access = False
    block = 65536

    def __init__(self, folder: Path) -> None:
        self.rows: Any = zarr.open_array(segment(folder) / "features", mode="r")

    @staticmethod
    def write(folder: Path, values: np.ndarray) -> None:
        """Reads what featstore wrote."""

    def scan(self) -> None:
        for start in range(0, self.rows.shape[0], self.block):
            np.asarray(self.rows[start : min(self.rows.shape[0], start + self.block)])

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.rows.oindex[np.sort(rows)]

    def row(self, row: int) -> np.ndarray:
        return self.rows[row]


class Tensorstore(ZarrPython):
    """tensorstore on featstore's own files."""

    def __init__(self, folder: Path) -> None:
        import tensorstore

        place = {"driver": "file", "path": str(segment(folder) / "features")}
        self.rows = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.rows[np.sort(rows)].read().result()

    def row(self, row: int) -> np.ndarray:
        return self.rows[row].read().result()


class Hdf5:
    """A contiguous HDF5 dataset."""

    random_access = True

    def __init__(self, folder: Path) -> None:
        self.rows = h5py.File(folder / "raw.h5", "r")["features"]

    @staticmethod
    def write(folder: Path, values: np.ndarray) -> None:
        with h5py.File(folder / "raw.h5", "w") as file:
            file["features"] = values

    def scan(self) -> None:
        for start in range(0, self.rows.shape[0], BATCH):
            self.rows[start : start + BATCH]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.rows[np.unique(rows)]

    def row(self, row: int) -> np.ndarray:
        return self.rows[row]


class Lance:
    """A lance dataset of fixed-size lists."""

    random_access = True

    def __init__(self, folder: Path) -> None:
        import lance

        self.rows = lance.dataset(str(folder / "rows.lance"))
        self.width = self.rows.schema.field("features").type.list_size

    @staticmethod
    def write(folder: Path, values: np.ndarray) -> None:
        import lance

        lance.write_dataset(arrow_table(values), str(folder / "rows.lance"))

    def scan(self) -> None:
        for batch in self.rows.to_batches(columns=["features"], batch_size=8192):
            np.array(batch.column(0).flatten())

    def gather(self, rows: np.ndarray) -> np.ndarray:
        taken = self.rows.take(rows, columns=["features"]).column(0).combine_chunks()
        return taken.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.width)

    def row(self, row: int) -> np.ndarray:
        return self.gather(np.array([row]))


class HuggingFace:
    """A Hugging Face dataset on disk (arrow files)."""

    random_access = True

    def __init__(self, folder: Path) -> None:
        import datasets

        datasets.disable_progress_bars()
        self.rows = datasets.load_from_disk(str(folder / "rows.hf")).with_format("arrow")

    @staticmethod
    def write(folder: Path, values: np.ndarray) -> None:
        import datasets

        datasets.disable_progress_bars()
        datasets.Dataset(arrow_table(values)).save_to_disk(str(folder / "rows.hf"))

    def scan(self) -> None:
        for batch in self.rows.iter(batch_size=8192):
            np.array(batch.column(0).combine_chunks().flatten())

    def gather(self, rows: np.ndarray) -> np.ndarray:
        taken = self.rows[rows.tolist()].column(0).combine_chunks()
        return taken.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)

    def row(self, row: int) -> np.ndarray:
        return self.gather(np.array([row]))


_ALL: dict[str, type[Any]] = {
    "raw": Raw,
    "featstore": Featstore,
    "zarr-python": ZarrPython,
    "h5py": Hdf5,
    "tensorstore": Tensorstore,
    "lance": Lance,
    "datasets": HuggingFace,
}
ENGINES: dict[str, type[Any]] = {
    name: kind for name, kind in _ALL.items() if name not in OPTIONAL or find_spec(name) is not None
}


def missing() -> list[str]:
    """A note for every engine that is left out."""
    return [f"{name}: left out, not installed (pip install {OPTIONAL[name]})" for name in _ALL if name not in ENGINES]


def segment(folder: Path) -> Path:
    """The one segment of the feature set."""
    [found] = (folder / "store/features/d/f/segments").iterdir()
    return found


def arrow_table(values: np.ndarray) -> Any:
    """The rows as fixed-size lists."""
    import pyarrow as pa

    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.table({"features": lists})


def write_raw(path: Path, values: np.ndarray) -> None:
    """The least that writing durably can be: one file, one fsync."""
    with path.open("wb", buffering=0) as stream:
        view = memoryview(values.view(np.uint8).reshape(-1))
        while view:
            view = view[os.write(stream.fileno(), view) :]
        os.fsync(stream.fileno())
    path.unlink()


def write_featstore(folder: Path, values: np.ndarray, *, ids: bool = False) -> None:
    """Plan, publish every shard, seal, commit; every byte checked, summed, digested and synced."""
    store = Store.init(folder)
    names = [f"image-{row:09d}.jpg" for row in range(len(values) if ids else 1)]
    dataset = store.create_dataset("d", NewRows(ids=names))
    if not ids:  # rows whose ids are not part of what is timed
        dataset.rows = len(values)
    rows = plan_shard_rows(len(values), values[0].nbytes)
    job = store.plan_features(dataset, "f", Space.named("bench", values.shape[1]), values.dtype, shard_rows=rows)
    assert job is not None
    with publisher(job) as publish:
        for shard in job.pending():
            publish(shard, values[slice(*job.shard_range(shard))])
    job.commit({})
    if not ids:
        shutil.rmtree(folder)


def write_zarr(folder: Path, values: np.ndarray) -> None:
    """zarr-python with the same chunks and shards, then one fsync a file."""
    rows = plan_shard_rows(len(values), values[0].nbytes)
    chunk = min(rows, max(1, (2 << 20) // values[0].nbytes))
    array = zarr.create_array(
        str(folder),
        shape=values.shape,
        chunks=(chunk, values.shape[1]),
        shards=(rows, values.shape[1]),
        dtype=values.dtype,
        compressors=[zarr.codecs.Crc32cCodec()],
        fill_value=float("nan"),
    )
    for start in range(0, len(values), rows):
        array[start : start + rows] = values[start : start + rows]
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    shutil.rmtree(folder)
