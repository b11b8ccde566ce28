"""Heads and the cross-entropy under them: margins, many classes without the matrix, sampling, the simplex."""

import math

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional

from featstore.errors import UsageError
from featstore_training.cross_entropy import class_cross_entropy, streamed_logsumexp
from featstore_training.head_config import HeadConfig
from featstore_training.heads import build_head, simplex_vertices
from featstore_training.neighbours import nearest

B, C, D = 9, 23, 5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head_of(name, classes=C, width=D, **options):
    config = TypeAdapter(HeadConfig).validate_python({"name": name, **options})
    head = build_head(config, classes, width, torch.Generator().manual_seed(1)).double()
    if name != "simplex":
        head.weight.data = normal(classes, width, seed=2)
    return head


def cosine(a, b):
    return float((a @ b / a.norm() / b.norm()).detach())


def own_logit(name, c, y):
    match name:
        case "cosine":
            return 7 * c
        case "arcface":
            angle = math.acos(c)
            return 7 * (math.cos(angle + 0.4) if angle < math.pi - 0.4 else c - 0.4 * math.sin(0.4))
        case "cosface":
            return 7 * (c - 0.2)
    return y


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cosine", {"scale": 7}),
        ("arcface", {"scale": 7, "margin": 0.4}),
        ("cosface", {"scale": 7, "margin": 0.2}),
        ("softmax", {}),
    ],
)
def test_loss_is_the_textbook_one(name, options):
    head = head_of(name, **options)
    feature, label = normal(B, D, seed=3), torch.arange(B) % C
    with torch.no_grad():
        feature[0] = -head.weight[0]  # as wrong as can be: beyond π − m
    if name == "softmax":
        head.bias.data = normal(C, seed=4)
    costs = []
    for f, y in zip(feature, label.tolist(), strict=True):
        if name == "softmax":
            logits = [float(f @ w + b) for w, b in zip(head.weight.detach(), head.bias.detach(), strict=True)]
        else:
            cosines = [cosine(f, w) for w in head.weight]
            logits = [own_logit(name, c, None) if k == y else 7 * c for k, c in enumerate(cosines)]
            assert float(head.logits(feature)[0, 0].detach()) == pytest.approx(-7)  # no margin outside training
        costs.append(math.log(sum(math.exp(v) for v in logits)) - logits[y])
    assert float(head.loss(feature, label).detach()) == pytest.approx(sum(costs) / B)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_a_margin_of_nothing_is_cosine_and_gradients_are_finite_at_the_ends(name):
    feature, label = normal(B, D, seed=3), torch.arange(B)
    plain, without = head_of("cosine", scale=7), head_of(name, scale=7, margin=0)
    torch.testing.assert_close(without.loss(feature, label), plain.loss(feature, label))
    head = head_of(name, scale=7)
    ends = torch.cat([head.weight[:3], -head.weight[3:6]]).detach().float().requires_grad_()
    head.float().loss(ends, torch.arange(6)).backward()
    assert torch.isfinite(ends.grad).all()


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("with_own", [False, True])
def test_blocks_of_classes_give_the_loss_and_gradients_of_the_whole_matrix(unknown, with_own):
    results = []
    for dense in (C, 4):
        query, columns = (3 * normal(B, D, seed=5)).requires_grad_(), normal(C, D, seed=6).requires_grad_()
        known = torch.ones(C, dtype=torch.bool)
        if unknown:
            known[[1, 20, 21, 22]] = False
        label = torch.tensor([0, 2, 4, 19, 5, 5, 9, 3, 16])
        own = (query.square().sum(dim=1) / 3) if with_own else None
        loss = class_cross_entropy(query, columns, label, own=own, known=known if unknown else None, dense=dense)
        (loss * torch.arange(1.0, B + 1)).sum().backward()
        results.append((loss, query.grad, columns.grad))
    for whole, blocks in zip(*results, strict=True):
        torch.testing.assert_close(blocks, whole)


