"""Every method's loss as plain loops over rows and classes, written from its equation; float64 scalars of torch.

Each takes the case, the new features and the settings, and returns the terms besides classification.
"""

import math
from types import SimpleNamespace

import torch
from torch.nn import functional

from featstore.maps import BasisConfig, build_map
from featstore_training.heads import CosineSoftmax
from featstore_training.objectives import Batch, ClassSide, find_objective, objective_params
from featstore_training.old_rows import HeldColumn, OldRows

C, D = 6, 4
UNSEEN = 3  # a class without any old row
SCALE = 9.0


def unit(rows, width, seed, offset=0.0):
    draw = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, width, generator=draw, dtype=torch.float64) + offset, dim=1)


def make_case(width=D, old_width=D):
    """18 training rows, 7 of them in the batch, among them rows of the unseen class and of a class with one old row."""
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 4, 4, 4, 4, 4, 4, 5, 5, 5])
    old = OldRows(HeldColumn(unit(len(labels), old_width, 1, offset=0.4)), labels, C)
    head = CosineSoftmax(C, width, 12.0, torch.Generator().manual_seed(2)).double()
    rows = torch.tensor([0, 3, 5, 8, 10, 13, 17])
    label = labels[rows].clone()
    batch_old = old.column.take(rows.numpy())
    module = build_map(BasisConfig(extra=1), 5, width).double()
    torch.nn.init.normal_(module.body.skew, generator=torch.Generator().manual_seed(4))
    side = ClassSide(C, 12, old.prototypes(), old, module=module)
    draw = torch.Generator().manual_seed(3)
    feature = 3 * torch.randn(len(rows), width, generator=draw, dtype=torch.float64)
    return SimpleNamespace(old=old, head=head, rows=rows, label=label, batch_old=batch_old, side=side, feature=feature)


def with_unseen_row(case):
    """The same with the third row of the batch relabelled as the unseen class."""
    case.label[2] = UNSEEN
    return case


def batch(case, feature, **more):
    columns = {"old_feature": case.batch_old, "side": unit(len(feature), case.feature.shape[1] - 1, 6)}
    return Batch(
        feature,
        case.label,
        columns,
        case.rows,
        generator=torch.Generator().manual_seed(0),
        **more,
    )


def build(name, case, **params):
    """The objective for a case, in float64."""
    objective = find_objective(name)(objective_params(name, params), case.side)
    objective.begin()
    return objective.double()


def cos(a, b):
    return (a * b).sum() / (a.norm() * b.norm())


def ce(logits, target):
    return torch.stack(logits).logsumexp(0) - logits[target]


def rows_of(case, c):
    return [
        row
        for row, y in zip(case.old.column.take(torch.arange(len(case.old)).numpy()), case.old.labels, strict=True)
        if y == c
    ]


def centre(case, c):
    members = rows_of(case, c)
    return sum(members) / len(members)


def mean(values):
    return sum(values) / len(values)


def classification(case, feature):
    weights = case.head.weight
    return mean([ce([12.0 * cos(f, w) for w in weights], y) for f, y in zip(feature, case.label, strict=True)])


def prototype_softmax(case, feature, columns, own=None, scale=SCALE):
    """`columns` maps known classes to vectors whose norm counts."""
    known = sorted(columns)
    costs = []
    for f, y in zip(feature, case.label.tolist(), strict=True):
        if y not in columns:
            continue
        logits = [scale * f @ (own[c] if own and c == y else columns[c]) / f.norm() for c in known]
        costs.append(ce(logits, known.index(y)))
    return mean(costs)


def independent(case, feature):
    del case, feature
    return {}


def l2(case, feature, weight, theta):
    gaps = [(f / f.norm() - o).norm() for f, o in zip(feature, case.batch_old, strict=True)]
    return {"distance": weight * mean([max(gap - theta, 0 * gap) for gap in gaps])}


def seen(case):
    return sorted(set(case.old.labels.tolist()))


def bct(case, feature, weight=0.5, means="unit"):
    columns = {c: centre(case, c) for c in seen(case)}
    if means == "unit":
        columns = {c: p / p.norm() for c, p in columns.items()}
    return {"influence": weight * prototype_softmax(case, feature, columns)}


def whitened(case, feature, power, shrinkage):
    scatter = sum(
        torch.outer(row - centre(case, c), row - centre(case, c)) for c in seen(case) for row in rows_of(case, c)
    ) / len(case.old)
    scatter = (1 - shrinkage) * scatter + shrinkage * scatter.trace() / D * torch.eye(D)
    turn = (
        torch.linalg.inv(scatter) if power == 1 else torch.linalg.inv(torch.linalg.cholesky(scatter)).T @ torch.eye(D)
    )
    columns = {}
    for c in seen(case):
        turned = turn @ (centre(case, c) / centre(case, c).norm())
        columns[c] = turned / turned.norm()
    return {"influence": prototype_softmax(case, feature, columns)}


def ndpp_prototypes(case, neighbours, eta_old, eta_new, new=None):
    """Recommended form: clamped cosines, own class excluded, each η once."""
    p = {c: centre(case, c) / centre(case, c).norm() for c in seen(case)}
    moved = {}
    for c in p:
        shift = torch.zeros(D, dtype=torch.float64)
        for eta, others in ((eta_old, p), (eta_new, new)):
            if others is None:
                continue
            near = sorted(((float(p[c] @ o), k) for k, o in others.items() if k != c), reverse=True)[:neighbours]
            weights = [max(w, 0.0) for w, _ in near]
            shift = shift + eta * sum(w * (p[c] - others[k]) for w, (_, k) in zip(weights, near, strict=True)) / (
                sum(weights) + 1e-8
            )
        moved[c] = (p[c] + shift) / (p[c] + shift).norm()
    return moved


