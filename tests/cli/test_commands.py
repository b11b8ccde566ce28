"""Commands on imported features, as a user types them; JSON on stdout, the rest on stderr."""

import json

import numpy as np
import pytest

from featstore_cli.main import run


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with two related and one unrelated set over 60 rows of 6 classes; the new model is the better one."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(6, 16))
    labels = np.arange(60) % 6
    clean = centres[labels]
    for name, noise in (("old", 2.0), ("new", 0.7)):
        np.savez(
            tmp_path / f"{name}.npz",
            emb=clean + noise * generator.normal(size=clean.shape),
            labels=labels,
            ids=np.arange(60).astype(str),
        )
    assert run(["init"]) == 0
    for name in ("old", "new"):
        assert run(["import", f"{name}.npz", "--as", f"toy/{name}", "--key", "features=emb", "--space", "shared"]) == 0
    assert run(["import", "new.npz", "--as", "toy/other", "--key", "features=emb"]) == 0
    return tmp_path


def output(capsys, *arguments, status=0):
    capsys.readouterr()
    assert run(arguments) == status
    return capsys.readouterr()


@pytest.mark.usefixtures("store")
def test_eval_gates_and_refuses_unrelated_spaces(capsys):
    shown = output(capsys, "eval", "--old", "toy/old", "--new", "toy/new", "--reference", "toy/other", "--json")
    result = json.loads(shown.out)
    cells = {cell["role"]: cell for cell in result["cells"]}
    assert list(cells) == ["old/old", "new/old", "new/new", "reference"]
    assert cells["new/old"]["metrics"]["map"] > cells["old/old"]["metrics"]["map"]
    assert result["compatible"]["map"] is True
    assert 0 < result["update_gain"]["map"] < 1
    gate = ["eval", "--old", "toy/old", "--new", "toy/new", "--gate"]
    assert "passed" in output(capsys, *gate, "new/old.map > old/old.map").out
    assert "not passed" in output(capsys, *gate, "new/old.map > 2*old/old.map", status=4).out
    refused = output(capsys, "eval", "--old", "toy/old", "--new", "toy/other", status=1)
    assert "shared" in refused.err
    assert "featstore train" in " ".join(refused.err.split())
    allowed = json.loads(
        output(capsys, "eval", "--old", "toy/old", "--new", "toy/other", "--allow-unrelated", "--json").out
    )
    assert [cell["unrelated"] for cell in allowed["cells"]] == [False, True, False]


def test_splits_filters_and_export(store, capsys):
    shown = output(capsys, "dataset", "split", "toy", "--by", "image", "--fraction", "train=0.5,test=0.5")
    assert "split=train" in shown.out
    result = json.loads(output(capsys, "eval", "--old", "toy/old", "--where", "split=test", "--json").out)
    assert result["cells"][0]["n_queries"] == 30
    listed = json.loads(output(capsys, "ls", "--json").out)
    assert [item["set"] for item in listed["datasets"][0]["feature_sets"]] == ["toy/new@1", "toy/old@1", "toy/other@1"]
    assert "toy/old@1" in output(capsys, "ls").out
    assert "toy/old@1" in output(capsys, "tag", "toy/old@1", "live").out
    assert json.loads(output(capsys, "log", "toy/old", "--json").out)[0]["tags"] == ["live"]
    assert "split split" in " ".join(output(capsys, "log", "toy").out.split())
    assert "no problem" in output(capsys, "verify", "--full").out
    [shard] = (store / ".featstore" / "features" / "toy" / "old" / "segments").glob("*/features/c.0.0")
    sound = shard.read_bytes()
    shard.write_bytes(sound[:100] + b"?" + sound[101:])
    assert "rows 0 to 7" in output(capsys, "verify", "toy/old", "--sample", "100%", status=1).out
    shard.write_bytes(sound)
    assert json.loads(output(capsys, "show", "toy/old", "--json").out)["space"]["kind"] == "named"
    assert "split" in output(capsys, "show", "toy").out
    output(capsys, "export", "toy/old", "out.h5")
    assert (store / "out.h5").exists()
    assert (
        "60 rows"
        in output(capsys, "import", "old.npz", "--as", "toy/old", "--key", "features=emb", "--space", "shared").out
    )


