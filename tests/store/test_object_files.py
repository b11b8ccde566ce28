"""Files in an object store, against a server on loopback that can be told to misbehave."""

import os
import pickle
import socket
import sys
import threading
import time
from datetime import timedelta

import pytest

from featstore.errors import FeatstoreError, MissingExtraError, NotFoundError, UsageError
from featstore.store import object_files
from featstore.store.files import open_files
from featstore.store.object_files import ObjectFiles
from featstore.store.probe import probe_create_only
from tests.object_server import cut, lost, status


@pytest.fixture
def files(bucket):
    return open_files(f"{bucket}/some/where")


@pytest.fixture
def hurried(monkeypatch):
    """Gives up after about a second, whether the place ever answered or not."""
    patience = object_files.Patience(timedelta(seconds=0.5), timedelta(seconds=0.5), timedelta(seconds=0.5))
    monkeypatch.setattr(object_files, "_PATIENT", patience)
    monkeypatch.setattr(object_files, "_IMPATIENT", patience)


def always(fault):
    return lambda _call, _environ: fault


def once(fault, method):
    """Spoil the first request of a method."""
    left = [fault]
    return lambda call, _environ: left.pop() if left and call.method == method else None


def test_the_interface(files):
    assert files == open_files(f"{files.location}/")
    assert not files.exists("a/b")
    assert files.size("a/b") is None
    assert files.names("") == files.names("a") == list(files.walk()) == list(files.leftovers()) == []
    for read in (files.get, files.view, lambda key: files.get_ranges(key, [(0, 1)])):
        with pytest.raises(NotFoundError, match="a/b does not exist"):
            read("a/b")
    before = time.time() - 2
    assert files.put_new("a/b", [b"01", memoryview(b"2345")])
    assert not files.put_new("a/b", [b"other"])
    assert files.put_new("a/b", [b"012345"])  # the very same bytes: the answer to our own request may have been lost
    assert files.exists("a/b")
    assert files.size("a/b") == 6
    assert files.get("a/b") == bytes(files.view("a/b")) == b"012345"
    assert not files.view("a/b").readonly
    assert files.get_ranges("a/b", [(4, 6), (0, 1), (1, 3)]) == [b"45", b"0", b"12"]
    assert files.get_ranges("a/b", []) == []
    for number in range(3):
        files.put(f"a/c/{number}", b"x" * number)
    files.put("a/c/0", b"replaced")
    assert files.get("a/c/0") == b"replaced"
    assert files.names("a") == ["b", "c"]
    assert files.names("a/c") == ["0", "1", "2"]
    found = {info.key: info for info in files.walk("a")}
    assert sorted(found) == ["a/b", "a/c/0", "a/c/1", "a/c/2"]
    assert found["a/c/2"].size == 2
    assert before < found["a/b"].modified < time.time() + 2
    files.delete(["a/b", "a/c/0", "nothing/there"])
    assert sorted(info.key for info in files.walk()) == ["a/c/1", "a/c/2"]
    assert files.where("a/b") == f"{files.location}/a/b"


def test_large_objects_come_in_parts(files, s3, monkeypatch):
    data = os.urandom(100_003)
    files.put("large", data)
    for part in (5_000, 99_999, 100_003, 200_000):
        monkeypatch.setattr(object_files, "_PART_BYTES", part)
        s3.calls.clear()
        assert bytes(files.view("large")) == data
        assert len(s3.calls) == -(-len(data) // part)
    files.put("empty", b"")
    assert bytes(files.view("empty")) == b""


def test_many_names_are_listed_in_pages(files, s3):
    for number in range(31):
        files.put(f"many/{number}", b"")

    def small_pages(_call, environ):
        environ["QUERY_STRING"] += "&max-keys=10"

    s3.fault = small_pages
    s3.calls.clear()
    assert len(files.names("many")) == 31
    assert len(s3.calls) == 4
    assert len(list(files.walk("many"))) == 31


def test_credentials_stay_in_the_environment(files, monkeypatch):
    files.put("a", b"1")
    assert b"a-secret" not in pickle.dumps(files)
    copy = pickle.loads(pickle.dumps(files))  # noqa: S301 - our own
    assert copy.get("a") == b"1"
    assert vars(files).keys() - {"_patient", "_impatient"} == {"location", "_answered"}
    with pytest.raises(UsageError, match="carries credentials") as refused:
        open_files("s3://AKIA:a-secret@team/x")
    assert "a-secret" not in str(refused.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert ObjectFiles(files.location).get("a") == b"1"


def test_a_profile_is_read_through_boto3(files, s3, tmp_path, monkeypatch):
    files.put("a", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    config = tmp_path / "credentials"
    config.write_text("[team]\naws_access_key_id = AKIAOFTHEPROFILE\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "team")
    seen = []
    s3.fault = lambda _call, environ: seen.append(environ["HTTP_AUTHORIZATION"])
    assert ObjectFiles(files.location).get("a") == b"1"
    assert "AKIAOFTHEPROFILE" in seen[0]
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="nobody"):
        ObjectFiles(files.location).get("a")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtraError, match="AWS profile 'nobody' needs the package 'boto3'"):
        ObjectFiles(files.location).get("a")


def test_no_credentials(files, s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UsageError, match="set or unset together"):
        ObjectFiles(files.location).get("a")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("NO_PROXY", "*")
    # the address that a machine of the cloud asks for its role, as it answers elsewhere
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"{s3.url}/169.254.169.254")
    s3.fault = always(status(404, "NotFound"))
    with pytest.raises(FeatstoreError, match=r"no credentials for s3://team-\d+\n.*AWS_ACCESS_KEY_ID"):
        ObjectFiles(files.location).get("a")


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (403, "AccessDenied", "refuses access to .* .AccessDenied.\n.*policy"),
        (403, "InvalidAccessKeyId", "InvalidAccessKeyId"),
        (400, "ExpiredToken", "have expired\n.*renew them; then run the same command again"),
        (403, "RequestTimeTooSkewed", "clock"),
        (301, "PermanentRedirect", "AWS_REGION"),
        (404, "NoSuchBucket", "there is no bucket s3://team-\\d+\n"),
    ],
)
def test_refusals_say_what_to_do(files, s3, code, name, message):
    s3.fault = always(status(code, name))
    for work in (
        lambda: files.get("a"),
        lambda: files.put_new("a", [b"1"]),
        lambda: files.names("a"),
        lambda: list(files.walk()),
    ):
        s3.calls.clear()
        with pytest.raises(FeatstoreError, match=message) as refused:
            work()
        assert len(s3.calls) == 1  # asking again would not help
        assert "a-secret" not in str(refused.value)


