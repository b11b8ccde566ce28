"""What single methods are made of: prototypes, influence, refinement, perturbation, adversaries, queues, mixing."""

import pytest
import torch

from featstore.errors import UsageError
from featstore_training.bridges import make_bridge
from featstore_training.heads import Softmax
from featstore_training.objectives import ClassSide, find_objective, objective_params
from featstore_training.objectives.advbct import AdvBct
from featstore_training.objectives.refinement import refined_weights
from featstore_training.old_head import OldHead
from featstore_training.prototypes import Prototypes, class_means

from . import equations
from .equations import SCALE, UNSEEN, C, D, batch, build, make_case, unit


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_whitened_prototypes_follow_the_equation(power):
    case = make_case()
    objective = build("bct", case, scale=SCALE, whiten={"power": power, "shrinkage": 0.3})
    got = objective.loss(batch(case, case.feature), case.head)["influence"]
    expected = (
        equations.whitened(case, case.feature, 1, 0.3)
        if power
        else {"influence": 2 * equations.bct(case, case.feature)["influence"]}
    )
    torch.testing.assert_close(got, expected["influence"])


@pytest.mark.parametrize("name", ["ndpp", "odpp"])
@pytest.mark.parametrize("perturb", ["both", "positive_only"])
def test_without_perturbation_it_is_bct_prototype(name, perturb):
    case = make_case()
    still = {"eta_old": 0, "eta_new": 0} if name == "ndpp" else {"tau_old": 1.0}
    reference = build("bct:prototype", case).loss(batch(case, case.feature), case.head)
    got = build(name, case, perturb=perturb, **still).loss(batch(case, case.feature), case.head)
    for key, value in reference.items():
        torch.testing.assert_close(got[key], value, atol=1e-6, rtol=0)


def test_old_classifier_in_the_influence_term_without_margin_and_without_classes_it_does_not_know():
    case = make_case()
    old_head = Softmax(3, D, torch.Generator().manual_seed(4)).double().requires_grad_(requires_grad=False)
    old_head.bias += torch.tensor([0.3, -0.2, 0.1])
    column = torch.tensor([2, -1, 0, -1, 1, -1])  # classes 0, 2 and 4 are old classes 2, 0 and 1
    case.side = ClassSide(C, 12, case.side.prototypes, case.old, OldHead(old_head, column))
    params = objective_params("bct:classifier", {"weight": 0.5})
    objective = find_objective("bct:classifier")(params, case.side)
    assert "3 of 6 classes" in objective.begin()[0]
    ours, theirs = (case.feature.clone().requires_grad_() for _ in range(2))
    got = objective.loss(batch(case, ours), case.head)["influence"]
    costs = []
    for f, y in zip(theirs, case.label.tolist(), strict=True):
        if column[y] >= 0:
            logits = [f @ w + b for w, b in zip(old_head.weight, old_head.bias, strict=True)]
            costs.append(equations.ce(logits, int(column[y])))
    expected = 0.5 * equations.mean(costs)
    torch.testing.assert_close(got, expected)
    got.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert not list(objective.parameters())


def test_unibct_refines_with_rows_that_sum_to_one_and_the_column_form_does_nothing():
    new = unit(9, D, 5, offset=0.5)
    settings = {"temperature": 0.05, "strength": 0.9}
    row = refined_weights(new, graph="row", **settings)
    # from the series: V = (1 − λ) Σ_t (λΩ)^t F, prototype = mean of V
    affinity = new @ new.T / 0.05
    affinity.fill_diagonal_(-1e9)
    omega, old = affinity.softmax(dim=1), unit(9, D, 6)
    v = old
    for _ in range(400):
        v = 0.9 * omega @ v + 0.1 * old
    torch.testing.assert_close(row @ old, v.mean(dim=0))
    assert float(row.sum()) == pytest.approx(1)
    assert row.max() / row.min() > 1.5
    column = refined_weights(new, graph="column", **settings)
    torch.testing.assert_close(column, torch.full_like(column, 1 / 9))
    torch.testing.assert_close(refined_weights(new[:1], graph="row", **settings), torch.ones(1, dtype=torch.float64))
    rotation, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(8), dtype=torch.float64))
    torch.testing.assert_close(refined_weights(new @ rotation, graph="row", **settings), row)


