"""`.parquet`: features as lists (fixed-size or not), or as one column for each component; read batch by batch.

pyarrow is optional: `pip install 'featstore[parquet]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.convert.formats.base import Format, RawColumn, Source, check_matrix, find, plain_column
from featstore.convert.matrix import block_rows
from featstore.convert.selection import Selection
from featstore.errors import AlignmentError, BadInputError, MissingExtraError
from featstore.foreign import reading

__all__ = ["PARQUET"]

_COLUMN_ROWS = 65536
# encoding and decoding lists takes several times the memory of their numbers
_GROUP_BYTES = 16 << 20
_DECODING = 8


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "reading and writing .parquet") from error
    return pa


@contextmanager
def _read(path: Path, key: str) -> Iterator[Source]:
    arrow = _pyarrow()
    with reading(path):
        # read through a small buffer, not whole column chunks
        file = arrow.parquet.ParquetFile(
            path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True, memory_map=False
        )
    with file:
        with reading(path):
            schema = file.schema_arrow
            names = list(schema.names)
        wide = _components(names, key, path) if key.endswith("*") else None
        chosen = wide or [find(names, key, path)]
        matrix = _Rows(file, chosen, path, lists=wide is None)
        columns: dict[str, Callable[[], RawColumn]] = {}
        left_out: dict[str, str] = {}
        for name in names:
            if name not in chosen:
                kind = _value_type(schema.field(name).type)
                if _is_plain(kind):
                    columns[name] = partial(_column, file, name, path)
                else:
                    left_out[name] = f"it is {kind}"
        yield Source(matrix, columns, left_out)


def _components(names: list[str], key: str, path: Path) -> list[str]:
    """The columns that `prefix*` stands for, in order of their numbers."""
    prefix = key[:-1]
    numbered = {int(n[len(prefix) :]): n for n in names if n.startswith(prefix) and n[len(prefix) :].isdecimal()}
    if not numbered:
        find(names, key, path)
    first = min(numbered)
    if first > 1 or sorted(numbered) != list(range(first, first + len(numbered))):
        missing = sorted(set(range(min(first, 1), max(numbered))) - set(numbered))
        raise BadInputError(
            f"the columns {key} of {path} are not numbered without a gap: "
            f"there is no {prefix}{missing[0] if missing else 0}",
            hint="each component needs its column",
        )
    return [numbered[number] for number in sorted(numbered)]


def _value_type(kind: Any) -> Any:
    """The type below dictionaries and extensions (tensors of fixed shape are lists)."""
    while hasattr(kind, "storage_type") or hasattr(kind, "index_type"):
        kind = kind.storage_type if hasattr(kind, "storage_type") else kind.value_type
    return kind


def _is_plain(kind: Any) -> bool:
    types = _pyarrow().types
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(text or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


class _Rows:
    """Features out of a list column, or out of a column for each component; see `Matrix`."""

    def __init__(self, file: Any, names: list[str], path: Path, *, lists: bool) -> None:
        self._file = file
        self._names = names
        self._path = path
        self._lists = lists
        types = _pyarrow().types
        kinds = [_value_type(file.schema_arrow.field(name).type) for name in names]
        rows = file.metadata.num_rows
        if lists:
            if not (types.is_list(kinds[0]) or types.is_large_list(kinds[0]) or types.is_fixed_size_list(kinds[0])):
                raise BadInputError(
                    f"the column '{names[0]}' of {path} is {kinds[0]}, not a list of numbers",
                    hint="for one column a component write --key 'features=PREFIX*'",
                )
            if not rows:
                raise BadInputError(f"{path} has no rows", hint="look at how it was written")
            kinds = [_value_type(kinds[0].value_type)]
        odd = [kind for kind in kinds if not (types.is_floating(kind) or types.is_integer(kind))]
        if odd:
            raise BadInputError(f"the features in {path} are {odd[0]}, not numbers", hint="save them as float32")
        self.dtype = np.result_type(*(np.dtype(kind.to_pandas_dtype()) for kind in kinds))
        self.narrowest: np.dtype[Any] = np.dtype(np.float16)
        # of lists the first row says how wide all have to be
        width = next((len(columns[0][0]) for columns, rows in self._batches(0, 1) if rows), 0) if lists else len(names)
        self.shape = (rows, width)
        check_matrix(self.shape, self.dtype, path)

    def blocks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """See `Matrix`; row groups before `start` are not read."""
        metadata, group = self._file.metadata, 0
        at = 0
        while group < metadata.num_row_groups and at + metadata.row_group(group).num_rows <= start:
            at += metadata.row_group(group).num_rows
            group += 1
        for columns, rows in self._batches(group, block_rows(_DECODING * self.shape[1] * self.dtype.itemsize)):
            block = self._stacked(columns, rows, at)
            at += rows
            if at > start:
                yield block[max(0, start - (at - rows)) :]
        if at != self.shape[0]:
            raise BadInputError(f"{self._path} has {at} rows, not the {self.shape[0]} it says", hint="write it again")

    def _batches(self, group: int, size: int) -> Iterator[tuple[list[Any], int]]:
        with reading(self._path):
            groups = list(range(group, self._file.metadata.num_row_groups))
            batches = self._file.iter_batches(size, row_groups=groups, columns=self._names, use_threads=False)
        while True:
            with reading(self._path):
                batch = next(batches, None)
                columns = [] if batch is None else [_stored(batch.column(name)) for name in self._names]
            if batch is None:
                return
            for column in columns:
                if column.null_count:
                    raise BadInputError(
                        f"{column.null_count} rows of the features in {self._path} are null",
                        hint="drop these rows, or fill them, before importing",
                    )
            yield columns, batch.num_rows

    def _stacked(self, columns: list[Any], rows: int, at: int) -> NDArray[Any]:
        if not self._lists:
            return np.column_stack([column.to_numpy(zero_copy_only=False) for column in columns])
        lists = columns[0]
        flat = lists.flatten()
        if flat.null_count:
            raise BadInputError(
                f"{flat.null_count} numbers of the features in {self._path} are null, the first rows from {at}",
                hint="fill them before importing",
            )
        if len(flat) != rows * self.shape[1] or not _all_wide(lists, self.shape[1]):
            raise AlignmentError(
                f"the lists in {self._path} are not all as long as the first, {self.shape[1]} (rows {at} to {at + rows})",
                hint="every feature of a set has the same width",
            )
        values: NDArray[Any] = _stored(flat).to_numpy(zero_copy_only=False)
        return values.reshape(rows, self.shape[1])


def _all_wide(lists: Any, width: int) -> bool:
    from pyarrow import compute

    lengths = compute.list_value_length(lists)
    return bool(compute.all(compute.equal(lengths, width)).as_py())


def _stored(array: Any) -> Any:
    return array.storage if hasattr(array, "storage") else array


def _column(file: Any, name: str, path: Path) -> RawColumn:
    """Text, or numbers with NaN where there is none."""
    parts: list[NDArray[Any]] = []
    texts: list[str | None] = []
    with reading(path, f"'{name}'"):
        for batch in file.iter_batches(_COLUMN_ROWS, columns=[name], use_threads=False):
            values = _stored(batch.column(name))
            if hasattr(values, "dictionary_decode"):
                values = values.dictionary_decode()
            kind = values.type
            if _pyarrow().types.is_boolean(kind):
                texts += [None if value is None else str(value).lower() for value in values.to_pylist()]
            elif _pyarrow().types.is_floating(kind) or _pyarrow().types.is_integer(kind):
                # integers with holes become floats, which can be missing
                parts.append(values.to_numpy(zero_copy_only=False))
            else:
                texts += plain_column(np.array(values.to_pylist(), dtype=object), name, path)
    return np.concatenate(parts) if parts else texts


def _write(path: Path, chosen: Selection) -> None:
    arrow = _pyarrow()
    rows, width = chosen.shape
    kinds = {name: arrow.string() for name in chosen.text_names}
    kinds |= {name: arrow.from_numpy_dtype(values.dtype) for name, values in chosen.numbers.items()}
    vector = arrow.list_(arrow.from_numpy_dtype(chosen.dtype), width)
    schema = arrow.schema([("ids", kinds.pop("ids")), ("features", vector), *kinds.items()])
    # numbers of a feature hardly shrink and never repeat
    small = dict.fromkeys(("ids", *kinds), "zstd")
    texts = {name: chosen.texts(name) for name in chosen.text_names}
    with arrow.parquet.ParquetWriter(
        path,
        schema,
        compression={"features.list.element": "none", **small},
        use_dictionary=list(small),
        write_page_checksum=True,
    ) as writer:
        group = max(1, _GROUP_BYTES // (width * chosen.dtype.itemsize))
        pending: list[Any] = []
        at = 0
        for block in chosen.blocks():
            stop = at + len(block)
            flat = arrow.array(block.reshape(-1))
            columns = {"features": arrow.FixedSizeListArray.from_arrays(flat, width)}
            columns |= {name: arrow.array(islice(rest, len(block)), arrow.string()) for name, rest in texts.items()}
            columns |= {name: arrow.array(values[at:stop]) for name, values in chosen.numbers.items()}
            pending.append(arrow.record_batch([columns[name] for name in schema.names], schema=schema))
            if sum(batch.num_rows for batch in pending) >= group or stop == rows:
                writer.write_table(arrow.Table.from_batches(pending), row_group_size=group)
                pending = []
            at = stop


PARQUET = Format(_read, _write)
