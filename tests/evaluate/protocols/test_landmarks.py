"""Google Landmarks v2 against the official scorer's definition."""

import numpy as np
import pytest

from featstore.errors import AlignmentError, BadInputError
from tests.evaluate import reference


def official(ranking, relevant, k=100):
    """Σ_{i ≤ k} [image i is relevant and new]·hits/i over min(R, k)."""
    hits, total = 0, 0.0
    for place, image in enumerate(ranking[:k], 1):
        if image in relevant:
            hits += 1
            total += hits / place
    return total / min(len(relevant), k) if relevant else 0.0


@pytest.fixture
def landmarks(world, tmp_path):
    rng = np.random.default_rng(0)
    gallery, query = rng.normal(size=(400, 6)).astype(np.float32), rng.normal(size=(12, 6)).astype(np.float32)
    names = [f"{row:016x}" for row in range(412)]
    world.add("index", gallery, ids=[f"{name[0]}/{name[1]}/{name}.jpg" for name in names[:400]])
    world.add("test", query, ids=[f"{name}.jpg" for name in names[400:]], failed=(11,))
    lines, world.expected = ["id,images,Usage"], {"Public": [], "Private": []}
    for row in range(12):
        relevant = [names[at] for at in rng.permutation(400)[: rng.integers(1, 160)]]
        if row == 0:
            relevant += ["ffff", "eeee"]  # answers that the index lacks count as missed
        if row == 1:
            relevant = []
        usage = ["Public", "Private", "Private", "Ignored"][row % 4]
        lines.append(f"{names[400 + row]},{' '.join(relevant)},{usage}")
        order = np.argsort(-reference.scores(query[row : row + 1], gallery)[0], kind="stable")
        if usage != "Ignored":
            world.expected[usage].append(0.0 if row == 11 else official([names[at] for at in order], relevant))
    lines.append("0123456789abcdef0,aa,Private")  # a query of the solution that was never encoded
    world.expected["Private"].append(0.0)
    world.path = tmp_path / "solution.csv"
    world.path.write_text("\n".join(lines) + "\n")
    return world


def test_both_halves_score_as_the_official_scorer_does(landmarks):
    for protocol, usage in (("gldv2", "Private"), ("gldv2-public", "Public")):
        result = landmarks.evaluate("test/f", "index/f", protocol=protocol, ground_truth=landmarks.path)
        cell = result.cells[0]
        assert cell.metrics["map@100"] == pytest.approx(np.mean(landmarks.expected[usage]), abs=1e-9)
        assert (cell.n_queries, cell.n_skipped) == (len(landmarks.expected[usage]), 0)
    result = landmarks.evaluate(
        "test/f", "index/f", protocol="gldv2", ground_truth=landmarks.path, bootstrap=50, metrics=("map@100:R",)
    )
    low, high = result.cells[0].interval["map@100"]
    assert low <= result.cells[0].metrics["map@100"] <= high
    assert any("no feature and count as 0" in note for note in result.protocol.notes)


def test_files_that_are_no_solution_are_refused(landmarks, tmp_path):
    path = tmp_path / "bad.csv"

    def scored():
        landmarks.evaluate("test/f", "index/f", protocol="gldv2", ground_truth=path)

    for text, message in [
        ("a,b\n1,2\n", "has columns"),
        ("id,images,Usage\nq,a,Public\n", "no query of usage private"),
        ("id,images,Usage\nq,a,Private\nq,b,Private\n", "lists the query q twice"),
    ]:
        path.write_text(text)
        with pytest.raises(BadInputError, match=message):
            scored()
    path.write_text("id,images,Usage\nnobody,a,Private\n")
    with pytest.raises(AlignmentError, match="none of the 1 queries is in dataset test"):
        scored()
