"""Hypothesis strategies for what users bring: ids and names of every nasty kind, columns, features, row batches.

Everything drawn is legal unless the strategy says otherwise, so a store must take it and give it back unchanged (ids in
Unicode form NFC).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import MissingExtraError
from featstore.store import NewRows

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as arrays
except ImportError as error:
    raise MissingExtraError("hypothesis", "testing", "drawing test data") from error

__all__ = ["bad_ids", "bad_names", "columns", "features", "id_lists", "ids", "names", "row_batches"]

_MAX_ID_BYTES = 8192
_NASTY = (
    "..",
    "../up",
    "a/../../b",
    "/absolute/path.png",
    "C:\\temp\\x.png",
    "\\\\server\\share",
    "back\\slash",
    "~/home",
    ".hidden",
    "-rf",
    "line\nfeed",
    "tab\tbell\a",
    "\x1b[31mred",
    "\x7f",
    " ",
    " leading and trailing ",
    "trailing.",
    "CON",
    "a:b|c?d*e<f>",
    "%2e%2e%2f",
    "<script>alert(1)</script>",
    "'; drop table rows; --",
    "=1+1",
    "é",  # NFC, and the same in NFD:
    "e\u0301",
    "\u212b",  # the Ångström sign, which NFC turns into another character
    "ﬁ",
    "日本/語.png",
    "مرحبا",
    "\u202ereversed",
    "\ufeffbom",
    "👩‍👩‍👧",
    "\U0010ffff",
    "x" * 4096,
    "日" * 1365,  # 4,095 bytes
)


def ids() -> st.SearchStrategy[str]:
    """One row id: any text of 1 to 8,192 bytes without NUL, and well-known nasty ones (`..`, absolute paths, 4 kB, …)."""
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
    paths = st.lists(text.filter(lambda part: "/" not in part), min_size=1, max_size=4).map("/".join)
    return st.one_of(st.sampled_from(_NASTY), text, paths).filter(
        lambda drawn: 0 < len(unicodedata.normalize("NFC", drawn).encode()) <= _MAX_ID_BYTES
    )


def id_lists(min_size: int = 1, max_size: int = 20) -> st.SearchStrategy[list[str]]:
    """Ids of one dataset: no two are equal in Unicode form NFC."""
    return st.lists(
        ids(), min_size=min_size, max_size=max_size, unique_by=lambda text: unicodedata.normalize("NFC", text)
    )


def bad_ids() -> st.SearchStrategy[str]:
    """Text that no row id can be: empty, longer than 8 KiB, with a NUL, or no valid Unicode."""
    return st.one_of(
        st.just(""),
        st.just("x" * (_MAX_ID_BYTES + 1)),
        st.just("日" * (_MAX_ID_BYTES // 3 + 1)),
        st.text(max_size=10).map(lambda text: f"{text}\0"),
        st.characters(categories=["Cs"]).map(lambda half: f"a{half}b"),
    )


def names() -> st.SearchStrategy[str]:
    """Names of datasets, feature sets, columns and tags."""
    return st.from_regex(r"[a-z0-9][a-z0-9._-]{0,99}", fullmatch=True).filter(lambda text: ".." not in text)


def bad_names() -> st.SearchStrategy[str]:
    """Text that cannot name anything in a store, most of it dangerous as a path."""
    named = ["", ".", "..", "../up", "/abs", "a/b", "a\\b", "c:", ".hidden", "a..b", "a\nb", "A", "é", "a\0", "x" * 101]
    return st.one_of(
        st.sampled_from(named),
        ids().filter(lambda text: not (text.isascii() and text.replace("-", "").replace("_", "").isalnum())),
    ).filter(lambda text: not _is_name(text))


def columns(rows: int) -> st.SearchStrategy[Sequence[str | None] | NDArray[Any]]:
    """One column: names with gaps, int64, or float64 with NaN and infinities."""
    integers: st.SearchStrategy[NDArray[Any]] = arrays.arrays(np.int64, rows)
    floats: st.SearchStrategy[NDArray[Any]] = arrays.arrays(np.float64, rows)
    return st.one_of(st.lists(st.none() | ids(), min_size=rows, max_size=rows), integers, floats)


def features(rows: int, width: int, dtype: str = "float32") -> st.SearchStrategy[NDArray[Any]]:
    """A feature matrix [rows, width]: any finite numbers of the dtype, zeros and subnormals among them."""
    kind = np.dtype(dtype)
    bits = np.dtype(f"u{kind.itemsize}")
    largest = int(np.finfo(kind).max.view(bits))
    sign = 1 << (8 * kind.itemsize - 1)
    # bit patterns, because drawing half floats as numbers throws most of what is drawn away
    finite = st.integers(0, 2 * largest + 1).map(lambda n: n if n <= largest else (n - largest - 1) | sign)
    drawn: st.SearchStrategy[NDArray[Any]] = arrays.arrays(bits, (rows, width), elements=finite)
    return drawn.map(lambda values: values.view(kind))


@st.composite
def row_batches(draw: st.DrawFn, max_rows: int = 10, *, labelled: bool | None = None) -> NewRows:
    """Rows to add to a dataset.

    Args:
        draw: Given by hypothesis.
        max_rows: At most so many.
        labelled: Whether they have labels (gaps included); None for either.
    """
    drawn = draw(id_lists(max_size=max_rows))
    rows = len(drawn)
    with_labels = draw(st.booleans()) if labelled is None else labelled
    labels = draw(st.lists(st.none() | ids(), min_size=rows, max_size=rows)) if with_labels else None
    further: Mapping[str, Any] = draw(
        st.dictionaries(names().filter(lambda name: name != "label"), columns(rows), max_size=2)
    )
    return NewRows(ids=drawn, labels=labels, columns=further)


def _is_name(text: str) -> bool:
    from featstore.errors import UsageError
    from featstore.store.names import check_name

    try:
        return bool(check_name(text, "thing"))
    except UsageError:
        return False
