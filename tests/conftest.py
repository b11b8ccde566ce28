"""What tests of several packages share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.object_server import ObjectServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def _s3() -> Iterator[ObjectServer]:
    pytest.importorskip("moto", reason="the S3 server for tests needs moto[s3], flask and flask-cors")
    server = ObjectServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests leave the user's cache alone."""
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def s3(_s3: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[ObjectServer]:
    """The S3 server, without faults, with credentials for it in the environment and an empty local cache."""
    _s3.fault = None
    _s3.calls.clear()
    values = {
        "AWS_ACCESS_KEY_ID": "AKIATESTKEY",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-stays-in-the-environment",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": _s3.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "FEATSTORE_CACHE": str(tmp_path / "cache"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    yield _s3
    _s3.fault = None


@pytest.fixture
def bucket(s3: ObjectServer) -> str:
    """`s3://…` of a fresh bucket."""
    name = f"team-{next(_numbers)}"
    s3.make_bucket(name)
    return f"s3://{name}"