@pytest.mark.usefixtures("store")
def test_train_and_apply(capsys):
    train = ["train", "--loss", "bct", "--old", "toy/old", "--new", "toy/other", "--epochs", "5", "--out", "run"]
    output(capsys, *train)
    report = json.loads(output(capsys, *train, "--json").out)
    assert report["cached"] is True
    applied = json.loads(output(capsys, "apply", "run", "toy/other", "--as", "toy/bct", "--json").out)
    assert (applied["rows"], applied["cached"]) == (60, False)
    assert json.loads(output(capsys, "apply", "run", "toy/other", "--as", "toy/bct", "--json").out)["cached"] is True
    result = json.loads(output(capsys, "eval", "--old", "toy/old", "--new", "toy/bct", "--json").out)
    assert result["cells"][1]["unrelated"] is False
    wrong = output(capsys, "apply", "run", "toy/old", "--as", "toy/wrong", status=1)
    assert "name" in wrong.err
    assert "odpp" in output(capsys, "losses").out
    assert "forms" in output(capsys, "losses").out
    assert "params.tau_old" in output(capsys, "losses", "odpp").out
    assert json.loads(output(capsys, "losses", "odpp", "--json").out)[0]["meaning"]["mu"] == "μ, the price of moving."
    assert "did you mean odpp" in output(capsys, "losses", "odp", status=2).err
    unknown = output(capsys, "train", "--loss", "bcd", "--old", "toy/old", "--new", "toy/other", "--out", "x", status=2)
    assert "did you mean bct" in unknown.err


@pytest.mark.usefixtures("store")
def test_recipes_and_sweeps(capsys, tmp_path):
    assert "odpp" in output(capsys, "config", "ls").out
    assert json.loads(output(capsys, "config", "ls", "--json").out)["bct"]["base"] == {"loss": "bct:prototype"}
    assert "params.weight" in output(capsys, "config", "show", "bct").out
    output(capsys, "config", "cp", "bct", "mine.yaml")
    assert "exists" in output(capsys, "config", "cp", "bct", "mine.yaml", status=1).err
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(
        text.replace("[1, 0.5, 2, 4]", "[1, 2]").replace("[12, 8, 16, 24]", "[12]").replace("[0.003, 0.001]", "[0.003]")
    )
    assert json.loads(output(capsys, "config", "validate", "mine.yaml", "--json").out)["runs"] == 6
    (tmp_path / "wrong.yaml").write_text(text.replace("params.scale", "params.scael"))
    assert "did you mean scale" in output(capsys, "config", "validate", "wrong.yaml", status=2).err
    sets = ["--old", "toy/old", "--new", "toy/other", "--epochs", "2"]
    sweep = ["train", "--sweep", "mine.yaml", *sets, "--set", "val_fraction=0.3", "--out", "sweeps"]
    assert "frontier" in output(capsys, *sweep).out
    report = json.loads(output(capsys, *sweep, "--json").out)
    assert (report["runs"], report["cached"], len(report["trials"])) == (6, 6, 2)
    output(capsys, "train", "--recipe", "sweeps/sweep.lock", *sets, "--seed", "1", "--out", "best")
    card = json.loads((tmp_path / "best" / "card.json").read_text())["training"]["config"]
    assert (card["seed"], card["val_fraction"], card["loss"]) == (1, 0.3, "bct:prototype")
    assert card["params"]["weight"] == report["chosen"]["settings"]["params.weight"]
    refused = output(capsys, *sweep, "--seed", "3", status=2)
    assert "seeds" in refused.err


