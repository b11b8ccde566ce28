"""An upgrade as a change with a way back: written beside, judged by a gate, promoted and rolled back by one append each.

    run ──▶ version n + 1 ──▶ gate ──▶ tag → n + 1          rollback ──▶ tag → what it named before

Whoever serves the gallery reads it by the tag (`cars/gallery@live`). A crash before the append leaves everything as it was,
and the same call goes on; nothing but the append changes what is served.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from featstore.errors import AlignmentError, NotFoundError, UnknownNameError, UsageError
from featstore.evaluate import EvalRequest, EvalResult, Gate, GateResult, evaluate, parse_gate
from featstore.maps import load_map
from featstore.progress import SILENT, Progress
from featstore.spaces import check_comparable
from featstore.store import FeatureSet, Store, TagEntry, parse_set
from featstore.strict import Strict
from featstore_training.upgrade.backfill import choose_rows, new_rows
from featstore_training.upgrade.base_rows import BaseRows, MappedRows, StoredRows
from featstore_training.upgrade.gallery import MADE_BY, check_parts, gallery_ref, write_gallery

__all__ = ["LIVE", "GateReport", "Promotion", "UpgradePath", "UpgradeReport", "promote", "rollback", "run_upgrade"]

LIVE = "live"
_PATH = "upgrade"


class UpgradePath(Strict):
    """What becomes of a gallery, and how that is judged.

    Attributes:
        old: The feature set that old queries search today.
        new: The feature set of the new model; its rows are the queries that the gate asks with.
        map: Run folder of a map from the old space to the new one, that the gallery goes through.
        side: Side-information that this map takes; without one, that the queries' map takes.
        query_map: Run folder of a map from the new space to the old one, that queries go through.
        backfill: Share of the rows that get their new features.
        order: Which first; see `featstore.evaluate.row_orders`.
        seed: Of a random order.
        images: Folder of images to encode for that, with `model`; None takes them from `new`.
        model: Model URI.
        gates: Inequalities between metrics of `old/old`, `new/candidate` and `new/new`; none for the headline metric of
            `new/candidate` above that of `old/old`.
        where: Filters for all rows that are evaluated.
        query_where: Further filters for queries.
        gallery_where: Further filters for gallery rows.
    """

    what: ClassVar[str] = "upgrade"

    old: str
    new: str
    map: Path | None = None
    side: tuple[str, ...] = ()
    query_map: Path | None = None
    backfill: float = Field(default=0.0, ge=0, le=1)
    order: str = "random"
    seed: int = Field(default=0, ge=0)
    images: str | None = None
    model: str | None = None
    gates: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    query_where: tuple[str, ...] = ()
    gallery_where: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        """The cell that is to be shipped."""
        return "mapped-new/candidate" if self.query_map else "new/candidate"

    @property
    def query_side(self) -> tuple[str, ...]:
        """Side-information of the queries' map; what is given belongs to the gallery's map if there is one."""
        return () if self.map else self.side

    def describe(self) -> str:
        """The path in a few words."""
        parts = [f"map {self.map.name}"] if self.map else []
        parts += [f"queries through {self.query_map.name}"] if self.query_map else []
        parts += [f"{100 * self.backfill:g} % backfilled by {self.order}"] if self.backfill else []
        return ", ".join(parts) or "the old gallery as it is"


@dataclass(frozen=True, slots=True)
class GateReport:
    """What a gate said of a version.

    Attributes:
        set: The version.
        passed: Whether all gates are.
        gates: Each of them.
        result: The evaluation.
    """

    set: str
    passed: bool
    gates: list[GateResult]
    result: EvalResult


@dataclass(frozen=True, slots=True)
class Promotion:
    """One move of a tag.

    Attributes:
        set: What the tag names now.
        before: What it named before; None for nothing.
        tag: The tag.
        moved: Whether anything was appended.
        gate: What the gate said; None if nobody asked it.
    """

    set: str
    before: str | None
    tag: str
    moved: bool
    gate: GateReport | None = None


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did.

    Attributes:
        set: The candidate, with its version.
        live: What the tag names; the candidate once it is promoted.
        path: The path in words.
        backfilled: Rows that have their new feature.
        encoded: Images that were encoded.
        bytes_written: Bytes of features that were written; 0 if the candidate was there.
        seconds: Wall time, the gate included.
        cached: The candidate was there already.
        gate: What the gate said.
        promoted: Whether the tag names the candidate.
    """

    set: str
    live: str
    path: str
    backfilled: int
    encoded: int
    bytes_written: int
    seconds: float
    cached: bool
    gate: GateReport
    promoted: bool


