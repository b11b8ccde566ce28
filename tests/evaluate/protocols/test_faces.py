"""1:1 and 1:N against sorting all pairs, and templates against plain loops."""

import numpy as np
import pytest

from featstore.errors import AlignmentError, BadInputError, NonFiniteError, UsageError
from featstore.evaluate import pool_templates
from tests.evaluate import reference

N, PEOPLE = 80, 12


def people(seed=0, n=N, width=6, *, coarse=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, PEOPLE, n)
    features = rng.normal(size=(PEOPLE, width))[labels] + rng.normal(size=(n, width))
    if coarse:
        features = np.round(features / 2)
        features[~features.any(axis=1)] = 1
    return rng, labels, features.astype(np.float32)


def rates(score, genuine, impostor, far):
    """TAR at the largest false accept rate ≤ far, over every threshold there is."""
    allowed = [t for t in [*np.unique(score), np.inf] if (score[impostor] >= t).mean() <= far]
    return (score[genuine] >= min(allowed)).mean()


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "inner", "euclidean"])
def test_true_accept_rates_equal_sorting_all_pairs(world, coarse, kind):
    _, labels, features = people(coarse=coarse)
    world.add("faces", features, labels=labels)
    targets = ("1e-4", "1e-3", "0.013", "0.1", "0.7", "1")
    metrics = tuple(f"tar@far={target}" for target in targets)
    result = world.evaluate("faces/f", protocol="verification", metrics=metrics, score=kind, bootstrap=40)
    score = reference.scores(features, features, kind)
    others = ~np.eye(N, dtype=bool)
    genuine, impostor = (labels[:, None] == labels) & others, (labels[:, None] != labels) & others
    cell = result.cells[0]
    for metric, target in zip(metrics, targets, strict=True):
        assert cell.metrics[metric] == pytest.approx(rates(score, genuine, impostor, float(target)), abs=1e-12)
        threshold = cell.thresholds[metric]
        assert (score[impostor] >= threshold).mean() <= float(target)
        assert (score[genuine] >= threshold).mean() == pytest.approx(cell.metrics[metric], abs=1e-12)
        low, high = cell.interval[metric]
        assert low <= cell.metrics[metric] <= high
    assert [warning.partition(":")[0] for warning in cell.warnings] == ["tar@far=1e-4"]
    assert result.headline == "tar@far=1e-4"


def test_the_nearest_rate_is_offered_by_name_and_may_exceed_the_target(world):
    rng, _, _ = people()
    impostors = np.sort(rng.uniform(-1, 0.9, 9))[::-1]
    labels = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0])
    angles = np.arccos([*impostors, 0.5, 0.4])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    world.add("probe", np.array([[1.0, 0.0]]), labels=[0])
    world.add("faces", gallery, labels=labels[1:])
    cell = world.evaluate(
        "probe/f", "faces/f", protocol="verification", metrics=("tar@far=0.2", "tar@far=0.2:nearest")
    ).cells[0]
    honest, nearest = (cell.thresholds[metric] for metric in ("tar@far=0.2", "tar@far=0.2:nearest"))
    assert (impostors >= honest + 1e-6).sum() == 1  # 1 of 9 is below 0.2, 2 of 9 is nearer
    assert (impostors >= nearest - 1e-6).sum() == 2


def test_verification_and_identification_need_both_kinds(world):
    *_, features = people()
    world.add("faces", features, labels=np.zeros(N))
    with pytest.raises(UsageError, match="and 0 impostor pairs"):
        world.evaluate("faces/f", protocol="verification")
    with pytest.raises(UsageError, match="0 without a mate"):
        world.evaluate("faces/f", protocol="identification")


@pytest.mark.parametrize("coarse", [False, True])
def test_identification_equals_the_definition(world, coarse):
    rng, labels, features = people(3, coarse=coarse)
    role = np.where(rng.random(N) < 0.5, "probe", "gallery")
    role[(labels % 3 == 0)] = "probe"  # people who are not enrolled
    world.add("faces", features, labels=labels, columns={"role": role.tolist()})
    targets = ("0.01", "0.2", "0.5", "1")
    metrics = tuple(f"tpir@fpir={target}" for target in targets)
    result = world.evaluate(
        "faces/f", protocol="identification", metrics=metrics,
        query_where=("role=probe",), gallery_where=("role=gallery",),
    )  # fmt: skip
    probes, gallery = np.flatnonzero(role == "probe"), np.flatnonzero(role == "gallery")
    score = reference.scores(features[probes], features[gallery])
    mate = labels[probes][:, None] == labels[gallery]
    mated = mate.any(axis=1)
    best_mate = np.where(mate, score, -np.inf).max(axis=1)
    best_other = np.where(mate, -np.inf, score).max(axis=1)
    cell = result.cells[0]
    assert (cell.n_queries, cell.n_skipped) == (mated.sum(), (~mated).sum())
    strangers = score[~mated].max(axis=1)
    for metric, target in zip(metrics, targets, strict=True):
        thresholds = [t for t in [*np.unique(score), np.inf] if (strangers >= t).mean() <= float(target)]
        found = (best_mate > best_other) & (best_mate >= min(thresholds))
        assert cell.metrics[metric] == pytest.approx(found[mated].mean(), abs=1e-12)


