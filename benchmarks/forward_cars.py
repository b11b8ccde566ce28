"""The forward path on cars: the old gallery mapped into the new space, or queries into the old one.

Data and splits are those of `methods_cars.py`, scenario `exclass`; what is compared is told in `forward_study.py`. SimCLR is
trained on the images of the old model's training rows; the stronger frozen side is MobileNetV1-0.5 at 128 pixels.

    python benchmarks/forward_cars.py --data ../shared/data --out results/forward
    python benchmarks/forward_cars.py --out results/forward --table docs/results/forward.md
"""

from __future__ import annotations

import argparse

from cars import MODELS, NEW, OLD, Cars
from forward_study import Study, parse
from forward_tables import write_tables

STRONGER = "v1_050_128"


def study(test: str, arguments: argparse.Namespace) -> Study:
    """Cars, test classes seen or unseen."""
    folder = arguments.out / f"trunks-cars-{test}"
    trunks = Cars(folder, arguments.data, test, arguments.epochs, models=(OLD, *MODELS[1:-1], STRONGER, NEW))
    return Study(trunks, arguments.out, STRONGER, arguments.hidden, arguments.side_epochs)


if __name__ == "__main__":
    parse(str(__doc__).splitlines()[0], study, lambda arguments: write_tables("cars", arguments))
