"""The verdict: may new queries search the old gallery?

M(q, g) is a metric with queries of model q against a gallery of model g. A new model is compatible with an old one when
M(new, old) > M(old, old) (Shen et al. 2020, "Towards backward-compatible representation learning", the empirical
criterion); here it has to be so beyond the 95 % interval of the paired difference. A role names the two: `new/old`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.evaluate.statistics import Column, Estimate, Resampled

__all__ = [
    "CANDIDATE",
    "REFERENCE",
    "Gain",
    "Scores",
    "all_of",
    "baseline",
    "comparisons",
    "gain",
    "is_own",
    "subject_of",
    "verdict",
]

REFERENCE = "reference"
CANDIDATE = "candidate"
_MAPPED = "mapped-"


class Gain(NamedTuple):
    """The update gain and the scores of AdvBCT on one dataset, or why there are none.

    Attributes:
        update_gain: (M(new, old) − M(old, old)) / (M(reference, reference) − M(old, old)).
        scores: P_up, P_comp and P_1.
        reason: Why both are None.
    """

    update_gain: Estimate | None
    scores: Scores | None
    reason: str | None


class Scores(NamedTuple):
    """The scores of AdvBCT (Pan et al. 2023) on one dataset, with s the logistic function.

    Attributes:
        p_up: s((M(new, new) − M(reference)) / M(reference)): 0.5 when the new model is as good as the unconstrained one.
        p_comp: s((M(new, old) − M(old, old)) / (M(reference) − M(old, old))): 0.5 when the cross-test equals old/old.
        p_1: Their harmonic mean. Over several datasets each score is averaged on its own (the mean of the harmonic means).
    """

    p_up: Estimate
    p_comp: Estimate
    p_1: Estimate


def baseline(role: str) -> str | None:
    """The cell that a cross-test has to beat, the gallery's own model on its gallery: `new/old` → `old/old`.

    None for a role that is no cross-test.
    """
    query, gallery = (part.removeprefix(_MAPPED) for part in role.partition("/")[::2])
    gallery = "old" if gallery == CANDIDATE else gallery
    return None if not gallery or query == gallery or role == "query/gallery" else f"{gallery}/{gallery}"


def is_own(role: str) -> bool:
    """Whether a model searches its own gallery: `old/old`, `v2/v2`."""
    query, _, gallery = role.partition("/")
    return query == gallery


def comparisons(roles: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of cells whose difference means something: (after, before).

    Every cross-test against what its gallery has today, every newer model on its own gallery against the oldest, the
    reference against the oldest and the newest against the reference.
    """
    known = list(roles)
    pairs = [(role, before) for role in known if (before := baseline(role)) in known]
    own = [role for role in known if is_own(role)]
    pairs += [(role, own[0]) for role in own[1:]]
    if REFERENCE in known and own:
        pairs += [(REFERENCE, own[0])]
        pairs += [(own[-1], REFERENCE)] if len(own) > 1 else []
    return [(after, before) for after, before in pairs if before is not None]


def subject_of(roles: Iterable[str]) -> str | None:
    """The cross-test that the verdict is about: the newest model on the gallery that is to be shipped, if one was named.

    Otherwise on the oldest gallery, as it is if that was measured.

    None when no cross-test has its baseline.
    """
    known = list(roles)
    cross = [role for role in known if baseline(role) in known]
    shipped = [role for role in cross if role.endswith(f"/{CANDIDATE}")]
    if shipped:
        return shipped[-1]
    plain = [role for role in cross if _MAPPED not in role]
    newest = [role for role in plain or cross if role.endswith(("/old", "/mapped-old", "/v1"))]
    return newest[-1] if newest else None


def deciding(cross_tests: Iterable[str], subject: str | None) -> list[str]:
    """The cross-tests that the verdict rests on: all of a chain; a mapped role only when it is the subject.

    A mapped role beside `new/old` is another way to deploy, with its own entry in the criterion; and beside a candidate,
    everything else is.
    """
    if subject is not None and subject.endswith(f"/{CANDIDATE}"):
        return [subject]
    return [role for role in cross_tests if role == subject or _MAPPED not in role]


def threshold_roles(roles: Iterable[str]) -> list[str]:
    """The cells that a score threshold goes through in an upgrade: today's first, then the subject, then the newest own.

    A single pair of sets stands alone.
    """
    known = list(roles)
    subject = subject_of(known)
    own = [role for role in known if is_own(role)]
    found = [baseline(subject) if subject else None, subject, own[-1] if own else known[0]]
    return list(dict.fromkeys(role for role in found if role))


def verdict(difference: Estimate) -> bool | None:
    """Of a cross-test − its baseline: True when the interval lies above 0, False when it ends at or below 0, else None."""
    if difference.low is None or difference.high is None:
        return None
    if difference.low > 0:
        return True
    return False if difference.high <= 0 else None


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """True when all are, False when one is, else None."""
    found = list(verdicts)
    return False if False in found else None if None in found else True


def gain(metric: str, resampled: Resampled, *, subject: str, before: str, after: str) -> Gain:
    """The update gain and P_up, P_comp, P_1 of one metric.

    Args:
        metric: The metric.
        resampled: Cells and their resamples.
        subject: The cross-test.
        before: Its baseline.
        after: The newest model on its own gallery.

    Returns:
        Numbers only when the interval of reference − baseline lies above 0: otherwise the denominator says nothing.
    """
    reference = Column(REFERENCE, metric)
    if not resampled.has(reference):
        return Gain(None, None, "no reference set was given")
    possible = resampled.estimate({reference: 1.0, Column(before, metric): -1.0})
    if possible.low is None:
        return Gain(None, None, f"without a bootstrap nothing says that the reference is better than {before}")
    if possible.low <= 0:
        return Gain(None, None, f"the reference is not surely better than {before}")
    columns = [Column(subject, metric), Column(before, metric), reference]
    found = resampled.function(columns, lambda cross, old, best: (cross - old) / (best - old))
    if not resampled.has(Column(after, metric)):
        return Gain(found, None, None)
    columns.append(Column(after, metric))
    scores = Scores(
        *(resampled.function(columns, lambda *cells, which=which: advbct(*cells)[which]) for which in range(3))
    )
    return Gain(found, scores, None)


def advbct(
    cross: NDArray[np.float64], old: NDArray[np.float64], reference: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """P_up, P_comp and P_1 (see `Scores`) of one dataset, from cells of any one shape."""
    up = 1 / (1 + np.exp(-(new - reference) / reference))
    comp = 1 / (1 + np.exp(-(cross - old) / (reference - old)))
    return up, comp, 2 * up * comp / (up + comp)


def sentence(metric: str, verdicts: Mapping[str, bool | None], resampled: Resampled, subject: str) -> str:
    """The verdict on one metric, in words."""
    before = baseline(subject) or ""
    cross, old = (resampled.estimate({Column(role, metric): 1.0}).value for role in (subject, before))
    difference = resampled.estimate({Column(subject, metric): 1.0, Column(before, metric): -1.0})
    scores = f"{metric} of {subject} {100 * cross:.1f} % against {100 * old:.1f} % of {before}, {100 * difference.value:+.1f}"
    decided = all_of(verdicts.values())
    word = {True: "compatible", False: "not compatible", None: "undecided"}[decided]
    if difference.low is None or difference.high is None:
        return f"{word}: {scores} points, without an interval"
    scores += f" points (95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    if verdict(difference) is None:
        scores += ", which includes 0"
    if len(verdicts) > 1:
        passed = sum(found is True for found in verdicts.values())
        scores += f"; {passed} of {len(verdicts)} cross-tests pass"
    return f"{word}: {scores}"