def test_a_passing_trouble_goes_unnoticed(files, s3):
    files.put("big", b"0123456789" * 100_000)
    for fault in (status(503, "SlowDown"), status(500, "InternalError"), lost, cut):
        s3.fault = once(fault, "GET")
        assert files.get("big")[-10:] == b"0123456789"
        s3.fault = once(fault, "GET")
        assert files.get_ranges("big", [(0, 4), (999_996, 1_000_000)]) == [b"0123", b"6789"]
    for number, fault in enumerate((status(503, "SlowDown"), lost, status(409, "ConditionalRequestConflict"))):
        s3.fault = once(fault, "PUT")
        assert files.put_new(f"own/{number}", [b"mine"])
        s3.fault = once(fault, "PUT")
        assert not files.put_new(f"own/{number}", [b"another's"])
    s3.fault = once(status(409, "ConditionalRequestConflict"), "PUT")
    assert files.put_new("own/large", [bytes(2 << 20)])


@pytest.mark.usefixtures("hurried")
def test_lasting_trouble_is_a_clear_stop(files, s3):
    s3.fault = always(status(503, "SlowDown"))
    with pytest.raises(FeatstoreError, match=r"the server answers SlowDown\n.*goes on where it stopped"):
        files.get("a")
    assert len(s3.calls) > 1
    s3.fault = lambda call, _environ: status(409, "ConditionalRequestConflict") if call.method == "PUT" else None
    with pytest.raises(FeatstoreError, match="neither be written nor found"):
        files.put_new("a", [b"1"])


def test_a_place_that_never_answered_gets_less_patience(files, s3):
    assert object_files._IMPATIENT.total + object_files._IMPATIENT.silence <= timedelta(seconds=20)
    assert files._store is files._impatient
    s3.fault = always(status(403, "AccessDenied"))
    with pytest.raises(FeatstoreError):
        files.get("a")
    assert files._store is files._impatient
    s3.fault = None
    with pytest.raises(NotFoundError):
        files.get("a")
    assert files._store is files._patient
    worker = pickle.loads(pickle.dumps(files))  # noqa: S301 - our own
    assert worker._store is worker._patient


@pytest.mark.usefixtures("s3", "hurried")
def test_a_dead_or_silent_place_is_given_up(monkeypatch):
    silent = socket.create_server(("127.0.0.1", 0))
    held = []
    threading.Thread(target=lambda: held.extend(silent.accept() for _ in range(3)), daemon=True).start()
    for port, pattern in ((1, "cannot be reached"), (silent.getsockname()[1], "cannot be reached")):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        began = time.monotonic()
        with pytest.raises(FeatstoreError, match=pattern):
            open_files("s3://team/x").get("a")
        assert time.monotonic() - began < 10
    silent.close()


@pytest.mark.usefixtures("hurried")
def test_a_place_that_overwrites_is_refused(files, s3):
    probe_create_only(files)
    assert list(files.walk()) == []

    def deaf(_call, environ):
        environ.pop("HTTP_IF_NONE_MATCH", None)

    s3.fault = deaf
    with pytest.raises(UsageError, match="lets a second writer replace"):
        probe_create_only(files)
    assert list(files.walk()) == []
    s3.fault = always(status(501, "NotImplemented"))
    with pytest.raises(UsageError, match="does not know create-only writes"):
        probe_create_only(files)


def test_other_schemes():
    for address in ("http://host/x", "ftp://host/x", "sftp://x"):
        with pytest.raises(UsageError, match="no store can be at"):
            open_files(address)
    assert open_files("gs://team/x/").location == "gs://team/x"
