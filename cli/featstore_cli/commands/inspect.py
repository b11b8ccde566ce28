"""`featstore ls`, `featstore show` and `featstore du`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import rich_click as click

from featstore.amounts import size
from featstore_cli.base import Command
from featstore_cli.options import examples, json_option, store_option
from featstore_cli.render import amount, out, print_json, print_table

if TYPE_CHECKING:
    from featstore.store import Dataset, FeatureSet, LivePlan, SetDescription, Store

_CLASSES_SHOWN = 10
_FAILURES_SHOWN = 20
_BAR = 30


@click.command(cls=Command)
@json_option
@store_option
@examples("featstore ls", "featstore ls --json")
def ls(store: Store, as_json: bool) -> None:
    """List what the store holds.

    Datasets and their feature sets at their newest versions, and who is filling one right now.
    """
    from featstore.store import live_plans

    found = [_dataset(store.dataset(name)) for name in store.datasets()]
    for item in found:
        names = store.feature_sets(item["name"])
        item["feature_sets"] = [_features(store.features(f"{item['name']}/{name}")) for name in names]
        item["live"] = [_live(plan) for plan in live_plans(store, item["name"])]
    if as_json:
        print_json({"store": store.location, "datasets": found})
        return
    rows: list[list[str]] = []
    for item in found:
        rows.append(
            [f"[bold]{item['name']}[/]@{item['version']}", f"{item['rows']:,}", f"{item['classes']:,} classes", "", ""]
        )
        rows += [
            [f"  {s['set']}", f"{s['valid']:,}", f"{s['width']} × {s['dtype']}", size(s["bytes"]), s["space"]["kind"]]
            for s in item["feature_sets"]
        ]
    if rows:
        print_table(["", "rows", "", "bytes", "space"], rows)
    else:
        out.print(f"{store.location} is empty; `featstore extract` or `featstore import` fills it")
    for live in (live for item in found for live in item["live"]):
        out.print(
            f"[cyan]live[/] {live['set']}: {live['rows']:,} rows are being filled by {', '.join(live['writers'])}"
        )


@click.command(cls=Command)
@click.argument("what", metavar="DATASET|SET")
@json_option
@store_option
@examples("featstore show cars", "featstore show cars/old", "featstore show cars/old@2 --json")
def show(store: Store, what: str, as_json: bool) -> None:
    """Describe a dataset or a feature set.

    Of a feature set: rows that have a feature, failed or are missing, classes, a histogram of norms, the space, what is
    declared of it, versions and tags, and why rows failed.
    """
    from featstore.store import describe

    if "/" in what:
        features = store.features(what)
        described = describe(features)
        content = _shown_set(store, features, described)
    else:
        dataset = store.dataset(what)
        described = None
        content = _dataset(dataset, sample=True) | {"versions": _versions(store, dataset.name)}
    if as_json:
        print_json(content)
        return
    for key, value in content.items():
        if key == "norms":
            if described is not None:
                _print_norms(described)
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        if isinstance(value, list):
            shown = [*map(_line, value[:_FAILURES_SHOWN])]
            if len(value) > len(shown):
                shown.append(f"… {len(value) - len(shown):,} more; --json lists all")
            value = "\n".join(["", *[f"  {line}" for line in shown]]) if shown else "none"
        out.print(f"[bold]{key:>16}[/]  ", end="")
        out.print(str(value), markup=False)


@click.command(cls=Command)
@click.argument("what", metavar="[DATASET|SET]", required=False)
@json_option
@store_option
@examples("featstore du", "featstore du cars", "featstore du cars/old --json")
def du(store: Store, what: str | None, as_json: bool) -> None:
    """Say what datasets and feature sets take up.

    Apart from what the newest version reads, that is what only earlier versions read and what is unfinished; `featstore
    compact` and `featstore gc` make room.
    """
    from featstore.store import usage

    found = usage(store, what)
    if as_json:
        print_json([asdict(item) for item in found])
        return
    header = ["", "versions", "files", "newest", "history", "unfinished", "all"]
    rows = [
        [i.name, str(i.versions), f"{i.files:,}", size(i.newest), size(i.history), size(i.unfinished), size(i.bytes)]
        for i in found
    ]
    totals = [sum(getattr(i, kind) for i in found) for kind in ("newest", "history", "unfinished", "bytes")]
    print_table(header, [*rows, ["[bold]all[/]", "", f"{sum(i.files for i in found):,}", *map(size, totals)]])


def _shown_set(store: Store, features: FeatureSet, described: SetDescription) -> dict[str, Any]:
    content = _features(features)
    del content["valid"]
    classes = [{"class": name, "rows": count} for name, count in described.classes]
    return {
        **content,
        "status": {kind: getattr(described, kind) for kind in ("valid", "failed", "absent", "removed")},
        "valid": described.valid,
        "norms": {
            "edges": list(described.norm_edges),
            "counts": list(described.norm_counts),
            "of": described.norms_of,
        },
        "classes": classes,
        "unlabelled": described.unlabelled,
        "declared": [
            {"with": " and ".join(made.sets), "note": made.note, "created": made.created}
            for made in store.declarations(features.ref)
        ],
        "versions": _versions(store, features.name),
        "made from": features.record.provenance,
        "numerics": features.space.numerics,
        "failed": [{"id": f.id, "stage": f.stage, "error": f.error} for f in features.failures()],
    }


def _versions(store: Store, what: str) -> list[dict[str, Any]]:
    return [
        {"version": v.number, "created": v.created, "rows": v.rows, "tags": " ".join(v.tags)}
        for v in store.history(what)
    ]


def _print_norms(described: SetDescription) -> None:
    """A bar for each bin."""
    out.print(f"[bold]{'norms':>16}[/]  of {amount(described.norms_of, 'rows')}")
    most = max(described.norm_counts, default=0)
    for low, high, count in zip(described.norm_edges, described.norm_edges[1:], described.norm_counts, strict=False):
        out.print(f"  {low:10.4g} – {high:<10.4g} {'█' * round(_BAR * count / most):<{_BAR}} {count:,}")


def _line(value: Any) -> str:
    return " · ".join(str(part) for part in value.values() if part != "") if isinstance(value, dict) else str(value)


def _live(live: LivePlan) -> dict[str, Any]:
    return {"set": live.set, "rows": live.plan.stop - live.plan.start, "writers": [str(w) for w in live.writers]}


def _dataset(dataset: Dataset, *, sample: bool = False) -> dict[str, Any]:
    live = dataset.live_rows()
    content: dict[str, Any] = {
        "name": dataset.name,
        "version": dataset.version,
        "created": dataset.record.created,
        "rows": len(live),
        "removed": dataset.rows - len(live),
        "classes": len(dataset.labels.names),
        "columns": dataset.column_names,
        "root": dataset.root,
    }
    if sample:
        content["first ids"] = dataset.ids.take(live[:5])
    return content


def _features(features: FeatureSet) -> dict[str, Any]:
    mixed = {"rows of": dict(features.rows_by_space())} if features.record.mixture else {}
    return {
        "set": features.ref,
        "created": features.record.created,
        "rows": features.rows,
        "valid": len(features.valid_rows()),
        "width": features.width,
        "dtype": features.dtype.name,
        "bytes": features.rows * features.width * features.dtype.itemsize,
        "space": {
            "name": features.space.name,
            "digest": features.space.digest[:12],
            "kind": features.space.identity["kind"],
        },
        **mixed,
    }
