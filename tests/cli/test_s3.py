"""The whole way on an object store, as a user types it."""

import json
import os
from datetime import timedelta

import numpy as np
import pytest

from featstore.store import Store, object_files
from featstore_cli.main import run
from tests.extract.conftest import make_images
from tests.object_server import lost, status

OLD = "old=python:tests.extract.factories:old"


@pytest.fixture
def output(capsys):
    def call(*arguments, status=0):
        capsys.readouterr()
        assert run(arguments) == status, capsys.readouterr().err
        return capsys.readouterr()

    return call


def test_the_whole_way(bucket, output, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images", 24)
    store = f"{bucket}/featstore"
    assert store in output("init", store).out
    assert store in output("init", store).out  # nothing happens to a store that is there
    monkeypatch.setenv("FEATSTORE_STORE", store)
    output("extract", "images", "--dataset", "d", "--model", OLD, "--workers", "1")
    ids = list(Store.open().dataset("d").ids)
    values = np.random.default_rng(0).normal(size=(24, 12)).astype(np.float32)
    np.savez("new.npz", features=values, ids=np.array(ids))
    output("import", "new.npz", "--as", "d/new")
    output("train", "--loss", "bct", "--old", "d/old", "--new", "d/new", "--epochs", "1", "--out", "run")
    output("apply", "run", "d/new", "--as", "d/bct")
    result = json.loads(output("eval", "--old", "d/old", "--new", "d/bct", "--json").out)
    assert [cell["role"] for cell in result["cells"]] == ["old/old", "new/old", "new/new"]
    output("tag", "d/bct", "live")
    assert "live" in output("log", "d/bct@live").out
    assert "no problem" in output("verify", "--full").out
    listed = json.loads(output("ls", "--json").out)
    assert listed["store"] == store
    assert [item["set"] for item in listed["datasets"][0]["feature_sets"]] == ["d/bct@1", "d/new@1", "d/old@1"]
    monkeypatch.delenv("FEATSTORE_STORE")
    output("--store", store, "export", "d/new", "back.npz")
    np.testing.assert_array_equal(np.load("back.npz")["features"], values)

    # nothing of who we are is written down
    files = Store.open(store).files
    secrets = [os.environ[name].encode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")]
    everything = [files.get(info.key) for info in files.walk()]
    everything += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(everything) > 50
    assert not [secret for secret in secrets for data in everything if secret in data]


def test_a_server_that_fails_stops_the_work_and_the_same_command_finishes_it(bucket, s3, output, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    patience = object_files.Patience(*[timedelta(seconds=0.5)] * 3)
    monkeypatch.setattr(object_files, "_PATIENT", patience)
    values = np.random.default_rng(0).normal(size=(500, 12)).astype(np.float32)
    np.savez("new.npz", features=values)
    monkeypatch.setenv("FEATSTORE_STORE", f"{bucket}/featstore")
    output("init", f"{bucket}/featstore")
    command = ("import", "new.npz", "--as", "d/new")
    for fault in (status(503, "SlowDown"), status(400, "ExpiredToken"), lost):
        left = iter(range(8))  # so many more writes go well

        def failing(call, _environ, fault=fault, left=left):
            return fault if call.method == "PUT" and next(left, None) is None else None

        s3.fault = failing
        stopped = output(*command, status=1).err
        assert "goes on where it stopped" in " ".join(stopped.split())
    s3.fault = None
    output(*command)
    store = Store.open()
    np.testing.assert_array_equal(store.features("d/new").gather(np.arange(500)), values)
    assert len(store.dataset("d").ids) == 500
    assert "no problem" in output("verify", "--full").out


def test_materialise_and_the_cache(bucket, s3, output, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    np.savez("new.npz", features=values)
    store = f"{bucket}/featstore"
    monkeypatch.setenv("FEATSTORE_STORE", store)
    output("init", store)
    output("import", "new.npz", "--as", "d/new")
    assert "0 B in " in output("cache", "show").out
    [first] = json.loads(output("materialise", "d/new", "--json").out)
    assert first["set"] == "d/new@1"
    assert first["bytes"] > 50 * 12 * 4
    assert first["present_files"] == 0
    again = output("materialise", "d/new@1")
    assert "0 files fetched" in again.out
    assert "were here already" in again.out
    shown = json.loads(output("cache", "show", "--json").out)
    assert sum(part["files"] for part in shown["segments"]) == first["files"]
    assert shown["segments"][0]["of"].startswith(f"{store}/")
    assert "features/d/new" in "".join(output("cache", "show").out.split())
    s3.calls.clear()
    output("export", "d/new", "back.npz")
    np.testing.assert_array_equal(np.load("back.npz")["features"], values)
    assert not [call for call in s3.calls if "/segments/" in call.path]
    assert "0 B freed" in output("cache", "clear", "--unused-for", "1").out
    assert "KiB freed" in output("cache", "clear").out
    assert list((tmp_path / "cache").rglob("*.json")) == []
    local = tmp_path / "local"
    output("init", str(local))
    output("--store", str(local), "import", "new.npz", "--as", "d/new")
    assert "is on this machine" in output("--store", str(local), "materialise", "d/new").out


def test_errors_name_the_next_step(bucket, s3, output):
    assert "featstore init" in output("--store", f"{bucket}/nothing", "ls", status=1).err
    assert "there is no bucket s3://nobody" in output("--store", "s3://nobody/x", "ls", status=2).err
    assert "there is no bucket s3://nobody" in output("init", "s3://nobody/x", status=2).err
    assert "credentials" in output("init", "s3://key:secret@team/x", status=2).err
    Store.init(f"{bucket}/store")
    assert "is not empty" in output("init", bucket, status=2).err
    s3.fault = lambda _call, environ: environ.pop("HTTP_IF_NONE_MATCH", None) and None
    assert "If-None-Match" in output("init", f"{bucket}/overwriting", status=2).err
