"""Templates: several images of one person, pooled to one vector, as on IJB-B and IJB-C.

Rows are weighted by their detector scores, averaged within a medium (a video's frames are one medium), summed over the
media, and normalised when they are scored. Public tools call the next choice by opposite names, and numbers depend on it:
with `keep_norm` (their published setting) a row counts with the norm that its encoder gave it, without it with norm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import AlignmentError, NonFiniteError
from featstore.evaluate.relevance import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from featstore.evaluate.vectors import Vectors

__all__ = ["PooledVectors", "Templates", "pool_templates"]


@dataclass(frozen=True, slots=True)
class Templates:
    """Which rows make up each template, ordered by template and then by medium.

    Attributes:
        order: Places of the rows in the order they were given in, int64 [n].
        media_starts: First row of each medium in that order, int64 [M].
        template_media: First medium of each template, int64 [T].
        weights: Weight of each row in that order, float64 [n].
        keep_norm: Whether rows keep their norm.
    """

    order: NDArray[np.int64]
    media_starts: NDArray[np.int64]
    template_media: NDArray[np.int64]
    weights: NDArray[np.float64]
    keep_norm: bool

    @classmethod
    def of(
        cls,
        templates: NDArray[np.integer],
        media: NDArray[np.integer] | None = None,
        weights: NDArray[np.floating] | None = None,
        *,
        keep_norm: bool = True,
    ) -> Templates:
        """Group rows.

        Args:
            templates: Template of each row, integers [n]; templates come out in ascending order.
            media: Medium of each row, integers [n], of any numbering; None lets every row be its own.
            weights: Detector scores [n]; None is 1 for all.
            keep_norm: Whether rows keep their norm.

        Raises:
            AlignmentError: The lengths differ.
        """
        n = len(templates)
        medium = np.arange(n) if media is None else np.asarray(media)
        weight = np.ones(n) if weights is None else np.asarray(weights, np.float64)
        if not n == len(medium) == len(weight):
            raise AlignmentError(f"{n} templates, {len(medium)} media and {len(weight)} weights")
        order = np.lexsort((medium, templates))
        template, medium = np.asarray(templates)[order], medium[order]
        new_template = np.append(True, template[1:] != template[:-1])[:n]
        media_starts = np.flatnonzero(new_template | np.append(True, medium[1:] != medium[:-1])[:n])
        return cls(order, media_starts, np.flatnonzero(new_template[media_starts]), weight[order], keep_norm)

    def __len__(self) -> int:
        return len(self.template_media)

    def digest(self) -> bytes:
        """What is pooled and how, in 32 bytes."""
        keep = np.array([self.keep_norm])
        return digest_of(self.order, self.media_starts, self.template_media, self.weights, keep)

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """The first row of each template, int64 [T]."""
        return self.order[self.media_starts[self.template_media]]


class PooledVectors:
    """One vector for each template.

    Args:
        vectors: The rows of `templates.order`, in that order.
        templates: How they are grouped.
    """

    def __init__(self, vectors: Vectors, templates: Templates) -> None:
        if vectors.rows != len(templates.order):
            raise AlignmentError(f"{vectors.rows} rows for templates of {len(templates.order)}")
        self._vectors = vectors
        self._templates = templates
        self.rows = len(templates)
        self.width = vectors.width

    def __str__(self) -> str:
        return f"templates of {self._vectors}"

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """Templates [start, stop), [stop - start, D] float64, not normalised."""
        t = self._templates
        media = np.append(t.template_media, len(t.media_starts))
        starts = np.append(t.media_starts, len(t.order))
        first, last = starts[media[start]], starts[media[stop]]
        if first == last:
            return np.zeros((0, self.width))
        rows = self._vectors.read(int(first), int(last)).astype(np.float64)
        if not t.keep_norm:
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            if not norms.all():
                bad = [int(first) + int(row) for row in np.flatnonzero(norms == 0)]
                raise NonFiniteError(
                    f"{self._vectors}: {len(bad)} rows of zero norm: {', '.join(self._vectors.names(bad[:5]))}",
                    hint="leave them out with --where, or keep the norms",
                )
            rows /= norms
        rows *= t.weights[first:last, None]
        own = starts[media[start] : media[stop] + 1] - first
        means = np.add.reduceat(rows, own[:-1]) / np.diff(own)[:, None]
        return np.add.reduceat(means, media[start:stop] - media[start])

    def names(self, rows: Sequence[int]) -> list[str]:
        """The first row of each template."""
        t = self._templates
        return self._vectors.names(t.media_starts[t.template_media[list(rows)]].tolist())


def pool_templates(
    features: NDArray[np.floating],
    templates: NDArray[np.integer],
    media: NDArray[np.integer] | None = None,
    weights: NDArray[np.floating] | None = None,
    *,
    flipped: NDArray[np.floating] | None = None,
    keep_norm: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Pool rows to templates.

    Args:
        features: [n, D], as the encoder emitted them.
        templates: Template of each row, integers [n].
        media: Medium of each row, integers [n]; None lets every row be its own.
        weights: Detector scores [n]; None is 1 for all.
        flipped: Features of the mirrored images [n, D], added to the others.
        keep_norm: Whether rows keep their norm before pooling.

    Returns:
        Unit vectors [T, D] float64, and the template of each, ascending.

    Raises:
        AlignmentError: The lengths differ.
        NonFiniteError: A template, or without `keep_norm` a row, has no direction.
    """
    from featstore.evaluate.vectors import ArrayVectors

    rows = features.astype(np.float64) if flipped is None else features.astype(np.float64) + flipped
    grouped = Templates.of(templates, media, weights, keep_norm=keep_norm)
    pooled = PooledVectors(ArrayVectors(rows[grouped.order]), grouped).read(0, len(grouped))
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise NonFiniteError(f"{int((~(norms > 0)).sum())} of {len(norms)} templates have no direction")
    return pooled / norms, np.asarray(templates)[grouped.first_rows]