def run_upgrade(
    store: Store,
    gallery: str,
    path: UpgradePath,
    *,
    tag: str = LIVE,
    promote_passed: bool = False,
    progress: Progress = SILENT,
) -> UpgradeReport:
    """Write the gallery of a path as the next version of a set, and ask the gate; the tag moves only if that is asked for.

    A set that does not exist begins with the old gallery as it is, which the tag names: so there is always a way back.

    Args:
        store: The store.
        gallery: `DATASET/NAME` of the gallery that is served.
        path: What becomes of it.
        tag: The tag that whoever serves it reads by.
        promote_passed: Promote it if every gate passes.
        progress: Told of rows and cells.

    Raises:
        UsageError: a path that means nothing.
        UnknownNameError: a gate speaks of a cell that is not evaluated.
        AlreadyExistsError: the set exists and is no gallery of upgrades or backfills.
        SpaceMismatchError: rows could not stand in one gallery, or queries not search it.
        AlignmentError: the same of widths, or sets of different datasets.
    """
    began = time.monotonic()
    old, new = store.features(path.old), store.features(path.new)
    ref = gallery_ref(store, gallery, old)
    for text in path.gates:
        _check_cells(parse_gate(text), path)
    base: BaseRows = (
        StoredRows(old) if path.map is None else MappedRows(old, path.map, [store.features(name) for name in path.side])
    )
    if path.side and path.map is None and path.query_map is None:
        raise UsageError("--side is read by a map", hint="name it: --map RUN or --query-map RUN")
    _check_searchable(store, base, new, path)
    source = None
    if path.backfill:
        source = new_rows(store, old, None if path.images else path.new, path.images, path.model, earlier=ref.key)
        check_parts(base, source)
    chosen = choose_rows(store, base, source, path.backfill, path.order, path.seed) if source else None
    if chosen is not None and chosen.lacking:
        progress.note(f"{chosen.lacking:,} rows that came first have no new feature; the next ones are taken")
    live = _begin(store, ref.key, old, tag, progress)
    pinned = path.model_copy(update={"old": old.ref, "new": new.ref})
    about = {MADE_BY: "upgrade", "path": path.describe(), **base.provenance(), "new": new.ref}
    written = write_gallery(
        store,
        ref,
        base,
        {**about, _PATH: pinned.model_dump(mode="json")},
        new=source,
        chosen=chosen.rows if chosen else None,
        progress=progress,
    )
    gate = _judge(store, written.features, pinned, progress)
    if promote_passed and gate.passed:
        live = _move(store, written.features, tag, f"promoted: {_said(gate)}").set
    return UpgradeReport(
        set=written.features.ref,
        live=live,
        path=path.describe(),
        backfilled=written.replaced,
        encoded=source.encoded if source else 0,
        bytes_written=written.bytes_written,
        seconds=time.monotonic() - began,
        cached=written.cached,
        gate=gate,
        promoted=live == written.features.ref,
    )


def promote(
    store: Store, gallery: str, *, tag: str = LIVE, force: bool = False, progress: Progress = SILENT
) -> Promotion:
    """Let the tag name a version of a gallery, the newest unless one is given, if the gates of its upgrade pass.

    Args:
        store: The store.
        gallery: `DATASET/NAME[@version]`.
        tag: The tag.
        force: Do not ask the gates.
        progress: Told of cells.

    Returns:
        The move; none was made if a gate did not pass, or the tag names the version already.

    Raises:
        UsageError: no upgrade made the version, and `force` is off.
    """
    features = store.features(gallery)
    path = features.record.provenance.get(_PATH)
    if path is None and not force:
        raise UsageError(
            f"no upgrade made {features.ref}, so that nothing says which gate it has to pass",
            hint="write it with `featstore upgrade run`, or promote it as it is with --force",
        )
    gate = None if force else _judge(store, features, UpgradePath.model_validate(path), progress)
    if gate is not None and not gate.passed:
        current = _current(store, features.name, tag)
        return Promotion(current or features.ref, current, tag, moved=False, gate=gate)
    note = f"promoted: {_said(gate)}" if gate else "promoted without asking a gate"
    made = _move(store, features, tag, note)
    return Promotion(made.set, made.before, tag, made.moved, gate)


