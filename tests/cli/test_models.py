"""`featstore models` on small networks."""

import json

import pytest

from featstore_cli.main import run
from tests.extract.conftest import make_images

OLD = "python:tests.extract.factories:old"


@pytest.mark.filterwarnings("default")
def test_list_show_export_and_extract_with_the_export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["models", "ls", "--json"]) == 0
    kinds = json.loads(capsys.readouterr().out)
    assert {"timm", "hf", "onnx"} < {kind["extra"] for kind in kinds}
    assert run(["models", "ls"]) == 0
    assert run(["models", "show", OLD]) == 0
    assert "convnet" in capsys.readouterr().out
    assert run(["models", "show", OLD, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identity"]["preprocess"]["size"] == 16
    assert run(["models", "export", OLD, "old.pt2"]) == 0
    assert "export:old.pt2" in capsys.readouterr().out
    make_images(tmp_path / "images", 24)
    assert run(["init"]) == 0
    both = ["--model", f"old={OLD}", "--model", "exported=export:old.pt2"]
    assert run(["extract", "images", "--dataset", "d", *both, "--workers", "1"]) == 0
    assert run(["eval", "--query", "d/old", "--gallery", "d/exported", "--json"]) == 0
    assert run(["models", "export", OLD, "old.pt2"]) == 1
    assert "exists already" in capsys.readouterr().err
