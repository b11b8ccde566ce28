"""Commands about a store's history and space, as a user types them."""

import json

import numpy as np
import pytest

from featstore_cli.main import run


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with two sets of 60 rows of 6 classes, in spaces of their own."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 6
    assert run(["init"]) == 0
    for name in ("old", "new"):
        features = generator.normal(size=(60, 16))
        np.savez(tmp_path / f"{name}.npz", features=features, labels=labels, ids=np.arange(60).astype(str))
        assert run(["import", f"{name}.npz", "--as", f"toy/{name}"]) == 0
    return tmp_path


def output(capsys, *arguments, status=0):
    capsys.readouterr()
    assert run(arguments) == status
    return capsys.readouterr()


def test_rows_are_removed_and_erased(store, capsys):
    (store / "list.txt").write_text("7\n8\n")
    output(capsys, "tag", "toy/old@1", "live")
    said = output(capsys, "rm", "toy", "--ids", "3", "list.txt", "9")
    assert "4 rows removed: toy@2 has 56 rows" in said.out
    assert "featstore gc --grace 0" in said.out
    unknown = output(capsys, "rm", "toy", "--ids", "3", status=1)
    assert "nothing was removed" in " ".join(unknown.err.split())
    output(capsys, "rm", "toy", "--ids", "@nowhere.txt", status=1)
    assert json.loads(output(capsys, "show", "toy/old", "--json").out)["valid"] == 56
    assert "4 rows left out" in output(capsys, "compact", "toy").out
    assert json.loads(output(capsys, "compact", "toy", "--json").out) == {"dataset": "toy@3", "removed": 0, "sets": []}
    assert "0 files" in output(capsys, "gc", "--dry-run").out
    said = json.loads(output(capsys, "gc", "--grace", "0", "--dry-run", "--json").out)
    done = json.loads(output(capsys, "gc", "--grace", "0s", "--json").out)
    assert (done["files"], done["bytes"]) == (said["files"], said["bytes"]) > (0, 0)
    assert any("the tag live names it" in note for note in done["kept"])
    assert "no problem" in output(capsys, "verify", "--full").out
    assert "write 7d" in output(capsys, "gc", "--grace", "soon", status=2).err