def rollback(store: Store, gallery: str, *, tag: str = LIVE) -> Promotion:
    """Let the tag name again what it named before its last promotion that was not rolled back.

    Raises:
        NotFoundError: there is no such tag, or nothing before.
    """
    name = parse_set(gallery).key
    store.features(name)
    way: list[int] = []  # what was promoted and is not rolled back
    for entry in store.tag_entries(name, tag):
        if len(way) > 1 and way[-2] == entry.version and _is_rollback(entry):
            way.pop()
        elif not way or way[-1] != entry.version:
            way.append(entry.version)
    if len(way) <= 1:
        raise NotFoundError(
            f"nothing was served as {name}@{tag} before {f'version {way[0]}' if way else 'now'}",
            hint=f"`featstore log {name}` lists versions and tags",
        )
    return _move(store, store.features(f"{name}@{way[-2]}"), tag, f"rolled back from version {way[-1]}")


def _is_rollback(entry: TagEntry) -> bool:
    return entry.note is not None and entry.note.startswith("rolled back")


def _check_searchable(store: Store, base: BaseRows, new: FeatureSet, path: UpgradePath) -> None:
    """Raise unless queries of the new model, through their map if they have one, may search the gallery."""
    queries = new.space
    if path.query_map is not None:
        learned = load_map(path.query_map)
        learned.require_inputs(new, [store.features(name) for name in path.query_side])
        queries = learned.space
    hint = "give a map of the gallery with --map (train --loss fct), or of queries with --query-map (train --loss procrustes)"
    if queries.width != base.space.width:
        raise AlignmentError(
            f"queries of width {queries.width} ({queries.name}) cannot search a gallery of width {base.space.width} "
            f"({base.space.name})",
            hint=hint,
        )
    check_comparable(queries, base.space, left_set=queries.name, right_set=base.space.name, hint=hint)


def _check_cells(gate: Gate, path: UpgradePath) -> None:
    """Raise now rather than after a gallery was written."""
    mapped = ("mapped-new/old",) if path.query_map else ()
    cells = ("old/old", "new/old", *mapped, path.role, "new/new")
    for column in gate.weights:
        if column.role not in cells:
            raise UnknownNameError("cell of an upgrade", column.role, cells, hint=f"the gate is '{gate.expression}'")


def _begin(store: Store, name: str, old: FeatureSet, tag: str, progress: Progress) -> str:
    """See that the tag names something before anything is written; what it names."""
    current = _current(store, name, tag)
    if current is not None:
        return current
    if not store.has_features(name):
        base = StoredRows(old)
        about = {MADE_BY: "upgrade", "path": "the old gallery as it is", **base.provenance()}
        write_gallery(store, parse_set(name), base, about, progress=progress)
    return _move(store, store.features(name), tag, "begins").set


def _current(store: Store, name: str, tag: str) -> str | None:
    entries = store.tag_entries(name, tag) if store.has_features(name) else []
    return f"{name}@{entries[-1].version}" if entries else None


def _move(store: Store, features: FeatureSet, tag: str, note: str) -> Promotion:
    before = _current(store, features.name, tag)
    moved = before != features.ref
    if moved:
        store.tag(features.ref, tag, note=note)
    return Promotion(features.ref, before, tag, moved)


def _judge(store: Store, candidate: FeatureSet, path: UpgradePath, progress: Progress) -> GateReport:
    request = EvalRequest(
        old=path.old,
        new=path.new,
        candidate=candidate.ref,
        query_map=path.query_map,
        side=path.query_side,
        where=path.where,
        query_where=path.query_where,
        gallery_where=path.gallery_where,
        further_metrics=tuple(metric for text in path.gates for metric in parse_gate(text).metrics),
    )
    result = evaluate(store, request, progress=progress)
    gates = path.gates or (f"{path.role}.{result.headline} > old/old.{result.headline}",)
    judged = [result.gate(text) for text in gates]
    return GateReport(candidate.ref, all(gate.passed for gate in judged), judged, result)


def _said(gate: GateReport) -> str:
    return "; ".join(f"{found.expression} ({found.reason})" for found in gate.gates)