def test_row_weights_trust_clean_labels():
    clean, noise = unit(30, 8, 7, offset=1.5), unit(10, 8, 8)
    weights = refined_weights(torch.cat([clean, noise]), temperature=0.05, strength=0.9, graph="row")
    assert weights[:30].mean() > 2 * weights[30:].mean()


class Now:
    """Current features that are given."""

    def __init__(self, features, case):
        self.features, self.case = features, case

    def prototypes(self):
        return class_means([(self.features, self.case.old.labels)], C)

    def by_class(self):
        for code, members, old in self.case.old.by_class():
            yield code, self.features[torch.from_numpy(members)], old


@pytest.mark.parametrize("form", ["unibct", "unibct:column"])
def test_unibct_waits_refines_and_counts(form):
    case = make_case()
    objective = build(form, case, scale=SCALE)
    assert float(objective.loss(batch(case, case.feature), case.head)["influence"]) == 0
    now = Now(unit(18, D, 9, offset=0.5), case)
    ran = [epoch for epoch in range(1, 13) if objective.refresh(epoch, now)]
    assert ran == [3, 7]
    got = objective.loss(batch(case, case.feature), case.head)["influence"]
    plain = 2 * equations.bct(case, case.feature)["influence"]
    if form == "unibct:column":
        torch.testing.assert_close(got, plain)  # the literal form is a no-op
    else:
        columns = {}
        for code, new, old in now.by_class():
            weights = refined_weights(new, temperature=0.05, strength=0.9, graph="row")
            refined = sum(w * o for w, o in zip(weights, old, strict=True))
            columns[code] = refined / refined.norm()
        torch.testing.assert_close(got, equations.prototype_softmax(case, case.feature, columns))
        assert abs(float(got - plain)) > 1e-4


def test_ndpp_moves_away_from_neighbours_in_both_spaces():
    case = make_case()
    now = Now(unit(18, D, 9, offset=0.5), case)
    means = now.prototypes()
    new = {c: means.unit()[c] for c in range(C) if means.known[c]}
    for name, equation, settings in (
        ("ndpp", equations.ndpp_prototypes, {"neighbours": 2, "eta_old": 0.4, "eta_new": 0.3}),
        ("ndpp:as_coded", equations.ndpp_as_coded, {"neighbours": 100, "eta_old": 0.4, "eta_new": 0.01}),
    ):
        objective = build(name, case, **({} if ":" in name else settings))
        for moved, current in ((equation(case, **settings), None), (equation(case, **settings, new=new), now)):
            objective.move(current)
            for c, p in moved.items():
                torch.testing.assert_close(objective.moved()[c], p)
            assert not objective.moved()[UNSEEN].any()
    figures = build("ndpp", case).refresh(2, now)
    assert figures["nearest_after"] < figures["nearest_before"]


def test_as_coded_defaults_hardly_move_crowded_classes_and_throw_isolated_ones_about():
    crowded = unit(60, 16, 4, offset=0.6)
    known = make_case().side.prototypes
    alone = known.unit()[known.known]
    moved = {}
    for name, p in (("crowded", crowded), ("alone", alone)):
        side = ClassSide(len(p), 12, Prototypes(p, torch.ones(len(p))))
        for form in ("ndpp", "ndpp:as_coded"):
            objective = find_objective(form)(objective_params(form, {}), side)
            objective.begin()
            moved[name, form] = (p * objective.moved()).sum(dim=1)
    turn = {form: float(1 - moved["crowded", form].mean()) for form in ("ndpp", "ndpp:as_coded")}
    assert turn["ndpp:as_coded"] < 0.3 * turn["ndpp"]
    # negative cosines nearly cancel in the denominator
    assert moved["alone", "ndpp:as_coded"].min() < 0.9 < moved["alone", "ndpp"].min()


def test_perturbing_only_the_positive_column_is_another_loss():
    case = make_case()
    objective = build("ndpp:positive_only", case, scale=SCALE, neighbours=3)
    own = equations.ndpp_prototypes(case, 3, 0.4, 0.2)
    plain = {c: equations.centre(case, c) / equations.centre(case, c).norm() for c in own}
    got = objective.loss(batch(case, case.feature), case.head)["influence"]
    torch.testing.assert_close(got, equations.prototype_softmax(case, case.feature, plain, own))


