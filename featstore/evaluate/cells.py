"""The cells of an evaluation: which vectors query which, and whether they may be compared at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from featstore.errors import AlignmentError, SpaceMismatchError
from featstore.evaluate.vectors import SetVectors, SideBySide
from featstore.spaces import Space, check_comparable, comparable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from featstore.evaluate.vectors import Vectors
    from featstore.maps import LearnedMap
    from featstore.store import FeatureSet, Store

__all__ = ["CellPlan", "Side", "Sides"]


class Side(NamedTuple):
    """The vectors on one side of a cell.

    Attributes:
        set: Reference of a feature set.
        run: Run folder of a map that its rows go through before they are compared; None for the rows as they are.
        beside: References of the side-information that the map takes.
    """

    set: str
    run: Path | None = None
    beside: tuple[str, ...] = ()


class CellPlan(NamedTuple):
    """One cell: queries against a gallery.

    Attributes:
        role: What the cell is, such as `new/old`; see `EvalRequest.cells`.
        query: What the queries are.
        gallery: What the gallery is.
        optional: Leave the cell out instead of failing when its spaces cannot be compared.
    """

    role: str
    query: Side
    gallery: Side
    optional: bool = False


class Sides:
    """The feature sets and maps that some cells need, each opened once.

    Args:
        store: Where the sets are.
        plans: The cells.

    Raises:
        UnknownNameError: A set that is not in the store.
        NotFoundError: A run folder that is not there.
        SpaceMismatchError: A map is to be applied to a set of another space than it was trained on.
    """

    def __init__(self, store: Store, plans: Sequence[CellPlan]) -> None:
        sides = [side for plan in plans for side in (plan.query, plan.gallery)]
        self._sets = {name: store.features(name) for side in sides for name in (side.set, *side.beside)}
        self._maps: dict[Path, LearnedMap] = {}
        for side in sides:
            if side.run is not None:
                features, *beside = self.read(side)
                self._map(side.run).require_inputs(features, beside)

    def features(self, side: Side) -> FeatureSet:
        """The stored set, before any map."""
        return self._sets[side.set]

    def read(self, side: Side) -> list[FeatureSet]:
        """All stored sets that its vectors are made from."""
        return [self._sets[name] for name in (side.set, *side.beside)]

    def space(self, side: Side) -> Space:
        """The space of the vectors that are compared."""
        return self.features(side).space if side.run is None else self._maps[side.run].space

    def vectors(self, side: Side, rows: NDArray[np.int64]) -> Vectors:
        """Some rows (of the dataset) as they are compared."""
        parts = [SetVectors(features, rows) for features in self.read(side)]
        if side.run is None:
            return parts[0]
        from featstore.evaluate.mapped import MappedVectors

        return MappedVectors(SideBySide(parts) if side.beside else parts[0], self._maps[side.run].module)

    def is_unrelated(self, plan: CellPlan, *, allowed: bool, any_width: bool = False) -> bool:
        """Whether nothing declares the two spaces of a cell comparable.

        Raises:
            AlignmentError: The widths differ, and `any_width` is not given.
            SpaceMismatchError: The spaces are unrelated and that is not `allowed`.
        """
        query, gallery = self.space(plan.query), self.space(plan.gallery)
        left, right = self._called(plan.query), self._called(plan.gallery)
        bridge = self._bridge(plan)
        if query.width != gallery.width and not any_width:
            raise AlignmentError(
                f"{left} has width {query.width} and {right} width {gallery.width}: "
                f"vectors of different widths cannot be compared ({plan.role})",
                hint=bridge,
            )
        if comparable(query, gallery):
            return False
        if not allowed:
            hint = f"{bridge}; or compare them as they are with --allow-unrelated, which marks the cell"
            check_comparable(query, gallery, left_set=left, right_set=right, hint=hint)
        return True

    def comparable_cells(
        self, plans: Sequence[CellPlan], *, allow_unrelated: bool, any_width: bool = False
    ) -> tuple[dict[str, bool], dict[str, str]]:
        """Check every cell before anything is computed.

        Returns:
            Whether its spaces are unrelated, by role of the cells that can be measured; and why not, by role of the
            optional ones that cannot.

        Raises:
            AlignmentError: The widths of a cell differ.
            SpaceMismatchError: The spaces of a cell are unrelated and that is not allowed.
        """
        unrelated, left_out = {}, {}
        for plan in plans:
            try:
                unrelated[plan.role] = self.is_unrelated(plan, allowed=allow_unrelated, any_width=any_width)
            except (AlignmentError, SpaceMismatchError) as error:
                if not plan.optional:
                    raise
                left_out[plan.role] = error.message.partition("\n")[0]
        return unrelated, left_out

    def _map(self, run: Path) -> LearnedMap:
        from featstore.maps import load_map  # torch, only when a map is given

        if run not in self._maps:
            self._maps[run] = load_map(run)
        return self._maps[run]

    def _called(self, side: Side) -> str:
        name = self.features(side).name
        return name if side.run is None else f"{name} mapped by {side.run}"

    def _bridge(self, plan: CellPlan) -> str:
        query, gallery = self.features(plan.query), self.features(plan.gallery)
        if plan.query.run is not None or plan.gallery.run is not None:
            return "give a map that was trained for these two sets: `featstore train --help`"
        return (
            f"bridge them: featstore train --loss odpp --old {gallery.name} --new {query.name} --out RUN; "
            f"featstore apply RUN {query.name} --as {query.dataset.name}/MAPPED; then evaluate "
            f"{query.dataset.name}/MAPPED in place of {query.name}"
        )
