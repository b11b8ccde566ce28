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


@pytest.mark.usefixtures("store")
def test_looking_around(capsys):
    listed = json.loads(output(capsys, "ls", "--json").out)["datasets"][0]
    assert [item["valid"] for item in listed["feature_sets"]] == [60, 60]
    shown = output(capsys, "show", "toy/old").out
    assert "valid 60, failed 0, absent 0, removed 0" in shown
    assert "norms  of 60 rows" in shown
    assert "0 · 10" in shown
    content = json.loads(output(capsys, "show", "toy/old", "--json").out)
    assert sum(content["norms"]["counts"]) == 60
    assert content["classes"][0] == {"class": "0", "rows": 10}
    assert [item["name"] for item in json.loads(output(capsys, "du", "--json").out)] == ["toy", "toy/new", "toy/old"]
    assert "toy/old" in output(capsys, "du", "toy").out
    assert "= 60 rows equal" in output(capsys, "diff", "toy/old@1", "toy/old").out
    differs = output(capsys, "diff", "toy/old", "toy/new").out
    assert "60 rows changed: 0, 1" in differs
    assert "name: toy/old → toy/new" in differs
    assert json.loads(output(capsys, "diff", "toy/old", "toy/new", "--json").out)["fields"][0]["field"] == "name"


@pytest.mark.usefixtures("store")
def test_declared_sets_are_compared(capsys):
    cross = ("eval", "--query", "toy/new", "--gallery", "toy/old")
    output(capsys, *cross, status=1)
    said = output(capsys, "declare", "toy/old", "compatible-with", "toy/new", "--note", "same weights")
    assert "declared compatible" in said.out
    assert "same weights" in output(capsys, "show", "toy/new").out
    output(capsys, *cross)
    output(capsys, "declare", "toy/old", "compatible-with", "toy/new", "--withdraw", "--json")
    output(capsys, *cross, status=1)


def test_columns_and_folders(store, capsys):
    (store / "c.csv").write_text("id,camera\n1,north\n2,south\n")
    assert (
        "camera for 2 rows; 58 rows are not in the file" in output(capsys, "dataset", "add-columns", "toy", "c.csv").out
    )
    assert json.loads(output(capsys, "eval", "--old", "toy/old", "--where", "camera!=north", "--json").out)["cells"]
    moved = output(capsys, "dataset", "relocate", "toy", "photos").out
    assert f"files are in {store}/photos" in "".join(moved.split("\n"))
    assert json.loads(output(capsys, "show", "toy", "--json").out)["root"] == f"{store}/photos"