def test_advbct_boundary_adversary_and_reversal():
    case = make_case()
    params = objective_params("advbct", {"tau": 1.0})
    torch.manual_seed(0)
    objective: AdvBct = find_objective("advbct")(params, case.side).double()
    ours = case.feature.clone().requires_grad_()
    terms = objective.loss(batch(case, ours, epoch=3, progress=0.25), case.head)
    theirs = case.feature.clone().requires_grad_()
    boundary = equations.advbct_boundary(case, theirs, objective.elastic, 1.0)
    torch.testing.assert_close(terms["boundary"], boundary)
    # by hand: linear, batch norm over all 14 rows, ReLU, linear
    x = torch.cat([torch.nn.functional.normalize(theirs, dim=1), case.batch_old])
    first, norm, _, last = objective.discriminator
    h = x @ first.weight.T + first.bias
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
    verdict = h.clamp(min=0) @ last.weight.T + last.bias
    adversarial = -verdict.log_softmax(1)[:7, 0].mean() - verdict.log_softmax(1)[7:, 1].mean()
    torch.testing.assert_close(terms["adversarial"], (12 - 3) / 12 * adversarial)
    # the map climbs what the discriminator descends
    [forward] = torch.autograd.grad(terms["adversarial"], ours)
    [plain] = torch.autograd.grad((12 - 3) / 12 * adversarial, theirs)
    strength = 2 / (1 + torch.exp(torch.tensor(-2.5))) - 1
    torch.testing.assert_close(forward, -float(strength) * plain)


def test_nccl_keeps_a_queue_of_the_newest_rows():
    case = make_case()
    objective = build("nccl", case, queue=10)
    for _ in range(2):
        objective.loss(batch(case, case.feature), case.head)
    held = torch.cat([case.batch_old, case.batch_old])[-10:]
    assert sorted(map(tuple, objective.queue.tolist())) == sorted(map(tuple, held.tolist()))
    assert int(objective.queue_end) == 14


@pytest.mark.parametrize(("policy", "width"), [("truncate", 6), ("pad", 3), ("project", 7)])
def test_old_features_reach_a_head_of_another_width_the_way_new_ones_are_compared(policy, width):
    bridge = make_bridge(policy, width, 4).double()
    new, old = torch.randn(3, width, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(new @ bridge.back(old).T, bridge(new) @ old.T)


def test_mixing_draws_credible_rows_and_the_two_masks_differ():
    case = make_case()
    everything = case.old.column.take(torch.arange(18).numpy())
    for normalised in (True, False):
        scaled = everything / everything.norm(dim=0) if normalised else everything
        expected = torch.zeros(18, dtype=torch.bool)
        for c in equations.seen(case):
            members = [j for j in range(18) if case.old.labels[j] == c]
            mean = sum(scaled[j] for j in members) / len(members)
            near = sorted(members, key=lambda j: float((scaled[j] - mean).norm()))
            expected[near[: -(-6 * len(members) // 10)]] = True  # ⌈0.6 n⌉
        mixer = build("mixbct", case, column_normalised=normalised, credible=0.6, share=0.5).mixer
        assert torch.equal(mixer.credible, expected)
        drawn = torch.zeros(18)
        for seed in range(60):
            replaced = mixer.choose(torch.arange(18), torch.Generator().manual_seed(seed))
            assert int(replaced.sum()) == 9
            assert not (replaced & ~expected).any()
            drawn += replaced
        assert (drawn[expected] > 20).all()
    few = mixer.choose((~expected).nonzero().flatten(), torch.Generator().manual_seed(0))
    assert not few.any()  # where none is credible nothing is replaced
    assert not build("mixbct", case, share=0.9).mixer.choose(torch.tensor([4]), torch.Generator()).any()


def test_mixbct_refuses_a_head_that_sees_norms():
    case = make_case()
    with pytest.raises(UsageError, match="softmax"):
        build("mixbct", case).loss(batch(case, case.feature), Softmax(C, D, torch.Generator()).double())


def test_every_prototype_method_takes_bank_mixing_and_whitening():
    case = make_case()
    for name in ("bct", "unibct", "ndpp", "odpp"):
        objective = build(name, case, bank={"weight": 2.0}, mix={"share": 0.5}, whiten={})
        assert objective.mixer.share == 0.5
        terms = objective.loss(batch(case, case.feature), case.head)
        torch.testing.assert_close(terms["bank"], equations.bank(case, case.feature, 2.0, 0.1)["bank"])
        assert "old_feature" in objective.needs_with(objective.settings)


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