def pooled(features, templates, media, weights, *, keep_norm):
    """Unit vectors by the definition, one template after another."""
    rows = features.astype(np.float64)
    if not keep_norm:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = []
    for template in np.unique(templates):
        inside = templates == template
        means = [
            np.mean(rows[inside & (media == medium)] * weights[inside & (media == medium), None], axis=0)
            for medium in np.unique(media[inside])
        ]
        vectors.append(np.sum(means, axis=0) / np.linalg.norm(np.sum(means, axis=0)))
    return np.array(vectors)


@pytest.mark.parametrize("keep_norm", [True, False])
def test_templates_are_weighted_means_of_media_summed(keep_norm):
    rng, _, features = people(5)
    templates, media, weights = rng.integers(0, 15, N), rng.integers(0, 3, N), rng.random(N)
    mirrored = rng.normal(size=features.shape)
    found, names = pool_templates(features, templates, media, weights, flipped=mirrored, keep_norm=keep_norm)
    expected = pooled(features + mirrored, templates, media, weights, keep_norm=keep_norm)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(names, np.unique(templates))
    alone, _ = pool_templates(features, np.arange(N))
    np.testing.assert_allclose(alone, features / np.linalg.norm(features.astype(float), axis=1, keepdims=True))
    with pytest.raises(AlignmentError, match="80 templates, 79 media"):
        pool_templates(features, templates, media[1:])
    with pytest.raises(NonFiniteError, match="1 of 2 templates"):
        pool_templates(np.array([[1.0], [-1.0], [2.0]]), np.array([0, 0, 1]))


def templates_of(labels, rng):
    """Each person's rows in templates of three, with names that sort otherwise than they come."""
    names = np.empty(len(labels), object)
    for person in np.unique(labels):
        rows = np.flatnonzero(labels == person)
        for number, part in enumerate(np.array_split(rows, max(len(rows) // 3, 1))):
            names[part] = f"t{rng.integers(1000):03d}-{person}-{number}"
    return names.tolist()


@pytest.mark.parametrize(("protocol", "keep_norm"), [("ijb-1:1", True), ("ijb-1:1:unit", False)])
def test_ijb_verifies_all_pairs_of_templates(world, protocol, keep_norm):
    rng, labels, features = people(7)
    templates, media = (
        templates_of(labels, rng),
        [None if rng.random() < 0.3 else f"m{rng.integers(2)}" for _ in range(N)],
    )
    weights = rng.random(N)
    world.add(
        "faces", features, labels=labels,
        columns={"template": templates, "media": media, "detector_score": weights}, failed=(8, 31),
    )  # fmt: skip
    result = world.evaluate("faces/f", protocol=protocol, metrics=("tar@far=0.05",))
    keep = ~np.isin(np.arange(N), [8, 31])
    numbers = np.unique(np.array(templates)[keep], return_inverse=True)[1]
    medium = np.array([hash(name) if name else row for row, name in enumerate(media)])
    vectors = pooled(features[keep], numbers, medium[keep], weights[keep], keep_norm=keep_norm)
    person = np.array([labels[keep][numbers == number][0] for number in range(len(vectors))])
    score = vectors @ vectors.T
    others = ~np.eye(len(vectors), dtype=bool)
    genuine, impostor = (person[:, None] == person) & others, (person[:, None] != person) & others
    assert result.cells[0].metrics["tar@far=0.05"] == pytest.approx(rates(score, genuine, impostor, 0.05), abs=1e-9)
    assert result.protocol.kind == protocol


def test_ijb_searches_templates_and_says_what_is_missing(world):
    rng, labels, features = people(8)
    templates = templates_of(labels, rng)
    role = ["probe" if label % 3 == 0 or row % 2 else "gallery" for row, label in enumerate(labels)]
    world.add("faces", features, labels=labels, columns={"template": templates, "role": role})
    where = {"query_where": ("role=probe",), "gallery_where": ("role=gallery",)}
    cell = world.evaluate("faces/f", protocol="ijb-1:n", **where).cells[0]
    assert list(cell.metrics) == ["tpir@fpir=0.01", "tpir@fpir=0.1"]
    world.add("plain", features, labels=labels)
    with pytest.raises(UsageError, match="no column 'template'"):
        world.evaluate("plain/f", protocol="ijb-1:1")
    world.add("mixed", features, labels=labels, columns={"template": ["a"] * N})
    with pytest.raises(BadInputError, match="1 templates of dataset mixed have rows of several classes"):
        world.evaluate("mixed/f", protocol="ijb-1:1")
