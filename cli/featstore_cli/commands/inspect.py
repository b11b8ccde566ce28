"""`featstore ls` and `featstore show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click

from featstore_cli.options import json_option, store_option
from featstore_cli.render import out, print_json, print_table, size

if TYPE_CHECKING:
    from featstore.store import Dataset, FeatureSet, Store


@click.command()
@json_option
@store_option
def ls(store: Store, as_json: bool) -> None:
    """List what the store holds."""
    found = [_dataset(store.dataset(name)) for name in store.datasets()]
    for item in found:
        item["feature_sets"] = [
            _features(store.features(f"{item['name']}/{name}")) for name in store.feature_sets(item["name"])
        ]
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


@click.command()
@click.argument("what", metavar="DATASET|SET")
@json_option
@store_option
def show(store: Store, what: str, as_json: bool) -> None:
    """Describe a dataset or a feature set."""
    content = (
        _features(store.features(what), failures=True) if "/" in what else _dataset(store.dataset(what), sample=True)
    )
    if as_json:
        print_json(content)
        return
    for key, value in content.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        if isinstance(value, list):
            value = "\n".join(["", *[f"  {_line(part)}" for part in value]]) if value else "none"
        out.print(f"[bold]{key:>16}[/]  {value}")


def _line(value: Any) -> str:
    return " · ".join(str(part) for part in value.values()) if isinstance(value, dict) else str(value)


def _dataset(dataset: Dataset, *, sample: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": dataset.name,
        "version": dataset.version,
        "created": dataset.record.created,
        "rows": dataset.rows,
        "classes": len(dataset.labels.names),
        "columns": dataset.column_names,
        "root": dataset.root,
    }
    if sample:
        content["first ids"] = dataset.ids.take(range(min(5, dataset.rows)))
    return content


def _features(features: FeatureSet, *, failures: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {
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
    }
    if failures:
        content["made from"] = features.record.provenance
        content["failed"] = [{"id": f.id, "stage": f.stage, "error": f.error} for f in features.failures()]
    return content
