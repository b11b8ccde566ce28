"""Classifiers on top of features, used while training and stored with the run.

B batch, C classes, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from featstore_training.cross_entropy import class_cross_entropy
from featstore_training.head_config import (
    ArcFaceConfig,
    CosFaceConfig,
    CosineConfig,
    HeadConfig,
    SimplexConfig,
    SoftmaxConfig,
)

__all__ = ["ArcFace", "CosFace", "CosineSoftmax", "Head", "Simplex", "Softmax", "build_head", "simplex_vertices"]

INIT_STD = 0.01  # as in the insightface-derived public code of the field
DEFAULT_SCALE = 12.0


class Head(nn.Module):
    """Base: logits are ⟨query(f), columns()⟩, and a margin may lower a row's own logit while training.

    Args:
        classes: `C`.
        width: `D`.
        generator: Draws the initial weights, 𝒩(0, 0.01²).
        sample: Share of the classes absent from a batch that count as negatives.

    Attributes:
        scale: γ, which prototype methods take over unless told otherwise.
        margin: What the own logit is lowered by; never part of `logits`.
        cosine: Whether logits are γ·cos, so that features of any norm may be mixed.
        weight: [C, D].
    """

    scale = DEFAULT_SCALE
    margin = 0.0
    cosine = True
    weight: Tensor

    def __init__(self, classes: int, width: int, generator: torch.Generator, sample: float = 1.0) -> None:
        super().__init__()
        self.classes = classes
        self.sample = sample
        self._make_weight(classes, width, generator)

    def _make_weight(self, classes: int, width: int, generator: torch.Generator) -> None:
        self.weight = nn.Parameter(torch.randn(classes, width, generator=generator) * INIT_STD)

    def query(self, feature: Tensor) -> Tensor:
        """Left factor of the logits for features [B, D] of any norm."""
        return self.scale * functional.normalize(feature, dim=1)

    def columns(self, classes: Tensor | None = None) -> Tensor:
        """Right factor of the logits, one row for each of these classes; all if not given."""
        return functional.normalize(self.weight if classes is None else self.weight[classes], dim=1)

    def logits(self, feature: Tensor) -> Tensor:
        """Logits without margin, [B, C]."""
        return self.query(feature) @ self.columns().T

    def with_margin(self, own: Tensor) -> Tensor:
        """A row's own logit as training sees it, [B]."""
        return own

    def loss(self, feature: Tensor, label: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy.

        Args:
            feature: [B, D].
            label: int64 [B].
            generator: Draws the negative classes, if only a share of them counts.
        """
        query, chosen = self.query(feature), None
        if self.sample < 1:
            label, chosen = self._sampled(label, generator)
        columns = self.columns(chosen)
        own = self.with_margin((query * columns[label]).sum(dim=1)) if self.margin else None
        return class_cross_entropy(query, columns, label, own=own).mean()

    def _sampled(self, label: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Labels renumbered among the classes of the batch and a draw of the others, and those classes."""
        present = torch.zeros(self.classes, dtype=torch.bool)
        present[label] = True
        absent = (~present).nonzero().flatten()
        drawn = absent[torch.randperm(len(absent), generator=generator)[: math.ceil(self.sample * len(absent))]]
        present[drawn] = True
        renumbered = present.cumsum(dim=0) - 1
        return renumbered[label], present.nonzero().flatten()


class Softmax(Head):
    """Logits W·f + b, features as they are."""

    cosine = False

    def _make_weight(self, classes: int, width: int, generator: torch.Generator) -> None:
        super()._make_weight(classes, width, generator)
        self.bias = nn.Parameter(torch.zeros(classes))

    def query(self, feature: Tensor) -> Tensor:
        """The feature and a 1 for the bias."""
        return functional.pad(feature, (0, 1), value=1.0)

    def columns(self, classes: Tensor | None = None) -> Tensor:
        """Weight and bias side by side."""
        both = torch.cat([self.weight, self.bias[:, None]], dim=1)
        return both if classes is None else both[classes]


class CosineSoftmax(Head):
    """Logits γ·cos(feature, class weight); no bias, no margin."""

    def __init__(self, classes: int, width: int, scale: float, generator: torch.Generator, sample: float = 1.0) -> None:
        super().__init__(classes, width, generator, sample)
        self.scale = scale


class _MarginSoftmax(CosineSoftmax):
    def __init__(
        self, classes: int, width: int, scale: float, margin: float, generator: torch.Generator, sample: float = 1.0
    ) -> None:
        super().__init__(classes, width, scale, generator, sample)
        self.margin = margin


class ArcFace(_MarginSoftmax):
    """Own logit γ·cos(θ + m); past θ = π − m, where that would rise again, γ·(cos θ − m·sin m) as public code has it."""

    def with_margin(self, own: Tensor) -> Tensor:
        """γ·cos(θ + m)."""
        edge = 1 - 1e-7  # the arc has no finite slope at θ = 0
        cosine = (own / self.scale).clamp(-edge, edge)
        turned = cosine * math.cos(self.margin) - (1 - cosine**2).sqrt() * math.sin(self.margin)
        beyond = cosine < -math.cos(self.margin)
        return self.scale * torch.where(beyond, cosine - self.margin * math.sin(self.margin), turned)


class CosFace(_MarginSoftmax):
    """Own logit γ·(cos θ − m)."""

    def with_margin(self, own: Tensor) -> Tensor:
        """γ·(cos θ − m)."""
        return own - self.scale * self.margin


class Simplex(Head):
    """γ·cos with the vertices of a regular simplex, which never change; vertices no class has yet are negatives too.

    Generations that give a class the same vertex are comparable without having seen each other.

    Args:
        capacity: Vertices K; features have width K − 1.
        vertices: The vertex of each class, int64 [C], all different.
        scale: γ.
    """

    weight: Tensor
    vertex: Tensor

    def __init__(self, capacity: int, vertices: Tensor, scale: float) -> None:
        self.capacity = capacity
        super().__init__(len(vertices), capacity - 1, torch.Generator())
        self.scale = scale
        self.register_buffer("vertex", vertices)

    def _make_weight(self, classes: int, width: int, generator: torch.Generator) -> None:
        del classes, width, generator
        self.register_buffer("weight", simplex_vertices(self.capacity), persistent=False)

    def logits(self, feature: Tensor) -> Tensor:
        """Of the classes only, [B, C]."""
        return self.query(feature) @ self.weight[self.vertex].T

    def loss(self, feature: Tensor, label: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy over all vertices."""
        del generator
        return class_cross_entropy(self.query(feature), self.weight, self.vertex[label]).mean()


def simplex_vertices(count: int) -> Tensor:
    """Vertices of a regular simplex around the origin: unit float32 [count, count − 1], all cosines −1/(count − 1).

    The unit vectors and one point at equal distance from them, moved to their centre (Pernici et al., 2019).
    """
    width = count - 1
    corner = torch.full((1, width), (1 - math.sqrt(1 + width)) / width, dtype=torch.float64)
    points = torch.cat([torch.eye(width, dtype=torch.float64), corner])
    return functional.normalize(points - points.mean(dim=0), dim=1).float()


def build_head(
    config: HeadConfig, classes: int, width: int, generator: torch.Generator, vertices: Tensor | None = None
) -> Head:
    """The head a config describes.

    Args:
        config: Its kind and settings.
        classes: `C`.
        width: `D`; a simplex has one of its own.
        generator: Draws initial weights.
        vertices: Of each class [C], for a simplex; None numbers them in order.
    """
    match config:
        case SoftmaxConfig():
            return Softmax(classes, width, generator, config.sample)
        case CosineConfig():
            return CosineSoftmax(classes, width, config.scale, generator, config.sample)
        case ArcFaceConfig():
            return ArcFace(classes, width, config.scale, config.margin, generator, config.sample)
        case CosFaceConfig():
            return CosFace(classes, width, config.scale, config.margin, generator, config.sample)
        case SimplexConfig():
            return Simplex(config.capacity, torch.arange(classes) if vertices is None else vertices, config.scale)
