"""Every objective's loss and gradient against plain loops written from the equation, in float64, and its invariants."""

import pytest
import torch

from featstore.errors import UnknownNameError, UsageError
from featstore_training.objectives import ClassSide, find_objective, losses, objective_params
from featstore_training.old_rows import HeldColumn, OldRows

from . import equations
from .equations import SCALE, UNSEEN, C, D, batch, build, make_case, with_unseen_row


def no_term(case, feature):
    del case, feature
    return {}


CASES = {
    "independent": ({}, no_term),
    "cores": ({}, no_term),
    "mixbct": ({}, no_term),
    "l2": ({"weight": 3.0}, lambda case, f: equations.l2(case, f, 3.0, 0.0)),
    "l2:weakened": ({"weight": 3.0}, lambda case, f: equations.l2(case, f, 3.0, 0.2)),
    "bct": ({"weight": 0.5, "scale": SCALE}, equations.bct),
    "bct:prototype": (
        {"weight": 0.5, "scale": SCALE, "means": "raw"},
        lambda case, f: equations.bct(case, f, means="raw"),
    ),
    "unibct": ({"weight_before": 0.5, "scale": SCALE}, equations.bct),
    "lce": ({}, lambda case, f: equations.lce(case, f, "cosine", 100.0, 1.0)),
    "lce:angle": ({"boundary": 2.0}, lambda case, f: equations.lce(case, f, "angle", 1.0, 2.0)),
    "ract": ({"negatives": 2, "temperature": 0.2}, lambda case, f: equations.ract(case, f, 0.2, 2, new_negatives=True)),
    "ract:contra": (
        {"negatives": 9, "temperature": 0.2},
        lambda case, f: equations.ract(case, f, 0.2, 9, new_negatives=False),
    ),
    "nccl:features": ({"temperature": 0.3, "queue": 64}, lambda case, f: equations.nccl(case, f, 0.3)),
    "nccl": (
        {"temperature": 0.3, "queue": 64, "class_weight": 2.0},
        lambda case, f: equations.nccl(case, f, 0.3, 2.0, lambda logits: logits.softmax(0)),
    ),
    "nccl:logits": ({"queue": 64}, lambda case, f: equations.nccl(case, f, 1.0, 1.0)),
    "bank": ({"weight": 2.0}, lambda case, f: equations.bank(case, f, 2.0, 0.1)),
    "bt2": (
        {"keep": 2.0, "influence": 3.0, "align": 4.0, "scale": SCALE},
        lambda case, f: equations.bt2(case, f, 2.0, 3.0, 4.0),
    ),
    "ndpp": (
        {"scale": SCALE, "neighbours": 3},
        lambda case, f: {
            "influence": equations.prototype_softmax(case, f, equations.ndpp_prototypes(case, 3, 0.4, 0.2))
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("unseen", [False, True])
def test_loss_and_gradient_follow_the_equation(name, unseen):
    params, equation = CASES[name]
    case = with_unseen_row(make_case()) if unseen else make_case()
    objective = build(name, case, **params)
    ours, theirs = (case.feature.clone().requires_grad_() for _ in range(2))
    terms = objective.loss(batch(case, ours), case.head)
    expected = {"classification": equations.classification(case, theirs), **equation(case, theirs)}
    assert terms.keys() == expected.keys()
    for key, value in terms.items():
        torch.testing.assert_close(value, torch.as_tensor(expected[key], dtype=torch.float64), msg=key)
    sum(terms.values()).backward()
    sum(expected.values()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", [info.name for info in losses() if "label" in info.needs])
def test_a_batch_of_a_class_the_old_model_never_showed_is_finite(name):
    case = make_case()
    case.label[:] = UNSEEN
    objective = build(name, case)
    leaf = case.feature.clone().requires_grad_()
    terms = objective.loss(batch(case, leaf), case.head)
    sum(terms.values()).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert torch.isfinite(leaf.grad).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in objective.parameters())
    if name in ("bct", "unibct", "ndpp", "odpp"):
        assert float(terms["influence"].detach()) == 0


@pytest.mark.parametrize("name", [info.name for info in losses() if "label" in info.needs])
def test_new_equal_to_old_has_a_finite_gradient(name):
    case = make_case()
    leaf = case.batch_old.clone().requires_grad_()
    sum(build(name, case).loss(batch(case, leaf), case.head).values()).backward()
    assert torch.isfinite(leaf.grad).all()


def renumbered(case, order):
    """The same rows when class c is called order[c]."""
    case.old = OldRows(case.old.column, order[case.old.labels], C)
    case.side = ClassSide(C, 12, case.old.prototypes(), case.old, module=case.side.module)
    case.label = order[case.label]
    weight = torch.empty_like(case.head.weight)
    weight[order] = case.head.weight.detach()
    case.head.weight = torch.nn.Parameter(weight)
    return case


@pytest.mark.parametrize("name", [info.name for info in losses() if "label" in info.needs and info.name != "advbct"])
def test_class_names_do_not_matter(name):
    plain = make_case()
    other = renumbered(make_case(), torch.tensor([4, 2, 5, 0, 1, 3]))
    values = [
        {k: float(v.detach()) for k, v in build(name, case).loss(batch(case, case.feature), case.head).items()}
        for case in (plain, other)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-9)


def turned(case, rotation):
    """The same rows after a rotation of both spaces."""
    rows = case.old.column.take(torch.arange(len(case.old)).numpy())
    case.old = OldRows(HeldColumn(rows @ rotation), case.old.labels, C)
    case.side = ClassSide(C, 12, case.old.prototypes(), case.old)
    case.batch_old = case.batch_old @ rotation
    case.feature = case.feature @ rotation
    case.head.weight = torch.nn.Parameter(case.head.weight.detach() @ rotation)
    return case


# odpp steps with Adam, advbct and bt2 have modules of their own: they do not turn with the space
@pytest.mark.parametrize(
    ("name", "params"),
    [(name, params) for name, (params, _) in CASES.items() if name != "bt2"] + [("bct", {"whiten": {}, "bank": {}})],
)
def test_axes_do_not_matter(name, params):
    rotation, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(8), dtype=torch.float64))
    values = [
        {
            k: float(v.detach())
            for k, v in build(name, case, **params).loss(batch(case, case.feature), case.head).items()
        }
        for case in (make_case(), turned(make_case(), rotation))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_registry_lists_and_refuses():
    names = [
        "advbct",
        "bank",
        "bct",
        "bt2",
        "cores",
        "independent",
        "l2",
        "lce",
        "mixbct",
        "nccl",
        "ndpp",
        "odpp",
        "ract",
        "simclr",
        "unibct",
    ]
    assert [info.name for info in losses()] == names
    assert all(info.summary and info.paper and "ℒ" in info.equation for info in losses())
    assert {info.name for info in losses() if not info.needs} == {"simclr"}
    assert all(all(info.meaning.values()) for info in losses())  # every setting says what it is
    with pytest.raises(UnknownNameError, match="odp") as caught:
        find_objective("odp")
    assert "did you mean odpp" in caught.value.hint
    with pytest.raises(UnknownNameError, match="posit"):
        find_objective("odpp:posit")
    with pytest.raises(UsageError, match="tau") as caught:
        objective_params("odpp", {"tau": 0.3})
    assert "tau_old" in caught.value.hint
    with pytest.raises(UsageError, match="perturb=positive_only"):
        objective_params("odpp:positive_only", {"perturb": "both"})
    with pytest.raises(UsageError, match="shar"):
        objective_params("bct", {"mix": {"shar": 0.3}})
