"""What an extraction did or would do, for people: its sets, and where its time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.amounts import duration, size
from featstore_cli.render import amount, out, print_table

if TYPE_CHECKING:
    from featstore.extract import ExtractPlan, ExtractReport, SetReport, StageReport

__all__ = ["print_plan", "print_report"]


def print_report(report: ExtractReport) -> None:
    """What was done."""
    for made in report.sets.values():
        failed = f", [red]{made.failed:,} failed[/]" if made.failed else ""
        out.print(f"[bold]{made.ref}[/]  {amount(made.rows, 'rows')}{failed}  ({_origin(made)})")
    took = duration(report.seconds)
    if report.encoded:
        rate = f"{report.images_per_second:,.0f} images/s"
        out.print(f"{amount(report.encoded, 'images')} decoded and encoded in {took} ({rate})")
    if report.copied:
        out.print(f"{amount(report.copied, 'images')} not even decoded: the store had their features")
    if report.left:
        out.print(
            f"{amount(report.left, 'images')} are left to other ranks, and the last one commits; if one is lost, run this "
            "command as that rank, or with --rank 0/1"
        )
    elif not report.encoded and not report.copied:
        out.print(f"cached: nothing to encode ({took})")
    _print_stages(report.stages, report.limit)
    if report.stages:
        out.print(f"{size(report.bytes_read)} read, {size(report.bytes_written)} of features written")
    if report.failed:
        first = next(iter(report.sets.values())).ref.partition("@")[0]
        out.print(f"{amount(report.failed, 'images')} failed; `featstore show {first}` lists why")


def print_plan(plan: ExtractPlan) -> None:
    """What would be done."""
    new = f", {plan.new:,} of them new" if plan.new < plan.images else ""
    out.print(f"[bold]{plan.dataset}[/]  {amount(plan.images, 'images')} in the source{new}")
    for name, made in plan.sets.items():
        out.print(
            f"  {name}  {amount(made.cached, 'rows')} cached, {made.missing:,} to come ({size(made.bytes)})",
            markup=False,
        )
    if not plan.missing:
        out.print("cached: nothing to encode")
        return
    _print_stages(plan.stages, plan.limit)
    if plan.sample_failed:
        out.print(f"{plan.sample_failed} of {amount(plan.sample, 'images')} tried cannot be used")
    if plan.sample_copied:
        out.print(f"{plan.sample_copied} of {amount(plan.sample, 'images')} tried need no encoding: the store has them")
    out.print(f"about {size(plan.bytes_read)} to read, {size(plan.bytes_written)} to write")
    if plan.seconds is None:
        out.print("none of the images tried can be used, so there is no saying how long it takes")
        return
    rate = f"{plan.images_per_second:,.0f} images/s with {amount(plan.processes * plan.ranks, 'workers')}"
    cost = "" if plan.cost is None else f", costs about {plan.cost:,.2f}"
    out.print(f"{amount(plan.missing, 'images')} take about [bold]{duration(plan.seconds)}[/] ({rate}){cost}")


def _print_stages(stages: list[StageReport], limit: str | None) -> None:
    """Where the time goes, one line a stage."""
    if not stages:
        return
    rows = []
    for stage in stages:
        rate = "" if stage.images_per_second is None else f"{stage.images_per_second:,.0f}"
        mark = "limits" if stage.stage == limit else ""
        rows.append([stage.stage, duration(stage.seconds), f"{stage.share:.0%}", rate, mark])
    print_table(["stage", "process time", "share", "images/s of a process", ""], rows)


def _origin(made: SetReport) -> str:
    """Where the rows of a set come from: `1,204 of 5,000 images copied from cars/old, 3,796 encoded`."""
    if not made.encoded and not made.copied:
        return f"{made.left:,} left to other ranks" if made.left else "cached"
    cached = [f"{made.cached:,} cached"] if made.cached else []
    if not made.copied:
        return ", ".join([f"{made.encoded:,} encoded", *cached])
    copied = sum(made.copied.values())
    names = [f"{name} ({rows:,})" if len(made.copied) > 1 else name for name, rows in sorted(made.copied.items())]
    share = f"{copied:,} of {amount(made.encoded + copied, 'images')} copied from {' and '.join(names)}"
    return ", ".join([share, f"{made.encoded:,} encoded", *cached])
