"""The inner problem of ODPP: its objective, its steps, and what they leave unchanged."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from featstore_training.heads import CosineSoftmax
from featstore_training.objectives import Batch, ClassSide, find_objective
from featstore_training.objectives.perturbation import Adam, Pairs, Problem, perturb, perturbed, trust_region
from featstore_training.prototypes import Prototypes

C, D = 12, 6


def unit(rows, width, seed, offset=0.0):
    draw = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, width, generator=draw, dtype=torch.float64) + offset, dim=1)


def problem(**changes):
    old = unit(C, D, 1, offset=0.8)
    known = torch.ones(C, dtype=torch.bool)
    known[4] = False
    old[4] = 0
    settings = {"new": unit(C, D, 2, offset=0.8), "tau_old": 0.3, "tau_new": 0.4, "mu": 0.2, "kappa": -1.0}
    return Problem(**({"old": old, "known": known} | settings | changes))


def plain_objective(problem, delta):
    """The formula in `perturbation`, pair by pair."""
    moved = [functional.normalize(problem.old[c] + delta[c], dim=0) for c in range(C)]
    total = torch.zeros((), dtype=torch.float64)
    for c in range(C):
        for j in range(C):
            if j == c or not problem.known[c] or not problem.known[j]:
                continue
            total = total + (moved[c] @ moved[j] - problem.tau_old).clamp(min=0)
            if problem.new is not None:
                total = total + (moved[c] @ problem.new[j] - problem.tau_new).clamp(min=0)
    return total / C + problem.mu * delta.square().sum() / C


def adam_for(delta):
    return Adam(torch.zeros_like(delta), torch.zeros_like(delta), torch.zeros((), dtype=torch.int64))


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("dense_classes", [5000, 0])
def test_objective_and_gradient_equal_the_formula_on_all_pairs_and_on_neighbour_lists(new, dense_classes):
    p = problem(dense_classes=dense_classes, **({} if new else {"new": None}))
    delta = 0.2 * unit(C, D, 3)
    delta[4] = 0
    leaf = delta.clone().requires_grad_()
    expected = plain_objective(p, leaf)
    expected.backward()
    value, _, gradient = Pairs.choose(p, delta).evaluate(delta)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, leaf.grad)


def test_adam_takes_the_steps_of_torchs():
    leaf = torch.nn.Parameter(unit(C, D, 4))
    theirs = torch.optim.Adam([leaf], lr=0.01)
    ours, state = leaf.detach().clone(), adam_for(leaf.detach())
    for _ in range(5):
        leaf.grad = leaf.detach() ** 3
        ours = ours - 0.01 * state.direction(ours**3)
        theirs.step()
    torch.testing.assert_close(ours, leaf.detach())


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_no_step_raises_the_objective_nor_without_a_price_the_hinge(rate):
    for mu in (0.2, 0.0):
        p = problem(mu=mu)
        delta = torch.zeros_like(p.old)
        trace = perturb(p, delta, adam_for(delta), steps=40, rate=rate)
        values = [value for value, _ in trace]
        assert all(later <= earlier for earlier, later in pairwise(values))
        assert values[-1] < values[0]
        assert trace[-1][1] < trace[0][1]  # from Δ = 0 the hinge pays for whatever the price took
        if mu == 0:
            hinges = [hinge for _, hinge in trace]
            assert all(later <= earlier for earlier, later in pairwise(hinges))
        assert not delta[4].any()


def test_trust_region_keeps_directions_inside_the_cone():
    old, delta = unit(C, D, 5), 2 * unit(C, D, 6)
    inside = trust_region(old, delta, 0.8)
    cosine = (old * perturbed(old, inside)).sum(dim=1)
    assert cosine.min() >= 0.8 - 1e-12
    small = 0.1 * delta
    torch.testing.assert_close(trust_region(old, small, 0.8), small, atol=0, rtol=0)
    # the rim lies on the arc between p and where p̃ was
    moved = perturbed(old, delta)
    rim = perturbed(old, inside)
    gap = torch.stack([torch.stack([o, m, r]) for o, m, r in zip(old, moved, rim, strict=True)])
    assert torch.linalg.svdvals(gap)[:, 2].max() < 1e-7


def make(side, **params):
    cls = find_objective("odpp")
    return cls(cls.Params(**params), side)


def side(means, epochs=12):
    return ClassSide(len(means), epochs, Prototypes(means, torch.ones(len(means), dtype=torch.int64)))


def batch(seed=7):
    return Batch(unit(20, D, seed), torch.arange(20) % C, {})


class Now:
    """New prototypes that are given."""

    def __init__(self, directions):
        self.directions = directions

    def prototypes(self):
        return Prototypes(self.directions, torch.ones(len(self.directions)))


def test_without_a_violated_pair_it_is_bct():
    means = unit(C, D, 1)
    bct = find_objective("bct")
    reference = bct(bct.Params(), side(means))
    head = CosineSoftmax(C, D, 16.0, torch.Generator().manual_seed(0)).double()
    for perturb_what in ("both", "positive_only"):
        odpp = make(side(means), tau_old=0.99, perturb=perturb_what)
        notes = odpp.begin()
        assert len(notes) == 1
        assert "no two old prototypes" in notes[0]
        odpp.refresh(2, Now(unit(C, D, 9)))
        ours, theirs = odpp.loss(batch(), head), reference.loss(batch(), head)
        for name in theirs:
            assert float(ours[name].detach()) == pytest.approx(float(theirs[name].detach()), abs=1e-6)


def test_a_single_class_is_a_note_not_a_crash():
    assert "fewer than two" in make(side(unit(1, D, 1))).begin()[0]


def test_classes_in_another_order_give_the_same_prototypes_in_that_order():
    means, new = unit(C, D, 1, offset=0.8), unit(C, D, 2, offset=0.8)
    order = torch.randperm(C, generator=torch.Generator().manual_seed(3))
    plain, shuffled = make(side(means), tau_old=0.2), make(side(means[order]), tau_old=0.2)
    for odpp, q in ((plain, new), (shuffled, new[order])):
        odpp.begin()
        odpp.refresh(2, Now(q))
    assert plain.delta.abs().max() > 0.05
    torch.testing.assert_close(shuffled.moved(), plain.moved()[order], atol=1e-9, rtol=0)


def test_refresh_waits_then_comes_every_other_epoch():
    odpp = make(side(unit(C, D, 1, offset=0.8), epochs=18), tau_old=0.2)
    odpp.begin()
    ran = [e for e in range(1, 10) if odpp.refresh(e, Now(unit(C, D, e)))]
    assert ran == [3, 5, 7, 9]
    figures = odpp.refresh(11, Now(unit(C, D, 11)))
    assert 0.8 - 1e-9 <= figures["prototype_cosine_min"] <= figures["prototype_cosine"] < 1
    assert figures["nearest_after"] < figures["nearest_before"]


def test_a_restored_objective_goes_on_where_it_stopped():
    means = unit(C, D, 1, offset=0.8)

    def go(odpp, epochs):
        for e in epochs:
            odpp.refresh(e, Now(unit(C, D, e, offset=0.8)))

    whole = make(side(means), tau_old=0.2)
    whole.begin()
    go(whole, [2, 4, 6])
    first = make(side(means), tau_old=0.2)
    first.begin()
    go(first, [2, 4])
    second = make(side(means), tau_old=0.2)
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    go(second, [6])
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], value, atol=0, rtol=0)
    assert int(second.adam_step) == 100 + 3 * 30
