"""A process to be killed: python run_extract.py STORE SOURCE DATASET WORKERS NAME=URI …"""

import sys

from featstore.extract import ExtractRequest, extract
from featstore.store import Store

if __name__ == "__main__":
    store, source, dataset, workers, *models = sys.argv[1:]
    report = extract(
        Store.open(store),
        ExtractRequest(
            source=source, dataset=dataset, workers=int(workers), models=dict(m.split("=", 1) for m in models)
        ),
    )
    sys.stdout.write(report.model_dump_json())