@pytest.mark.usefixtures("store")
def test_eval_of_chains_seeds_backfills_and_thresholds(capsys, tmp_path):
    chain = ["eval", "--generations", "toy/old", "toy/new", "--bootstrap", "50"]
    result = json.loads(output(capsys, *chain, "--json").out)
    assert [cell["role"] for cell in result["cells"]] == ["v1/v1", "v2/v1", "v2/v2"]
    assert list(result["chain"]["ac"]) == list(result["compatible"])
    shown = output(capsys, *chain, "--gate", "v2/v1.nfr@1 < 0.5", "--gate-point")
    assert "gate passed" in shown.out
    upgrade = ["eval", "--old", "toy/old", "--new", "toy/new", "--bootstrap", "50"]
    more = ["--backfill", "-label", "--backfill-steps", "2", "--fpr", "0.1", "--threshold", "0.5"]
    shown = output(capsys, *upgrade, *more).out
    for part in ("order: -label", "area, trapezoid", "fpr 0.1", "threshold 0.5", "relative NFR"):
        assert part in shown
    result = json.loads(output(capsys, *upgrade, *more, "--json").out)
    assert result["backfill"][0]["fractions"] == [0, 0.5, 1]
    assert [item["asked"] for item in result["thresholds"]] == ["fpr 0.1", "threshold 0.5"]
    output(capsys, *upgrade, "--report", "r.json", "--backfill", "none")
    saved = json.loads((tmp_path / "r.json").read_text())
    assert (saved["backfill"], len(saved["thresholds"])) == ([], 3)
    output(capsys, *upgrade, "--report", "r.html")
    assert "While the gallery is backfilled" in (tmp_path / "r.html").read_text()
    result = json.loads(output(capsys, *upgrade, "--new", "toy/old", "--json").out)
    assert len(result["runs"]) == 2
    assert (
        "once for every run"
        in output(capsys, *upgrade, "--new", "toy/old", *["--reference", "toy/new"] * 3, status=2).err
    )
    assert "--generations before them" in output(capsys, "eval", "toy/old", "toy/new", status=2).err
    assert "oldest first" in output(capsys, "eval", "--generations", status=2).err
    output(capsys, "train", "--loss", "bct", "--old", "toy/old", "--new", "toy/other", "--epochs", "2", "--out", "run")
    mapped = ["eval", "--old", "toy/old", "--new", "toy/other", "--query-map", "run", "--bootstrap", "50"]
    result = json.loads(output(capsys, *mapped, "--json").out)
    assert result["subject"] == "mapped-new/old"
    assert "new/old was left out" in output(capsys, *mapped).out


@pytest.mark.usefixtures("store")
def test_import_says_what_it_merged_and_export_what_it_wrote(capsys, tmp_path):
    ids = np.array(["a", "b", "a"])
    np.savez(tmp_path / "twice.npz", features=np.array([[1.0, 2], [3, 4], [1, 2]]), ids=ids)
    refused = output(capsys, "import", "twice.npz", "--as", "two/f", status=1).err
    assert "--duplicates same" in " ".join(refused.split())
    said = output(capsys, "import", "twice.npz", "--as", "two/f", "--duplicates", "same")
    assert "2 rows × 2 float16" in said.out
    assert "1 row of the file left out" in said.out
    assert "cached" in output(capsys, "import", "twice.npz", "--as", "two/f", "--duplicates", "same").out
    written = json.loads(output(capsys, "export", "two/f", "out.safetensors", "--json").out)
    assert written["files"] == ["out.safetensors", "out.csv"]
    assert written["rows"] == 2
    np.savez(tmp_path / "zeros.npz", features=np.zeros((2, 2)))
    assert "--zero-rows keep" in output(capsys, "import", "zeros.npz", "--as", "zero/f", status=1).err
    report = json.loads(output(capsys, "import", "zeros.npz", "--as", "zero/f", "--zero-rows", "keep", "--json").out)
    assert (report["rows"], report["merged"], report["cached"]) == (2, 0, False)
