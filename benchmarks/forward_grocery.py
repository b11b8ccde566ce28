"""The forward path on groceries: photos from shops, queried with photos of other shops.

Old is a head on MobileNetV1-0.25 features, new a head on EfficientNet-Lite1 features, the stronger frozen side MobileNetV1-1.0.
Queries are test rows of capture `test`, the gallery those of `train` and `val`; splits and rows are those of
`forward_study.py`, scenario `exclass`.

    python benchmarks/forward_grocery.py --data ../shared/data --out results/forward
    python benchmarks/forward_grocery.py --out results/forward --table docs/results/forward.md
"""

from __future__ import annotations

import argparse

from forward_study import Study
from forward_tables import write_tables
from forward_trunks import TrunkStudy, folders, parse
from trunks import Trunks

MODELS = OLD, STRONGER, NEW = ("v1_025_128", "v1_100_128", "lite1_192")
ASKED = {"query_where": ("capture=test",), "gallery_where": ("capture=train,val",)}


def study(test: str, arguments: argparse.Namespace) -> Study:
    """Groceries, test classes seen or unseen."""
    folder = arguments.out / f"trunks-grocery-{test}"
    trunks = Trunks(folder, arguments.data, test, arguments.epochs, "grocery", "grocery", MODELS)
    return TrunkStudy(arguments.hidden, arguments.side_epochs, trunks, arguments.out, STRONGER, ASKED)


if __name__ == "__main__":
    parse(
        str(__doc__).splitlines()[0],
        study,
        lambda arguments: write_tables(arguments.table, "grocery", folders(arguments.out, "grocery")),
    )