def test_one_known_class_has_no_competitor():
    known = torch.zeros(C, dtype=torch.bool)
    known[7] = True
    query = normal(B, D, seed=5).requires_grad_()
    loss = class_cross_entropy(query, normal(C, D), torch.full((B,), 7), known=known, dense=4)
    loss.sum().backward()
    assert not loss.any()
    assert not query.grad.any()


def test_streamed_logsumexp_is_exact_and_so_is_its_gradient():
    keys = 4 * normal(31, D, seed=7)
    query, skip = normal(B, D, seed=8).requires_grad_(), torch.tensor([-1, 0, 30, 7, 8, 9, -1, 3, 15])

    def blocks():
        for part in (slice(0, 8), slice(8, 9), slice(9, 31)):
            yield part, keys[part]

    got = streamed_logsumexp(query, blocks, skip)
    logits = query @ keys.T
    logits = logits.masked_fill(torch.arange(31) == skip[:, None], float("-inf"))
    torch.testing.assert_close(got, logits.logsumexp(dim=1))
    weights = torch.arange(1.0, B + 1, dtype=torch.float64)
    [ours] = torch.autograd.grad((got * weights).sum(), query, retain_graph=True)
    [theirs] = torch.autograd.grad((logits.logsumexp(dim=1) * weights).sum(), query)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["cosine", "softmax", "arcface"])
def test_sampling_keeps_the_classes_of_the_batch_and_a_share_of_the_others(name):
    whole, sampled = head_of(name, classes=400), head_of(name, classes=400, sample=0.25)
    feature, label = normal(B, D, seed=3), torch.tensor([5, 5, 399, 0, 17, 17, 200, 8, 9])
    chosen = []
    for seed in range(4):
        renumbered, classes = sampled._sampled(label, torch.Generator().manual_seed(seed))
        assert torch.equal(classes[renumbered], label)
        assert len(classes) == 7 + math.ceil(0.25 * 393)
        chosen.append(classes.tolist())
        assert sampled.loss(feature, label, torch.Generator().manual_seed(seed)) < whole.loss(feature, label)
    assert chosen[0] != chosen[1]


def test_simplex_vertices_stand_equally_apart():
    vertices = simplex_vertices(8).double()
    assert vertices.shape == (8, 7)
    expected = torch.full((8, 8), -1 / 7, dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(vertices @ vertices.T, expected, atol=1e-6, rtol=0)
    head = head_of("simplex", classes=3, capacity=8, scale=7)
    assert not list(head.parameters())
    feature, label = normal(B, 7, seed=3), torch.arange(B) % 3
    logits = 7 * functional.normalize(feature, dim=1) @ vertices.T  # vertices without a class are negatives too
    torch.testing.assert_close(head.loss(feature, label), functional.cross_entropy(logits, label), atol=1e-6, rtol=0)
    assert head.logits(feature).shape == (B, 3)


@pytest.mark.parametrize("own", [False, True])
def test_nearest_in_blocks_is_nearest(own, monkeypatch):
    monkeypatch.setattr("featstore_training.neighbours.BLOCK_ROWS", 4)
    points = functional.normalize(normal(C, D), dim=1)
    known = torch.arange(C) % 5 > 0
    values, index = nearest(points, points, 6, known=known, own=own)
    for c in range(C):
        cosines = {k: float(points[c] @ points[k]) for k in range(C) if known[k] and (own or k != c)}
        best = sorted(cosines, key=cosines.get, reverse=True)[:6]
        assert index[c].tolist() == best
        torch.testing.assert_close(values[c], torch.tensor([cosines[k] for k in best], dtype=torch.float64))


def test_a_head_that_does_not_exist_is_a_clear_error():
    from featstore_training import TrainConfig

    with pytest.raises(UsageError, match="arc"):
        TrainConfig(loss="bct", new="a/b", head="arc")
    with pytest.raises(UsageError, match="margn"):
        TrainConfig(loss="bct", new="a/b", head={"name": "arcface", "margn": 0.3})
