"""The cheap ways that a plan tries, and learning each of them: adapters, forward maps, compatible heads.

Settings are short ones, so that a plan takes minutes; the commands that a plan names learn with the published settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featstore.progress import Progress
from featstore.store import Store
from featstore_training.adapters import AdapterConfig, fit_adapter, is_adapter
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
        new_run: Run folder that made the new set, where the new model's classifier is read.
        needs_labels: It learns from classes, or is chosen by them.
        encoders: How many encoders run on a query.
        params: Short settings.
    """

    name: str
    loss: str
    title: str
    of_gallery: bool
    side: tuple[str, ...] = ()
    new_run: Path | None = None
    needs_labels: bool = False
    encoders: int = 1
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def direction(self) -> Direction | None:
        """Where an adapter leads; None for a head."""
        if not is_adapter(self.loss):
            return None
        return "old-to-new" if self.of_gallery else "new-to-old"

    @property
    def reads(self) -> tuple[str, ...]:
        """Side-information that learning it has to be told of; slerp reads the old set by itself."""
        return self.side if self.of_gallery else ()


def candidates(old: str, side: tuple[str, ...], new_run: Path | None) -> list[Candidate]:
    """Every map that a plan tries; those of queries first, which leave the gallery alone.

    Args:
        old: The set that blends read beside the new one.
        side: Side-information; without any, maps with it are not tried.
        new_run: Run folder that made the new set; without it, FastFill is not tried.
    """
    queries = [
        Candidate("procrustes", "procrustes", "queries turned into the old space", of_gallery=False),
        Candidate("ridge", "ridge", "queries through a linear map", of_gallery=False),
        Candidate(
            "ridge-adjoint", "ridge:adjoint", "queries through the transposed map of the gallery", of_gallery=False
        ),
        Candidate("local", "local", "queries through a rotation for every cluster", of_gallery=False),
        Candidate("mlp", "mlp", "queries through a small network", of_gallery=False, params=_MLP),
        Candidate(
            "posterior", "posterior", "queries for the class the new model sees", of_gallery=False, needs_labels=True
        ),
        Candidate(
            "slerp",
            "slerp",
            "queries of both models blended",
            of_gallery=False,
            side=(old,),
            needs_labels=True,
            encoders=2,
        ),
        Candidate("bct", "bct:prototype", "new model made compatible by BCT", of_gallery=False, needs_labels=True),
        Candidate("odpp", "odpp", "new model made compatible by ODPP", of_gallery=False, needs_labels=True),
    ]
    gallery = [
        Candidate("gallery-procrustes", "procrustes", "gallery turned into the new space", of_gallery=True),
        Candidate("gallery-ridge", "ridge", "gallery through a linear map", of_gallery=True),
    ]
    for beside in ((), side) if side else ((),):
        name, title = ("-side", " with side-information") if beside else ("", "")
        fct = Candidate(f"fct{name}", "fct", f"gallery through FCT{title}", of_gallery=True, side=beside, params=_FCT)
        gallery.append(fct)
        if new_run:
            title = f"gallery through FastFill{title}"
            fastfill = replace(fct, name=f"fastfill{name}", loss="fastfill", title=title, new_run=new_run)
            gallery.append(replace(fastfill, needs_labels=True))
    return [*queries, *gallery]


def learn(
    store: Store, candidate: Candidate, folder: Path, *, old: str, new: str, where: tuple[str, ...], progress: Progress
) -> Path:
    """Learn a map, or find it learned; its run folder.

    Raises:
        FeatstoreError: these sets do not determine such a map.
    """
    out = folder / candidate.name
    if candidate.direction is None:
        head = TrainConfig(loss=candidate.loss, old=old, new=new, where=where, epochs=_HEAD_EPOCHS)
        train(store, head, out, progress=progress)
        return out
    adapter = AdapterConfig(
        loss=candidate.loss,
        old=old,
        new=new,
        new_run=candidate.new_run,
        side=candidate.reads,
        direction=candidate.direction,
        where=where,
        pairs=_PAIRS,
        params=candidate.params,
    )
    fit_adapter(store, adapter, out, progress=progress)
    return out
