"""The evaluator's definitions, written for reading: everything is sorted, nothing is fast."""

import numpy as np


def unit(rows):
    """float32 unit rows by the definition: float64 norm, one rounding."""
    wide = rows.astype(np.float64)
    squares = wide**2
    whole = wide.shape[1] - wide.shape[1] % 4
    sums = np.zeros((len(rows), 4))
    for i in range(0, whole, 4):
        sums += squares[:, i : i + 4]
    for i in range(whole, wide.shape[1]):
        sums[:, 0] += squares[:, i]
    norm = np.sqrt((sums[:, 0] + sums[:, 1]) + (sums[:, 2] + sums[:, 3]))
    return (wide / norm[:, None]).astype(np.float32)


def scores(query, gallery):
    """Canonical scores [Q, G] of raw rows: eight float64 sums, the tail in the first, added pairwise."""
    q, g = unit(query).astype(np.float64), unit(gallery).astype(np.float64)
    products = q[:, None, :] * g[None, :, :]
    whole = q.shape[1] - q.shape[1] % 8
    s = np.zeros((len(q), len(g), 8))
    for i in range(0, whole, 8):
        s += products[:, :, i : i + 8]
    for i in range(whole, q.shape[1]):
        s[:, :, 0] += products[:, :, i]
    s = s[..., 0::2] + s[..., 1::2]
    s = s[..., 0::2] + s[..., 1::2]
    return s[..., 0] + s[..., 1]


def relevance_of_ranking(score, relevant, keep):
    """The 0/1 list of one query's ranking: score descending, then gallery row ascending."""
    rows = np.flatnonzero(keep)
    order = rows[np.lexsort((rows, -score[rows]))]
    return relevant[order].astype(int)


def metric(name, rel):
    """One metric of a 0/1 relevance list with at least one hit."""
    total = rel.sum()
    precision = np.cumsum(rel) / np.arange(1, len(rel) + 1)
    if name == "map":
        return (rel * precision).sum() / total
    if name == "map@r":
        return (rel * precision)[:total].sum() / total
    if name == "r-precision":
        return rel[:total].sum() / total
    if name == "mrr":
        return 1 / (1 + np.argmax(rel))
    return float(rel[: int(name.split("@")[1])].any())
