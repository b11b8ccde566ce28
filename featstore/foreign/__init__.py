"""Arrays that other programs wrote, described and checked before anything of them is decoded. Nothing is unpickled."""

from featstore.foreign.npy import ArrayHeader, read_header
from featstore.foreign.reading import reading
from featstore.foreign.zarr import ZarrArray, describe_zarr, is_zarr, zarr_arrays

__all__ = ["ArrayHeader", "ZarrArray", "describe_zarr", "is_zarr", "read_header", "reading", "zarr_arrays"]
