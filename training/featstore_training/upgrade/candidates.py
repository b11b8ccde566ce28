"""The cheap ways that a plan tries, and learning each of them: adapters, forward maps, compatible heads.

Settings are short ones, so that a plan takes minutes; the commands that a plan names learn with the published settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.progress import Progress
from featstore.store import Store
from featstore_training.adapters import AdapterConfig, fit_adapter
from featstore_training.adapters.config import Direction
from featstore_training.config import TrainConfig
from featstore_training.runner import train

__all__ = ["Candidate", "candidates", "learn"]

_FCT: dict[str, Any] = {"hidden": 512, "epochs": 12, "batch": 256, "warmup": 1.0}
_MLP: dict[str, Any] = {"epochs": 20, "batch": 256}
_HEAD_EPOCHS = 15
_PAIRS = 20_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A map to be learned.

    Attributes:
        name: Its short name, and that of its run folder.
        loss: What learns it.
        title: What is done with it.
        of_gallery: It maps the gallery; otherwise queries.
        side: Side-information that it takes.
        needs_labels: It learns from classes.
        encoders: How many encoders run on a query.
        params: Short settings.
    """

    name: str
    loss: str
    title: str
    of_gallery: bool
    side: tuple[str, ...] = ()
    needs_labels: bool = False
    encoders: int = 1
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def direction(self) -> Direction:
        """Where an adapter leads."""
        return "old-to-new" if self.of_gallery else "new-to-old"


def candidates(old: str, side: tuple[str, ...]) -> list[Candidate]:
    """Every map that a plan tries; those of queries first, which leave the gallery alone."""
    queries = [
        Candidate("procrustes", "procrustes", "queries turned into the old space", of_gallery=False),
        Candidate("ridge", "ridge", "queries through a linear map", of_gallery=False),
        Candidate("local", "local", "queries through a rotation for every cluster", of_gallery=False),
        Candidate("mlp", "mlp", "queries through a small network", of_gallery=False, params=_MLP),
        Candidate("slerp", "slerp", "queries of both models blended", of_gallery=False, side=(old,), encoders=2),
        Candidate("bct", "bct:prototype", "new model made compatible by BCT", of_gallery=False, needs_labels=True),
        Candidate("odpp", "odpp", "new model made compatible by ODPP", of_gallery=False, needs_labels=True),
    ]
    gallery = [
        Candidate("gallery-procrustes", "procrustes", "gallery turned into the new space", of_gallery=True),
        Candidate("gallery-ridge", "ridge", "gallery through a linear map", of_gallery=True),
        Candidate("fct", "fct", "gallery through FCT", of_gallery=True, params=_FCT),
    ]
    if side:
        title = "gallery through FCT with side-information"
        gallery.append(Candidate("fct-side", "fct", title, of_gallery=True, side=side, params=_FCT))
    return [*queries, *gallery]


def learn(
    store: Store, candidate: Candidate, folder: Path, *, old: str, new: str, where: tuple[str, ...], progress: Progress
) -> Path:
    """Learn a map, or find it learned; its run folder.

    Raises:
        FeatstoreError: these sets do not determine such a map.
    """
    out = folder / candidate.name
    if candidate.needs_labels:
        head = TrainConfig(loss=candidate.loss, old=old, new=new, where=where, epochs=_HEAD_EPOCHS)
        train(store, head, out, progress=progress)
        return out
    takes_side = candidate.side if candidate.of_gallery else ()  # slerp reads the old set by itself
    adapter = AdapterConfig(
        loss=candidate.loss,
        old=old,
        new=new,
        side=takes_side,
        direction=candidate.direction,
        where=where,
        pairs=_PAIRS,
        params=candidate.params,
    )
    fit_adapter(store, adapter, out, progress=progress)
    return out
