"""One of several processes that train together: reads runs from a JSON file, trains them, writes the reports to stdout."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from featstore.store import Store
from featstore_training import TrainConfig, train

if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text())
    store = Store.open(plan["store"])
    reports = [train(store, TrainConfig(**settings), Path(folder)) for folder, settings in plan["runs"].items()]
    sys.stdout.write(json.dumps([asdict(report) | {"folder": report.folder.name} for report in reports]))
