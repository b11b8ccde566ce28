"""The forward path on handwritten characters: both models are nets trained from pixels, no trunk is frozen.

Old, new and the test are those of `methods_omniglot.py`: old is a net of width 16 that saw half of the background classes, new
its `independent` net of width 32, tested among the 659 classes of the evaluation split, which no model saw. SimCLR trains a net
of the old size on the old model's images; the stronger frozen side is one that saw all training classes, with labels. Runs
are kept where `methods_omniglot.py` keeps its own, so the same `--out` shares them.

    python benchmarks/forward_omniglot.py --data ../shared/data --out results/forward
    python benchmarks/forward_omniglot.py --out results/forward --table docs/results/forward.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from comparison import Ground
from forward_study import ROWS, Study, common_options, run_missing
from forward_tables import write_tables
from methods_omniglot import SEEN, UNSEEN, Omniglot

from featstore_training.recipes import find_recipe

NO_TRUNK = "fct + old trunk's raw feature"
STROKES = {"flip": False, "area": [0.4, 1.0], "angle": 15.0, "brightness": 0.4, "contrast": 0.4}
OTHER_SEED = 1000  # the published numbers were made when one seed gave both nets the same first class weights


@dataclass
class CharacterStudy(Study):
    """Characters of unseen alphabets.

    Attributes:
        data: The images, and the nets that were trained on them.
        trials: Combinations of the reference's recipe.
        recipes: Ground whose locked recipe is taken; None to choose here.
    """

    data: Omniglot
    trials: int
    recipes: Path | None

    @property
    def ground(self) -> Ground:
        """The backward study's, with new features of the rows that maps are fitted on as well."""
        return replace(self.data.ground(self.trials), encode=lambda run, as_: self.data.encode(run, as_, SEEN, UNSEEN))

    def raw(self, seed: int) -> dict[str, str]:
        """The stronger side by itself."""
        return {"stronger side": self.frozen("stronger", seed)}

    def set(self, name: str) -> str:
        """Address of a feature set of the background split."""
        return f"{SEEN}/{name}"

    def reference(self, seed: int) -> None:
        """The unconstrained net; one that the backward study trained lacks features of the background split only."""
        self.data.reference(self.ground, seed, self.recipes)

    def frozen(self, kind: str, seed: int) -> str:
        """The net of the old size that saw all training classes."""
        name = f"{kind}-{seed}"
        self.data.small_net(name, seed, f"split{seed}=train", seed=OTHER_SEED + seed)
        return self.set(name)

    def simclr(self, name: str, seed: int) -> None:
        """Train the side encoder on the old model's images."""
        base = find_recipe("simclr").base
        settings = {key: base[key] for key in ("loss", "batch", "warmup")}
        called = name.partition("/")[2]
        self.data.small_net(
            called, seed, *self.data.old_rows(seed), **settings, augment=STROKES, epochs=self.side_epochs
        )


def main() -> None:
    """Parse, then run what is missing or write the tables."""
    parser = common_options(str(__doc__).splitlines()[0], [name for name in ROWS if name != NO_TRUNK])
    parser.add_argument("--epochs", type=int, default=6, help="of the old and the new net, as in methods_omniglot.py")
    parser.add_argument("--drawers", type=int, default=20, help="images of each training class")
    parser.add_argument("--trials", type=int, default=3, help="combinations of the reference's recipe")
    parser.add_argument(
        "--recipes", type=Path, default=None, help="ground whose locked recipe of the reference is taken"
    )
    parser.add_argument("--backward", type=Path, default=None, help="with --table: folder of methods_omniglot.py")
    arguments = parser.parse_args()
    folder = arguments.out / "omniglot"
    if arguments.table:
        backward = {"unseen": arguments.backward / "omniglot"} if arguments.backward else {}
        write_tables(arguments.table, "omniglot", {"unseen": folder}, backward=backward)
        return
    file = arguments.data / "omniglot32" / "omniglot32.npz"
    data = Omniglot(folder, file, arguments.epochs, arguments.drawers)
    run_missing(
        [CharacterStudy(arguments.hidden, arguments.side_epochs, data, arguments.trials, arguments.recipes)], arguments
    )


if __name__ == "__main__":
    main()
