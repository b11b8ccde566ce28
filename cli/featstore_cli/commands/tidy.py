"""`featstore rm`, `featstore compact` and `featstore gc`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from featstore.amounts import size
from featstore_cli.base import Command
from featstore_cli.options import examples, json_option, period, store_option
from featstore_cli.render import amount, out, print_json, print_table, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.store import Dataset, Store


@click.command(cls=Command)
@click.argument("name", metavar="DATASET")
@click.option("--ids", "first", metavar="ID|FILE", multiple=True, required=True, help="An id, or a file of one a line.")
@click.argument("more", metavar="[ID|FILE]...", nargs=-1)
@json_option
@store_option
@examples("featstore rm cars --ids a.jpg b.jpg", "featstore rm cars --ids @withdrawn.txt")
def rm(store: Store, name: str, first: tuple[str, ...], more: tuple[str, ...], as_json: bool) -> None:
    """Remove rows from a dataset.

    Nothing finds them any more and none of their features is read, in any set of the dataset. Their bytes stay, so that
    it can be looked into, until `featstore compact` and `featstore gc` erase them. Take the images out of their source too:
    the next extract would add them again. A name that is no id is taken for a file; @FILE always is one.
    """
    ids = _ids(store.dataset(name), [*first, *more])
    dataset, removed = store.remove_rows(name, ids, provenance={"made by": "rm", "rows": len(ids)})
    if as_json:
        print_json({"dataset": dataset.name, "version": dataset.version, "removed": removed})
        return
    out.print(
        f"{amount(removed, 'rows')} removed: {dataset.name}@{dataset.version} has {amount(len(dataset.live_rows()), 'rows')}"
    )
    out.print(
        f"  → their bytes are still there; `featstore compact {name}` and then `featstore gc --grace 0` erase them"
    )


@click.command(cls=Command)
@click.argument("name", metavar="DATASET")
@json_option
@store_option
@examples("featstore compact cars", "featstore compact cars && featstore gc --dry-run")
def compact(store: Store, name: str, as_json: bool) -> None:
    """Rewrite a dataset without its removed rows, and small shards into large ones.

    All its feature sets are written anew under new versions; tags and earlier versions stay as they are. Several processes
    may run it together, and an interrupted one goes on where it stopped. It waits for nobody: while another process fills
    a feature set of the dataset, it says so and ends.
    """
    from featstore.store import compact as rewrite

    with progress() as listener:
        report = rewrite(store, name, listener)
    if as_json:
        print_json(asdict(report))
        return
    if not report.sets and not report.removed:
        out.print(f"{report.dataset} has no removed rows and no small shards; nothing was done")
        return
    rows = [
        [
            part.before,
            f"→ {part.set}",
            f"{part.rows_before:,} → {part.rows:,}",
            f"{part.shards_before:,} → {part.shards:,}",
        ]
        for part in report.sets
    ]
    print_table([f"[bold]{report.dataset}[/]", "", "rows", "shards"], rows)
    out.print(f"{amount(report.removed, 'rows')} left out; `featstore gc` deletes the old files after its grace period")


@click.command(cls=Command)
@click.option(
    "--grace", metavar="TIME", default="7d", show_default=True, help="Keep what is younger: 7d, 12h, 30m or 0."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@store_option
@examples("featstore gc --dry-run", "featstore gc", "featstore gc --grace 0")
def gc(store: Store, grace: str, dry_run: bool, as_json: bool) -> None:
    """Delete what no version, tag, writer or recent reader needs.

    Goes: what compaction replaced, unfinished work that nobody has continued, leftovers of writers that died. Stays:
    versions that a tag names, work under way, and everything younger than the grace period, since somebody may still have it
    open. With --grace 0, removed rows are erased as soon as they are compacted.
    """
    from featstore.store import collect_garbage

    with progress() as listener:
        report = collect_garbage(store, grace=period(grace, option="--grace"), dry_run=dry_run, progress=listener)
    if as_json:
        print_json({**asdict(report), "files": report.files, "bytes": report.bytes})
        return
    if report.garbage:
        rows = [[item.where, item.why, f"{item.files:,}", size(item.bytes)] for item in report.garbage]
        print_table(["", "", "files", "bytes"], rows)
    for note in report.kept:
        out.print(f"[cyan]kept[/] {note}")
    did = "would be deleted" if dry_run else "deleted"
    out.print(f"{amount(report.files, 'files')}, {size(report.bytes)} {did}")


def _ids(dataset: Dataset, given: Sequence[str]) -> list[str]:
    """Ids as they are, or from files with one a line."""
    from featstore.errors import NotFoundError

    found: list[str] = []
    known = dataset.ids.rows_of(given) >= 0
    for text, is_id in zip(given, known.tolist(), strict=True):
        path = Path(text.removeprefix("@"))
        if is_id or not (text.startswith("@") or path.is_file()):
            found.append(text)
        elif path.is_file():
            found += [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        else:
            raise NotFoundError(f"{path} does not exist", hint="name a file with one id a line")
    return found
