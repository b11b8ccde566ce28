"""A parquet file of rows; a row's position is its number in the file. Values come a row group at a time.

pyarrow is optional: `pip install 'featstore[parquet]'`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featstore.errors import BadInputError
from featstore.sources.arrow_values import image_bytes, is_image_column, is_plain_column, plain_rows, pyarrow
from featstore.sources.files import FileSystem
from featstore.sources.source import ColumnValue

__all__ = ["ParquetRows"]

_BATCH_ROWS = 8192
_KEPT_GROUPS = 4  # row groups by column: an id, a path and the images are read together


class ParquetRows:
    """One parquet file.

    Args:
        files: How it is reached.
        location: Where it is.

    Raises:
        BadInputError: it is no parquet file.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, files: FileSystem, location: str) -> None:
        arrow = pyarrow(f"reading {location}")
        self._location = location
        try:
            self._file = arrow.parquet.ParquetFile(
                files.open(location), pre_buffer=False, page_checksum_verification=True
            )
        except (arrow.ArrowException, OSError) as error:
            raise BadInputError(f"{location} is no readable parquet file: {error}") from error
        groups = self._file.metadata
        rows = [groups.row_group(k).num_rows for k in range(groups.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._groups: OrderedDict[tuple[int, str], Any] = OrderedDict()

    def names(self) -> tuple[list[str], list[str]]:
        """Columns of names and numbers, and columns of image bytes."""
        schema = self._file.schema_arrow
        plain = [field.name for field in schema if is_plain_column(field.type)]
        return plain, [field.name for field in schema if is_image_column(field.type)]

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[ColumnValue]]]:
        """(number, values) of each row."""
        position = 0
        if not columns:
            yield from ((number, ()) for number in range(int(self._starts[-1])))
            return
        for batch in self._file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
            for values in plain_rows(batch, columns):
                yield position, values
                position += 1

    def value(self, column: str, position: int) -> object:
        """The value of one row: bytes of an image column, else text.

        Raises:
            BadInputError: there is no such row, or it cannot be decoded.
        """
        if not 0 <= position < self._starts[-1]:
            raise BadInputError(f"{self._location} has no row {position} any more")
        group = int(np.searchsorted(self._starts, position, side="right")) - 1
        key = (group, column)
        if key not in self._groups:
            try:
                self._groups[key] = self._file.read_row_group(group, columns=[column]).column(0)
            except (OSError, ValueError) as error:
                raise BadInputError(f"row group {group} of {self._location} cannot be read: {error}") from error
            while len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return image_bytes(self._groups[key][position - int(self._starts[group])])
