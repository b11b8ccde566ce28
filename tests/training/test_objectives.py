"""Every objective's loss and gradient against plain loops written from the equation, in float64."""

import math

import pytest
import torch

from featstore.errors import UnknownNameError, UsageError
from featstore_training.heads import CosineSoftmax
from featstore_training.objectives import Batch, ClassSide, find_objective, losses
from featstore_training.prototypes import Prototypes, class_means

B, C, D = 7, 5, 4
UNSEEN = 3  # the class without any old feature
SCALE = 12.0


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b)
    )


def cross_entropy(logits, target):
    return math.log(sum(math.exp(v) for v in logits)) - logits[target]


@pytest.fixture
def case():
    draw = torch.Generator().manual_seed(5)
    feature = torch.randn(B, D, generator=draw, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3, 4, 3, 0])
    old = torch.nn.functional.normalize(torch.randn(B, D, generator=draw, dtype=torch.float64), dim=1)
    means = 0.7 * torch.nn.functional.normalize(torch.randn(C, D, generator=draw, dtype=torch.float64) + 1, dim=1)
    means[UNSEEN] = 0
    head = CosineSoftmax(C, D, SCALE, draw).double()
    side = ClassSide(C, 12, Prototypes(means, torch.tensor([3, 2, 4, 0, 2])))
    return feature, label, old, head, side


def reference(name, params, feature, label, old, head, side, moved=None):
    """The equations, with Python floats."""
    weights = head.weight.detach().tolist()
    prototypes = side.prototypes.means.tolist()
    moved = prototypes if moved is None else moved.tolist()
    rows = feature.tolist()
    total = sum(
        cross_entropy([SCALE * cosine(row, w) for w in weights], y) for row, y in zip(rows, label.tolist(), strict=True)
    ) / len(rows)
    if name == "l2":
        gaps = []
        for row, target in zip(rows, old.tolist(), strict=True):
            norm = math.sqrt(sum(v * v for v in row))
            gaps.append(math.sqrt(sum((v / norm - t) ** 2 for v, t in zip(row, target, strict=True))))
        total += params["weight"] * sum(max(0.0, gap - params["theta"]) for gap in gaps) / len(gaps)
    elif name != "independent":
        columns = prototypes if params.get("perturb") == "positive_only" else moved
        known = [c for c in range(C) if c != UNSEEN]
        costs = []
        for row, y in zip(rows, label.tolist(), strict=True):
            if y != UNSEEN:
                logits = [params["scale"] * cosine(row, moved[c] if c == y else columns[c]) for c in known]
                costs.append(cross_entropy(logits, known.index(y)))
        total += params["weight"] * sum(costs) / len(costs)
    return total


CASES = [
    ("independent", {}),
    ("l2", {"weight": 3.0, "theta": 0.0}),
    ("l2", {"weight": 3.0, "theta": 1.2}),
    ("bct", {"weight": 0.5, "scale": 9.0}),
    ("odpp", {"weight": 0.5, "scale": 9.0, "tau_old": 0.1, "mu": 0.1}),
    ("odpp", {"weight": 0.5, "scale": 9.0, "tau_old": 0.1, "mu": 0.1, "perturb": "positive_only"}),
]


@pytest.mark.parametrize(("name", "params"), CASES)
def test_loss_and_gradient_follow_the_equation(name, params, case):
    feature, label, old, head, side = case
    cls = find_objective(name)
    made = cls(cls.Params(**params), side)
    made.begin()
    moved = made.moved() if name == "odpp" else None
    if moved is not None:
        assert (moved - side.prototypes.unit()).abs().max() > 0.05  # something is perturbed

    leaf = feature.clone().requires_grad_()
    terms = made.loss(Batch(leaf, label, {"old_feature": old}), head)
    total = sum(terms.values())
    total.backward()
    assert float(total.detach()) == pytest.approx(reference(name, params, feature, label, old, head, side, moved))

    step = 1e-6
    for i in range(B):
        for j in range(D):
            up, down = feature.clone(), feature.clone()
            up[i, j] += step
            down[i, j] -= step
            slope = (
                reference(name, params, up, label, old, head, side, moved)
                - reference(name, params, down, label, old, head, side, moved)
            ) / (2 * step)
            assert float(leaf.grad[i, j]) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("name", ["bct", "odpp"])
def test_rows_of_unknown_classes_cost_nothing_in_the_influence_term(name, case):
    feature, _, _, head, side = case
    cls = find_objective(name)
    leaf = feature.clone().requires_grad_()
    influence = cls(cls.Params(), side).loss(Batch(leaf, torch.full((B,), UNSEEN), {}), head)["influence"]
    influence.backward()
    assert float(influence.detach()) == 0
    assert not leaf.grad.any()


def test_l2_has_a_finite_gradient_where_new_equals_old(case):
    _, label, old, head, side = case
    cls = find_objective("l2")
    leaf = old.clone().requires_grad_()
    cls(cls.Params(), side).loss(Batch(leaf, label, {"old_feature": old}), head)["distance"].backward()
    assert torch.isfinite(leaf.grad).all()


def test_registry_lists_and_refuses():
    assert [info.name for info in losses()] == ["bct", "independent", "l2", "odpp"]
    assert all(info.summary and info.paper for info in losses())
    with pytest.raises(UnknownNameError, match="odp") as caught:
        find_objective("odp")
    assert "did you mean odpp" in caught.value.hint
    with pytest.raises(UsageError, match="tau") as caught:
        find_objective("odpp").Params(tau=0.3)
    assert "tau_old" in caught.value.hint


def test_class_means_are_means_of_unit_rows_whatever_the_blocks():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(23, 6, generator=draw) * 5
    labels = torch.randint(0, 4, (23,), generator=draw)
    labels[labels == 2] = 1
    whole = class_means([(features, labels)], 4)
    parts = class_means(zip(features.split(5), labels.split(5), strict=True), 4)
    torch.testing.assert_close(whole.means, parts.means, atol=1e-7, rtol=0)
    for c in range(4):
        rows = [row / row.norm() for row, y in zip(features, labels, strict=True) if y == c]
        expected = sum(rows) / len(rows) if rows else torch.zeros(6)
        torch.testing.assert_close(whole.means[c], expected, atol=1e-6, rtol=0)
    assert whole.known.tolist() == [True, True, False, True]
    assert whole.counts.sum() == 23
    norms = whole.unit().norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 1.0, 0.0, 1.0]))
