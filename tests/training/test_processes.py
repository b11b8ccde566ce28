"""Two processes give what one gives with the whole batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from featstore.errors import UsageError
from featstore.runs import read_card
from featstore_training import TrainConfig, train
from featstore_training.processes import Processes, join_processes
from featstore_training.recipes import Recipe
from featstore_training.sweep import sweep
from featstore_training.synced_norm import SyncedBatchNorm, synced

from .test_full_mode import config, shop  # noqa: F401 - a fixture

WORKER = Path(__file__).with_name("run_process.py")


def together(store, runs, folder, size=2):
    """Train the runs in several processes; what each of them reported."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"store": str(store.location), "runs": runs}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", WORKER, plan],
            env=common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    outputs = [process.communicate(timeout=150)[0] for process in started]
    assert [process.returncode for process in started] == [0] * size
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def test_two_processes_reach_the_weights_of_one(shop, tmp_path):  # noqa: F811 - the fixture
    store, folder = shop
    options = {"val_fraction": 0, "epochs": 2, "optimizer": "sgd", "lr": 0.05, "batch": 25}
    cases = {
        "pixels": {"loss": "bct"},
        "negatives": {"loss": "ract", "params": {"temperature": 0.2}},
        "mixed": {"loss": "mixbct", "ema": 0.9, "clip": 1.0},
        "features": {"loss": "odpp", "images": None, "model": None, "new": "strokes/old", "val_fraction": 0.25},
    }
    runs = {}
    for name, case in cases.items():
        settings = config(folder, **options | case).model_dump(mode="json", exclude_unset=True)
        if name == "features":
            del settings["augment"]
        runs[str(tmp_path / f"two-{name}")] = settings
    reports = together(store, runs, tmp_path)
    first, second = ([report | {"seconds": 0} for report in mine] for mine in reports)
    assert [report | {"process": 1} for report in first] == second
    for (place, settings), report in zip(runs.items(), reports[0], strict=True):
        alone = train(store, TrainConfig(**settings), tmp_path / Path(place).name.replace("two", "one"))
        assert read_card(Path(place)).training["processes"] == 2
        weights = "encoder" if alone.folder.name != "one-features" else "map"
        for file in (f"{weights}.safetensors", "classifier.safetensors"):
            one, two = load_file(alone.folder / file), load_file(Path(place) / file)
            for key, value in one.items():
                torch.testing.assert_close(
                    two[key], value, atol=2e-4, rtol=2e-3, msg=lambda m, k=key, p=place: f"{p} {k}: {m}"
                )
        assert report["validation"] == pytest.approx(alone.validation, abs=0.02)


def test_one_process_is_left_alone():
    alone = join_processes()
    assert alone.leader
    assert alone.size == 1
    module, rows = torch.nn.Linear(3, 2), torch.arange(5)
    assert alone.prepared(module) is module
    assert torch.equal(alone.share(rows), rows)
    assert torch.equal(alone.features(module, torch.ones(5, 3), 5), module(torch.ones(5, 3)))
    parts = [Processes(rank, 3).share(rows) for rank in range(3)]
    assert torch.equal(torch.cat(parts), rows)
    assert sorted(map(len, parts)) == [1, 2, 2]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_synced_batch_norm_of_one_process_is_batch_norm(monkeypatch, momentum):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)  # noqa: ARG005 - the name is the API's
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3, momentum=momentum))
    other = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3, momentum=momentum))
    other.load_state_dict(plain.state_dict())
    assert isinstance(synced(other)[1], SyncedBatchNorm)
    for _ in range(3):
        images = torch.randn(4, 2, 5, 5)
        left, right = plain(images), other(images)
        torch.testing.assert_close(left, right)
        for module, out in ((plain, left), (other, right)):
            module.zero_grad()
            (out**3).sum().backward()
        for a, b in zip(plain.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-4)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value)
    np.testing.assert_allclose(plain.eval()(images).detach(), other.eval()(images).detach(), atol=1e-6)


def test_a_sweep_is_made_by_one_process(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        sweep(None, Recipe(base={"loss": "bct", "new": "a/b"}), tmp_path / "sweep")
