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


def scores(query, gallery, kind="cosine"):
    """Canonical scores [Q, G] of raw rows by their definition."""
    if kind == "cosine":
        return products(unit(query), unit(gallery))
    query, gallery = query.astype(np.float32), gallery.astype(np.float32)
    if kind == "inner":
        return products(query, gallery)
    square = np.array([products(row[None], row[None])[0, 0] for row in gallery])
    parts = [np.float32(square)]
    for _ in range(2):
        parts.append(np.float32(square - np.sum(parts, axis=0, dtype=np.float64)))
    ones = np.ones((len(query), 3), np.float32)
    return products(np.hstack([2 * query, ones]), np.hstack([gallery, -np.stack(parts, axis=1)]))


def products(query, gallery):
    """float64 dot products of float32 rows: eight sums, the tail in the first, added pairwise."""
    q, g = query.astype(np.float64), gallery.astype(np.float64)
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
    if name == "map:trapezoid":
        before = [1.0 if p == 0 else rel[:p].sum() / p for p in range(len(rel))]
        return sum((before[p] + precision[p]) / 2 for p in np.flatnonzero(rel)) / total
    if name == "map@r":
        return (rel * precision)[:total].sum() / total
    if name == "r-precision":
        return rel[:total].sum() / total
    if name == "mrr":
        return 1 / (1 + np.argmax(rel))
    family, _, cut = name.partition("@")
    k = int(cut.partition(":")[0])
    convention = cut.partition(":")[2]
    hits = rel[:k].sum()
    if family == "map":
        divisor = {"R": total, "hits": max(hits, 1)}.get(convention, min(total, k))
        return (rel * precision)[:k].sum() / divisor
    if name.endswith(":revisited"):
        k = min(k, np.flatnonzero(rel).max() + 1)
        return rel[:k].sum() / k
    if family == "ndcg":
        discount = 1 / np.log2(np.arange(2, len(rel) + 2))
        return (rel * discount)[:k].sum() / np.sort(rel)[::-1][:k].dot(discount[:k])
    return {"recall": float(hits > 0), "ir-recall": hits / total, "precision": hits / k}[family]
