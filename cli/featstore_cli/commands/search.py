"""`featstore search` and `featstore index`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from rich.markup import escape

from featstore.amounts import duration, size
from featstore_cli.base import Command, Group
from featstore_cli.options import examples, json_option, share, store_option, where_option
from featstore_cli.render import amount, out, print_json, progress

if TYPE_CHECKING:
    from featstore.search import Hits
    from featstore.store import Store

_SHOWN_QUERIES = 20


@click.command(cls=Command)
@click.argument("set_", metavar="SET")
@click.option("--query", metavar="SET|FILE", required=True, help="A feature set, or a file of features.")
@click.option("--k", type=click.IntRange(1), default=10, show_default=True, help="Rows for each query.")
@where_option(help_text="Gallery rows to search; repeat for 'and'. A filtered search is exact.")
@where_option("--query-where", help_text="Rows of the query set to search with.")
@click.option("--space", metavar="NAME", help="The space of the vectors in a query file.")
@click.option("--exact", is_flag=True, help="Leave an index aside.")
@click.option("--without-self", is_flag=True, help="Leave a query out of its own results, by id.")
@click.option("--allow-unrelated", is_flag=True, help="Search although nothing declares the spaces comparable.")
@json_option
@store_option
@examples(
    "featstore search cars/old --query cars/odpp --query-where split=test --k 5",
    "featstore search cars/old --query new-photos.npz --space clip-b32",
)
def search(
    store: Store,
    set_: str,
    query: str,
    k: int,
    where: tuple[str, ...],
    query_where: tuple[str, ...],
    space: str | None,
    exact: bool,
    without_self: bool,
    allow_unrelated: bool,
    as_json: bool,
) -> None:
    """Find the nearest rows of a feature set.

    Scores are cosines, exact whatever found the rows. Where `featstore index build` made an index, it is used; one that no
    longer fits the set is refused.
    """
    from featstore.errors import UsageError
    from featstore.search import queries_from_file, queries_from_set
    from featstore.search import search as search_set

    path = Path(query)
    if path.is_file():
        if query_where:
            raise UsageError(
                "--query-where filters a feature set, not a file", hint="import the file to filter its rows"
            )
        queries = queries_from_file(path, space=space)
    else:
        queries = queries_from_set(store, query, query_where)
    with progress() as listener:
        hits = search_set(
            store,
            set_,
            queries,
            k,
            where=where,
            exact=exact,
            without_self=without_self,
            allow_unrelated=allow_unrelated,
            progress=listener,
        )
    if as_json:
        print_json(_content(hits))
        return
    for number, (id_, *found) in enumerate(zip(hits.query_ids, hits.ids, hits.labels, hits.scores, strict=True)):
        if number == _SHOWN_QUERIES:
            out.print(f"[dim]… and {len(hits.query_ids) - number:,} more queries; --json prints all of them[/]")
            break
        out.print(f"[bold]{escape(id_)}[/]")
        for near, label, score in zip(*found, strict=True):
            out.print(f"  {score:7.4f}  {escape(near)}" + (f"  [dim]{escape(label)}[/]" if label else ""))
    how = f"index {hits.index.factory}, recall {hits.index.recall:.1%}" if hits.index else "exact"
    out.print(f"[dim]{hits.set}, {how}[/]")


def _content(hits: Hits) -> dict[str, object]:
    found = zip(hits.query_ids, hits.ids, hits.labels, hits.scores, strict=True)
    return {
        "set": hits.set,
        "index": hits.index.model_dump(mode="json") if hits.index else None,
        "results": [
            {
                "query": id_,
                "neighbours": [
                    {"id": near, "label": label, "score": score}
                    for near, label, score in zip(ids, labels, scores, strict=True)
                ],
            }
            for id_, ids, labels, scores in found
        ],
    }


@click.group(cls=Group)
def index() -> None:
    """Build an index that makes searching fast."""


@index.command()
@click.argument("set_", metavar="SET")
@click.option("--max-memory", metavar="SIZE", default="4G", show_default=True, help="What the index may take.")
@click.option("--min-recall", metavar="SHARE", default="0.95", show_default=True, help="Of the exact nearest rows.")
@click.option("--k", type=click.IntRange(1), default=10, show_default=True, help="Nearest rows to tune for.")
@click.option("--query", metavar="SET", help="Tune with queries of this set; default: the set itself.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples.")
@json_option
@store_option
@examples("featstore index build cars/old --max-memory 4G --min-recall 0.95")
def build(
    store: Store, set_: str, max_memory: str, min_recall: str, k: int, query: str | None, seed: int, as_json: bool
) -> None:
    """Build, tune and measure an index of a feature set.

    The index lies beside the version it was built from. Small sets get a flat one; larger ones get product codes that
    propose rows, between which full rows decide: those in the index where they fit into the memory, else those of the store.
    """
    from featstore.evaluate import parse_memory
    from featstore.search import build_index

    with progress() as listener:
        report = build_index(
            store,
            set_,
            max_memory=parse_memory(max_memory),
            min_recall=share(min_recall, option="--min-recall"),
            k=k,
            query=query,
            seed=seed,
            progress=listener,
        )
    if as_json:
        print_json({**asdict(report), "record": report.record.model_dump(mode="json")})
        return
    record = report.record
    size_of = f"{amount(record.rows, 'rows')}, {size(record.bytes)}"
    out.print(f"[bold]{record.set}[/]  {record.factory}, {size_of}  ({duration(report.seconds)})")
    tuned = f", {record.candidates} candidates each" if record.factory != "Flat" else ""
    out.print(
        f"recall@{record.k} {record.recall:.1%} of the exact search on {amount(record.queries, 'queries')}{tuned}"
    )
