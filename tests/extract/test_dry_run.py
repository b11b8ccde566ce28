"""What a dry run says, and that the run which follows does just that."""

import json

import numpy as np
import pytest

from featstore.errors import BadInputError
from featstore.extract import ExtractRequest, extract, plan_extraction
from featstore.extract.pipeline import run_unit
from featstore.store import Store
from featstore_cli.main import run
from tests.extract.conftest import make_images

MODELS = {"old": "python:tests.extract.factories:old", "new": "python:tests.extract.factories:new"}
ROW_BYTES = {"old": 8 * 4 + 17, "new": 24 * 4 + 17}
STAGES = ["read", "decode", "preprocess", "encode", "write"]


def request(images, models=MODELS, **options):
    return ExtractRequest(source=str(images), dataset="d", models=models, workers=1, **options)


def listing(store):
    return sorted(info.key for info in store.files.walk())


def test_the_run_does_what_the_dry_run_says(store, images):
    before = listing(store)
    plan = plan_extraction(store, request(images), price_per_hour=3600.0)
    assert listing(store) == before
    assert (plan.images, plan.new, plan.missing) == (60, 60, 60)
    assert (plan.sample, plan.sample_failed, plan.sample_copied) == (32, 0, 0)
    assert {name: (made.cached, made.missing, made.bytes) for name, made in plan.sets.items()} == {
        name: (0, 60, 60 * size) for name, size in ROW_BYTES.items()
    }
    assert [stage.stage for stage in plan.stages] == STAGES
    assert sum(stage.share for stage in plan.stages) == pytest.approx(1)
    assert plan.limit == max(plan.stages, key=lambda stage: stage.seconds).stage
    each = sum(stage.seconds for stage in plan.stages) / plan.sample
    assert plan.seconds == pytest.approx(60 * each)
    assert plan.cost == pytest.approx(plan.seconds)
    report = extract(store, request(images))
    assert [stage.stage for stage in report.stages] == STAGES
    assert all(stage.seconds > 0 and stage.images_per_second > 0 for stage in report.stages)
    assert report.bytes_written == plan.bytes_written
    assert report.bytes_read == sum(path.stat().st_size for path in images.rglob("*.*"))
    assert report.bytes_read == pytest.approx(plan.bytes_read, rel=0.2)
    assert sum(stage.seconds for stage in report.stages) < report.seconds


def test_what_is_there_is_not_counted_again(store, images):
    extract(store, request(images, {"old": MODELS["old"]}))
    make_images(images, 12, start=60)
    plan = plan_extraction(store, request(images))
    assert (plan.images, plan.new, plan.missing) == (72, 12, 72)
    assert {name: (made.cached, made.missing) for name, made in plan.sets.items()} == {"old": (60, 12), "new": (0, 72)}
    extract(store, request(images))
    plan = plan_extraction(store, request(images), price_per_hour=1.0)
    assert (plan.missing, plan.seconds, plan.cost, plan.stages, plan.bytes_read) == (0, None, None, [], 0)
    other = request(images).model_copy(update={"dataset": "e"})
    plan = plan_extraction(store, other)
    assert (plan.missing, plan.sample_copied) == (72, 32)
    assert extract(store, other).stages[3].seconds < plan.stages[3].seconds


def test_finished_shards_of_a_run_that_was_stopped_count_as_cached(store, images, monkeypatch):
    units = []

    def stop_after_three(unit, *rest):
        if len(units) == 3:
            raise KeyboardInterrupt
        units.append(unit)
        run_unit(unit, *rest)

    monkeypatch.setattr("featstore.extract.workers.run_unit", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        extract(store, request(images))
    done = sum(unit.rows for unit in units)
    plan = plan_extraction(store, request(images))
    assert {(made.cached, made.missing) for made in plan.sets.values()} == {(done, 60 - done)}
    assert plan.missing == 60 - done


def test_images_that_cannot_be_used_are_counted_in_the_sample(store, images):
    paths = sorted(images.rglob("*.*"))
    for path in paths[:30]:
        path.write_bytes(b"no image")
    assert plan_extraction(store, request(images)).sample_failed == 16
    for path in paths[30:]:
        path.write_bytes(b"no image")
    with pytest.raises(BadInputError, match="none of 32 images tried"):
        plan_extraction(store, request(images))


def test_on_a_narrow_terminal(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    Store.init(tmp_path / "store")
    command = ["extract", str(images), "--dataset", "d", "--model", f"old={MODELS['old']}", "--workers", "1"]
    assert run([*command, "--dry-run", "--price-per-hour", "2.5"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "60 images take about" in said
    assert "costs about 0.00" in said
    assert said.count("limits") == 1
    assert run([*command, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == 60
    assert run([*command, "--price-per-hour", "2"]) == 2
    capsys.readouterr()
    assert run(command) == 0
    said = capsys.readouterr().out
    assert said.count("limits") == 1
    assert max(map(len, said.splitlines())) <= 80
    assert np.isfinite(Store.open(tmp_path / "store").features("d/old").gather(range(60))).all()
