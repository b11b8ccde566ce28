"""The nearest gallery rows of queries: exactly, or through a faiss index that is built and tuned beside a feature set.

Q queries, G gallery rows, D width. Scores are cosines, computed exactly from the stored features whatever found the rows.
"""

from featstore.search.build import IndexReport, build_index
from featstore.search.exact import exact_top_k
from featstore.search.search import Hits, Queries, queries_from_file, queries_from_set, search
from featstore.search.stored import IndexRecord, open_index
from featstore.search.tuned import TunedIndex

__all__ = [
    "Hits",
    "IndexRecord",
    "IndexReport",
    "Queries",
    "TunedIndex",
    "build_index",
    "exact_top_k",
    "open_index",
    "queries_from_file",
    "queries_from_set",
    "search",
]
