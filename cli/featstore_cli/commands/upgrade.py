"""`featstore upgrade run`, `promote` and `rollback`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from featstore.amounts import duration, size
from featstore_cli.base import Group
from featstore_cli.exit_codes import ExitCode
from featstore_cli.options import examples, json_option, share, store_option, where_option
from featstore_cli.render import out, print_json, progress

if TYPE_CHECKING:
    from featstore.store import Store
    from featstore_training.upgrade import GateReport, Promotion

_TAG = click.option("--tag", default="live", show_default=True, help="The tag that the gallery is served by.")


@click.group(cls=Group)
def upgrade() -> None:
    """Change the gallery that is served, with a way back.

    run writes the new gallery as a version beside the old one and asks a gate; promote lets the tag live name it, by one
    append; rollback lets it name again what it named before. Serve DATASET/GALLERY@live; `featstore log` shows it all.
    """


@upgrade.command()
@click.argument("gallery", metavar="GALLERY")
@click.option("--old", metavar="SET", required=True, help="What old queries search today.")
@click.option("--new", metavar="SET", required=True, help="Features of the new model: queries, and backfilled rows.")
@click.option(
    "--map", "run_", type=click.Path(path_type=Path), metavar="RUN", help="Map of the gallery into the new space."
)
@click.option("--side", metavar="SET", multiple=True, help="Side-information that --map takes; repeatable.")
@click.option("--query-map", type=click.Path(path_type=Path), metavar="RUN", help="Map of queries into the old space.")
@click.option("--backfill", metavar="SHARE", default="0", help="Rows that get their new features, such as 20%.")
@click.option("--by", "order", metavar="ORDER", default="random", show_default=True, help="Which rows first.")
@click.option("--seed", default=0, show_default=True, help="Of a random order.")
@click.option("--images", metavar="SOURCE", help="Encode the rows to be backfilled from here, with --model.")
@click.option("--model", metavar="MODEL", help="The new encoder.")
@where_option(help_text="Rows that the gate looks at.")
@where_option("--query-where", help_text="Further filter for queries.")
@where_option("--gallery-where", help_text="Further filter for gallery rows.")
@click.option(
    "--gate", "gates", metavar="EXPR", multiple=True, help="Must hold; default new/candidate above old/old. Repeatable."
)
@click.option("--promote", "promote_passed", is_flag=True, help="Promote at once if the gate passes.")
@_TAG
@json_option
@store_option
@examples(
    "featstore upgrade run cars/gallery --old cars/old --new cars/new --map runs/fct",
    "featstore upgrade run cars/gallery --old cars/old --new cars/odpp --backfill 20% --by k-center",
    "featstore upgrade run cars/gallery --old cars/old --new cars/new --query-map runs/procrustes --promote",
)
def run(
    store: Store,
    gallery: str,
    old: str,
    new: str,
    run_: Path | None,
    side: tuple[str, ...],
    query_map: Path | None,
    backfill: str,
    order: str,
    seed: int,
    images: str | None,
    model: str | None,
    where: tuple[str, ...],
    query_where: tuple[str, ...],
    gallery_where: tuple[str, ...],
    gates: tuple[str, ...],
    promote_passed: bool,
    tag: str,
    as_json: bool,
) -> int:
    """Write the upgraded gallery beside the old one.

    The path is a map of the gallery (--map), of queries (--query-map), a share of rows backfilled (--backfill), or several.
    A gallery that does not exist begins with the old features as version 1, so there is always a way back.

    The gate compares old queries on the old gallery (old/old) with new queries on the new version (new/candidate). Exits
    with 4 if it is not passed; the version stays, and nothing that is served changes.
    """
    from featstore_training.upgrade import UpgradePath, run_upgrade

    path = UpgradePath(
        old=old,
        new=new,
        map=run_,
        side=side,
        query_map=query_map,
        backfill=share(backfill, option="--backfill"),
        order=order,
        seed=seed,
        images=images,
        model=model,
        gates=gates,
        where=where,
        query_where=query_where,
        gallery_where=gallery_where,
    )
    with progress() as listener:
        report = run_upgrade(store, gallery, path, tag=tag, promote_passed=promote_passed, progress=listener)
    if as_json:
        print_json({**{name: getattr(report, name) for name in _FIELDS}, "gate": _gate(report.gate)})
    else:
        done = "is there already" if report.cached else f"{size(report.bytes_written)} in {duration(report.seconds)}"
        out.print(f"[green]✓[/] [bold]{report.set}[/] {done}: {report.path}", soft_wrap=True)
        _print_gate(report.gate)
        if report.promoted:
            out.print(f"[bold]{gallery}@{tag}[/] is {report.set}; back: featstore upgrade rollback {gallery}")
        else:
            after = f"; to switch: featstore upgrade promote {gallery}" if report.gate.passed else ""
            out.print(f"[bold]{gallery}@{tag}[/] stays {report.live}{after}")
    return ExitCode.DONE if report.gate.passed else ExitCode.GATE_NOT_PASSED


@upgrade.command()
@click.argument("gallery", metavar="GALLERY[@VERSION]")
@click.option("--force", is_flag=True, help="Do not ask the gate.")
@_TAG
@json_option
@store_option
@examples("featstore upgrade promote cars/gallery", "featstore upgrade promote cars/gallery@3 --tag canary")
def promote(store: Store, gallery: str, force: bool, tag: str, as_json: bool) -> int:
    """Serve a version from now on, if its gate passes.

    The newest version unless one is named. The gate is the one that `upgrade run` was given; what was measured then is not
    measured again. Exits with 4 if it is not passed.
    """
    from featstore_training.upgrade import promote as promote_

    with progress() as listener:
        made = promote_(store, gallery, tag=tag, force=force, progress=listener)
    passed = made.gate is None or made.gate.passed
    _print_move(made, as_json=as_json)
    return ExitCode.DONE if passed else ExitCode.GATE_NOT_PASSED


@upgrade.command()
@click.argument("gallery", metavar="GALLERY")
@_TAG
@json_option
@store_option
@examples("featstore upgrade rollback cars/gallery")
def rollback(store: Store, gallery: str, tag: str, as_json: bool) -> None:
    """Serve again what was served before the last promotion.

    Twice goes back two promotions. No feature is written or deleted; a version that was rolled back can be promoted again
    by its number.
    """
    from featstore_training.upgrade import rollback as rollback_

    _print_move(rollback_(store, gallery, tag=tag), as_json=as_json)


_FIELDS = ("set", "live", "path", "backfilled", "encoded", "bytes_written", "seconds", "cached", "promoted")


def _gate(gate: GateReport) -> dict[str, Any]:
    return {
        "passed": gate.passed,
        "gates": [found.model_dump(mode="json") for found in gate.gates],
        "evaluation": json.loads(gate.result.to_json()),
    }


def _print_gate(gate: GateReport) -> None:
    cells = {cell.role: cell.metrics[gate.result.headline] for cell in gate.result.cells}
    shown = ", ".join(f"{role} {100 * value:.1f}" for role, value in cells.items())
    out.print(f"  {gate.result.headline} %: {shown}", soft_wrap=True)
    for found in gate.gates:
        word = "[green]passed[/]" if found.passed else "[red]not passed[/]"
        out.print(f"  gate {word}: {found.expression} ({found.reason})", soft_wrap=True)


def _print_move(made: Promotion, *, as_json: bool) -> None:
    if as_json:
        plain = {"set": made.set, "before": made.before, "tag": made.tag, "moved": made.moved}
        print_json({**plain, "gate": _gate(made.gate) if made.gate else None})
        return
    if made.gate is not None:
        _print_gate(made.gate)
    name = made.set.partition("@")[0]
    if made.gate is not None and not made.gate.passed:
        out.print(f"[red]✗[/] {made.gate.set} was not promoted; [bold]{name}@{made.tag}[/] stays {made.before}")
    elif not made.moved:
        out.print(f"[green]✓[/] [bold]{name}@{made.tag}[/] is {made.set} already")
    else:
        out.print(f"[green]✓[/] [bold]{name}@{made.tag}[/] is {made.set}, before it was {made.before}")
