"""Partial backfill: the rows that gain most get their new features, the others wait.

N rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import IncompleteError, UsageError
from featstore.evaluate import row_orders
from featstore.maps import uncertainty_set
from featstore.progress import SILENT, Progress
from featstore.store import FeatureSet, RowStatus, Store, common_rows
from featstore_training.upgrade.base_rows import BaseRows, StoredRows
from featstore_training.upgrade.gallery import MADE_BY, Written, check_parts, gallery_ref, write_gallery
from featstore_training.upgrade.new_rows import NewRows, TakenRows

__all__ = ["BackfillReport", "Choice", "backfill_order", "choose_rows", "new_rows", "run_backfill"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows to be backfilled.

    Attributes:
        rows: bool [N].
        wanted: How many the budget asked for.
        lacking: Rows that came first in the order and have no new feature; later ones stand in for them.
    """

    rows: NDArray[np.bool_]
    wanted: int
    lacking: int


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a backfill did.

    Attributes:
        set: The gallery, with its version.
        base: The gallery before.
        new: Where new features came from.
        rows: Rows of the gallery that have a feature.
        wanted: How many of them the budget asked for.
        backfilled: How many have their new feature.
        encoded: How many images were encoded by this call.
        lacking: Rows that came first in the order and have no new feature.
        order: The order.
        bytes_written: Bytes of the features of the version.
        seconds: Wall time.
        cached: There was nothing to do.
    """

    set: str
    base: str
    new: str
    rows: int
    wanted: int
    backfilled: int
    encoded: int
    lacking: int
    order: str
    bytes_written: int
    seconds: float
    cached: bool


def backfill_order(store: Store, gallery: str, order: str, *, seed: int = 0) -> list[str]:
    """The ids of a gallery's rows in the order in which they are to be backfilled.

    Args:
        store: The store.
        gallery: The feature set before the backfill.
        order: See `featstore.evaluate.row_orders`.
        seed: Of a random order.
    """
    base = StoredRows(store.features(gallery))
    return base.features.dataset.ids.take(_ordered(store, base, order, seed))


def run_backfill(
    store: Store,
    gallery: str,
    target: str,
    *,
    budget: float,
    order: str = "random",
    new: str | None = None,
    images: str | None = None,
    model: str | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> BackfillReport:
    """Give a share of a gallery's rows their new features, as a new version of a set that knows which row is which.

    New features come from a set that has them, or are encoded from images; those that an earlier version of the target
    holds are not encoded again. Without any row the version lies in the gallery's space, with all of them in the new one,
    else it is mixed: comparable with what both are comparable with. The same call after a crash goes on.

    Args:
        store: The store.
        gallery: The feature set before: of the old model, if the new one is compatible with it, or mapped.
        target: `DATASET/NAME` of the backfilled gallery.
        budget: Share of the gallery's rows, in [0, 1]; ⌊budget · rows⌋ of them are taken.
        order: Which first; see `featstore.evaluate.row_orders`.
        new: A feature set of the new model.
        images: Folder of images, with `model`.
        model: Model URI.
        seed: Of a random order.
        progress: Told of rows.

    Raises:
        UsageError: a budget that is none, or not one source of new features.
        AlignmentError: widths differ, or the sets belong to different datasets.
        SpaceMismatchError: rows of both models could not stand in one gallery.
        IncompleteError: the new set has none of the rows.
        AlreadyExistsError: the target is a set that no backfill made.
    """
    began = time.monotonic()
    base = StoredRows(store.features(gallery))
    ref = gallery_ref(store, target, base.features)
    source = new_rows(store, base.features, new, images, model, earlier=target)
    check_parts(base, source)
    choice = choose_rows(store, base, source, budget, order, seed)
    if choice.lacking:
        progress.note(
            f"{choice.lacking:,} rows that came first have no feature in {source.name}; the next ones are taken"
        )
    about = {MADE_BY: "backfill", **base.provenance(), "new": source.name, "order": order, **_seeded(order, seed)}
    written = write_gallery(store, ref, base, about, new=source, chosen=choice.rows, progress=progress)
    return _report(written, base, source, choice, order, time.monotonic() - began)


def new_rows(
    store: Store, base: FeatureSet, new: str | None, images: str | None, model: str | None, *, earlier: str
) -> NewRows:
    """Where new features come from.

    Raises:
        UsageError: neither a set nor images with a model, or both.
    """
    if (new is None) == (images is None) or (images is None) != (model is None):
        raise UsageError(
            "new features come from one place", hint="give --new SET, or --images FOLDER with --model MODEL"
        )
    if new is not None:
        features = store.features(new)
        common_rows([base, features])  # of one dataset, or refused
        return TakenRows(features)
    from featstore_training.upgrade.encoded_rows import EncodedRows  # brings the image libraries

    before = store.features(earlier) if store.has_features(earlier) else None
    return EncodedRows(base.dataset, str(images), str(model), before)


def choose_rows(store: Store, base: BaseRows, new: NewRows, budget: float, order: str, seed: int) -> Choice:
    """The rows that a budget pays for.

    Raises:
        UsageError: a budget outside 0 to 100 %.
        IncompleteError: `new` has none of the gallery's rows.
    """
    if not 0 <= budget <= 1:
        raise UsageError(f"a budget of {budget:g} is no share of the rows", hint="give 0 to 1, or 20%")
    ordered = _ordered(store, base, order, seed)
    had = new.has(base.rows)[ordered]
    wanted = int(budget * len(ordered) + 1e-9)
    if wanted and not had.any():
        raise IncompleteError(
            f"{new.name} has a feature of none of the {len(ordered):,} rows of {base.features.ref}",
            hint="`featstore show` lists what a set has; `featstore extract` fills it",
        )
    places = np.flatnonzero(had)[:wanted]
    reached = len(had) if len(places) < wanted else int(places[-1]) + 1 if wanted else 0
    rows = np.zeros(base.rows, bool)
    rows[ordered[places]] = True
    return Choice(rows, wanted, int((~had[:reached]).sum()))


def _ordered(store: Store, base: BaseRows, order: str, seed: int) -> NDArray[np.int64]:
    """Valid rows of the gallery, the first to be backfilled first."""
    rows = np.flatnonzero(base.outcomes()[0] == RowStatus.VALID)
    if not len(rows):
        raise IncompleteError(f"{base.features.ref} has no row with a feature", hint="`featstore show` says why")
    [places] = row_orders(
        order,
        base.features.dataset,
        rows,
        base.vectors(rows),
        lambda: uncertainty_set(store, base.features.name).gather(rows)[:, 0],
        seed=seed,
        random_orders=1,
    )
    return rows[places]


def _seeded(order: str, seed: int) -> dict[str, Any]:
    return {"seed": seed} if order == "random" else {}


def _report(
    written: Written, base: BaseRows, new: NewRows, choice: Choice, order: str, seconds: float
) -> BackfillReport:
    made = written.features
    return BackfillReport(
        set=made.ref,
        base=base.features.ref,
        new=new.name,
        rows=len(made.valid_rows()),
        wanted=choice.wanted,
        backfilled=written.replaced,
        encoded=new.encoded,
        lacking=choice.lacking,
        order=order,
        bytes_written=written.bytes_written,
        seconds=seconds,
        cached=written.cached,
    )