def ndpp_as_coded(case, neighbours, eta_old, eta_new, new=None):
    """η_o twice, negative cosines weigh, the own class's new prototype is a neighbour."""
    p = {c: centre(case, c) / centre(case, c).norm() for c in seen(case)}
    moved = {}
    for c in p:
        delta = torch.zeros(D, dtype=torch.float64)
        for eta, others, own in ((eta_old, p, False), (eta_new, new, True)):
            if others is None:
                continue
            near = sorted(((float(p[c] @ o), k) for k, o in others.items() if own or k != c), reverse=True)[:neighbours]
            delta = delta + eta * sum(w * (p[c] - others[k]) for w, k in near) / (sum(w for w, _ in near) + 1e-8)
        moved[c] = (p[c] + eta_old * delta) / (p[c] + eta_old * delta).norm()
    return moved


def quartile(values, share):
    """Linear interpolation between order statistics."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def usual(values):
    if len(values) < 4:
        return max(values)
    first, third = quartile(values, 0.25), quartile(values, 0.75)
    return max(v for v in values if first - 1.5 * (third - first) <= v <= third + 1.5 * (third - first))


def advbct_boundary(case, feature, elastic, tau):
    costs = []
    for f, y in zip(feature, case.label.tolist(), strict=True):
        members = rows_of(case, y)
        if len(members) < 2:
            continue
        radius = usual([float((row - centre(case, y)).norm()) for row in members])
        stretch = abs(radius - tau) * torch.sigmoid(elastic[y])
        excess = (f / f.norm() - centre(case, y)).norm() - (radius + stretch if radius < tau else radius - stretch)
        if excess > 0:
            costs.append(excess)
    return mean(costs)


def lce(case, feature, measure, align, boundary):
    p = {c: centre(case, c) / centre(case, c).norm() for c in seen(case)}
    w = [v / v.norm() for v in case.head.weight]
    out = []
    for f, y in zip(feature, case.label.tolist(), strict=True):
        cosines = [float(row @ p[y]) for row in rows_of(case, y)] if y in p else []
        if len(cosines) < 2:
            out.append(torch.zeros((), dtype=torch.float64))
        elif measure == "cosine":
            out.append((min(cosines) - cos(f, p[y])).clamp(min=0))
        else:
            out.append((torch.acos(cos(f, p[y])) - usual([math.acos(v) for v in cosines])).clamp(min=0))
    if measure == "cosine":
        aligned = mean([mean((w[c] - p[c]) ** 2) for c in p])
    else:
        aligned = mean([1 - w[y] @ p[y] for y in case.label.tolist() if y in p])
    return {"align": align * aligned, "boundary": boundary * mean(out)}


def ract(case, feature, temperature, negatives, *, new_negatives):
    costs = []
    unit_new = [f / f.norm() for f in feature]
    for i, f in enumerate(unit_new):
        logits = [f @ case.batch_old[i]]
        for pool in [case.batch_old, *([unit_new] if new_negatives else [])]:
            others = [f @ pool[j] for j in range(len(feature)) if case.label[j] != case.label[i]]
            logits += sorted(others, key=lambda value: float(value.detach()), reverse=True)[:negatives]
        costs.append(ce([value / temperature for value in logits], 0))
    return {"contrast": mean(costs)}


def nccl(case, feature, temperature, class_weight=0.0, scores=lambda logits: logits):
    """With an empty queue before this batch, larger than the batch."""

    def consensus(left, right):
        costs = []
        for a, y, o in zip(left, case.label, case.batch_old, strict=True):
            products = torch.stack([a @ b / temperature for b in right])
            logs = [value - products.logsumexp(0) for value in products]
            positive = [j for j in range(len(case.label)) if case.label[j] == y]
            costs.append(-mean([0.5 * (1 + o @ case.batch_old[j]) * logs[j] for j in positive]))
        return mean(costs)

    terms = {"contrast": consensus([f / f.norm() for f in feature], case.batch_old)}
    if class_weight:
        columns = case.head.weight.detach()
        new, old = (
            [scores(torch.stack([12.0 * cos(f, w) for w in columns])) for f in rows]
            for rows in (feature, case.batch_old)
        )
        terms["class_contrast"] = class_weight * consensus(new, old)
    return terms


def bank(case, feature, weight, temperature):
    everything = case.old.column.take(torch.arange(len(case.old)).numpy())
    costs = []
    for f, y, own in zip(feature, case.label.tolist(), case.rows.tolist(), strict=True):
        others = [j for j in range(len(everything)) if j != own]
        products = {j: cos(f, everything[j]) / temperature for j in others}
        total = torch.stack(list(products.values())).logsumexp(0)
        positive = [j for j in others if case.old.labels[j] == y]
        if positive:
            costs.append(-mean([products[j] - total for j in positive]))
    return {"bank": weight * mean(costs)}


def bt2(case, feature, keep, influence, align):
    """The rotation is undone by its transpose; the first component is the part made for the old model's sake."""
    rotation = case.side.module.body.rotation()
    side = unit(len(feature), D - 1, 6)
    columns = {c: centre(case, c) / centre(case, c).norm() for c in seen(case)}
    return {
        "influence": influence * prototype_softmax(case, feature, columns),
        "align": align * mean([1 - cos(f, o) for f, o in zip(feature, case.batch_old, strict=True)]),
        "keep": keep * mean([1 - cos((rotation.T @ f)[1:], s) for f, s in zip(feature, side, strict=True)]),
    }
