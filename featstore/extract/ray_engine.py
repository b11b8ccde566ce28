"""The Ray engine: units in actors, on any number of machines that reach the store and the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from featstore.extract.interrupts import Interrupts
from featstore.extract.ledger import Ledger
from featstore.extract.pipeline import Tally
from featstore.extract.plan import Unit
from featstore.extract.process import keep_memory
from featstore.extract.workers import Work, workbench
from featstore.progress import Progress
from featstore.ray_pool import Tell, ray_map

__all__ = ["run_ray"]


def run_ray(
    work: Work,
    units: Sequence[Unit],
    workers: int | None,
    gpus: float,
    ledger: Ledger,
    stop: Interrupts,
    progress: Progress,
) -> None:
    """Divide the units among Ray actors and wait for them; see `ray_map`.

    Raises:
        KeyboardInterrupt: a stop was asked for and units are left.
        FeatstoreError: a worker failed, or two died over one unit.
    """
    done = 0
    results = ray_map(
        _prepare,
        work,
        units,
        workers=workers,
        gpus=gpus,
        stopped=lambda: stop.requested,
        waiting=lambda: stop.announce(progress),
        heard=ledger.update,
    )
    with closing(results):
        for number, tally in results:
            done += 1
            ledger.update(number, tally)
    if done < len(units):
        raise KeyboardInterrupt


def _prepare(work: Work) -> Callable[[Unit, Tell], Tally]:
    """In the actor: the encoders are loaded once."""
    import torch

    torch.set_num_threads(1)
    keep_memory()
    fill = workbench(work)

    def do(unit: Unit, tell: Tell) -> Tally:
        tally = Tally(0, 0)

        def on_batch(now: Tally) -> None:
            nonlocal tally
            tally = now
            tell(now)

        fill(unit, on_batch)
        return tally

    return do
