"""The file formats, by the ending of the name."""

from __future__ import annotations

from pathlib import Path

from featstore.convert.formats.base import Format, RawColumn, Source
from featstore.convert.formats.hdf5 import HDF5
from featstore.convert.formats.npy import NPY
from featstore.convert.formats.npz import NPZ
from featstore.convert.formats.parquet import PARQUET
from featstore.convert.formats.safetensors import SAFETENSORS
from featstore.convert.formats.zarr import ZARR
from featstore.errors import UsageError
from featstore.foreign import is_zarr

__all__ = ["FORMATS", "Format", "RawColumn", "Source", "format_of"]

FORMATS = {
    ".h5": HDF5,
    ".hdf5": HDF5,
    ".npy": NPY,
    ".npz": NPZ,
    ".parquet": PARQUET,
    ".safetensors": SAFETENSORS,
    ".zarr": ZARR,
}


def format_of(path: Path) -> Format:
    """The format of a file by its ending; a folder that holds Zarr metadata is Zarr whatever its name.

    Raises:
        UsageError: an ending that stands for nothing known, or for a file where there is a folder.
    """
    found = ZARR if path.is_dir() and is_zarr(path) else FORMATS.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"'{path.name}' has no ending that is known", hint=f"known file types: {', '.join(FORMATS)}")
    if path.exists() and path.is_dir() != (found is ZARR):
        raise UsageError(
            f"{path} is a {'folder' if path.is_dir() else 'file'}, which its ending does not stand for",
            hint="only Zarr is a folder, and one with Zarr metadata in it",
        )
    return found
