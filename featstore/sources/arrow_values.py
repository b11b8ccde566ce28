"""What Arrow's columns mean to a source of images.

pyarrow is optional: `pip install 'featstore[parquet]'`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from featstore.errors import MissingExtraError
from featstore.sources.source import ColumnValue
from featstore.sources.values import plain_value

__all__ = ["image_bytes", "is_image_column", "is_plain_column", "plain_rows", "pyarrow"]


def pyarrow(purpose: str) -> Any:
    """The package with its parquet part.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error
    return pa


def is_plain_column(kind: Any) -> bool:
    """Whether a column holds names, numbers, truth values or dates."""
    types = pyarrow("reading Arrow columns").types
    if types.is_dictionary(kind):
        return is_plain_column(kind.value_type)
    return any(
        check(kind)
        for check in (
            types.is_string,
            types.is_large_string,
            types.is_integer,
            types.is_floating,
            types.is_boolean,
            types.is_temporal,
            types.is_decimal,
        )
    )


def is_image_column(kind: Any) -> bool:
    """Whether a column can hold image bytes: as they are, or in a struct with a field `bytes`."""
    types = pyarrow("reading Arrow columns").types
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_image_column(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def plain_rows(batch: Any, columns: Sequence[str]) -> Iterator[Sequence[ColumnValue]]:
    """The rows of a record batch."""
    listed = [[plain_value(value) for value in batch.column(name).to_pylist()] for name in columns]
    return zip(*listed, strict=True)


def image_bytes(scalar: Any) -> object:
    """A scalar as Python has it; of a struct its field `bytes`."""
    value = scalar.as_py()
    return value.get("bytes") if isinstance(value, dict) else value
