"""A batch that memory does not suffice for is halved until it does, and the user hears of it once."""

import numpy as np
import pytest
import torch

from featstore.encoders import Encoder
from featstore.extract import ExtractRequest, extract
from featstore.extract.isolate import Room, encode_isolated
from tests.extract import factories

ERRORS = {
    "cuda": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to …"),
    "python": MemoryError(),
}


@pytest.fixture
def little_memory(monkeypatch):
    """Encoders that have memory for five images; the sizes of the batches they were asked for."""
    plain, sizes = Encoder.encode, []

    def limit(error):
        def encode(self, images):
            sizes.append(len(images))
            if len(images) > 5:
                raise error
            return plain(self, images)

        monkeypatch.setattr(Encoder, "encode", encode)
        return sizes

    return limit


@pytest.mark.parametrize("kind", ERRORS)
def test_the_batch_is_halved_and_stays_so(little_memory, kind):
    encoder = factories.old()
    images = np.random.default_rng(0).normal(size=(21, 1, 16, 16)).astype(np.float32)
    expected = np.concatenate([encoder.encode(images[k : k + 1]) for k in range(21)])
    sizes = little_memory(ERRORS[kind])
    room = Room()
    done, features, failures = encode_isolated(encoder, range(21), images, room)
    assert (done, failures, room.images) == (list(range(21)), {}, 5)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert sizes == [21, 10, 5, 5, 5, 5, 1]
    sizes.clear()
    encode_isolated(encoder, range(12), images[:12], room)
    assert sizes == [5, 5, 2]


def test_one_image_that_is_too_large_fails_alone(monkeypatch):
    def encode(self, images):  # noqa: ARG001 - the encoder's signature
        raise ERRORS["cuda"]

    encoder = factories.old()
    monkeypatch.setattr(Encoder, "encode", encode)
    done, features, failures = encode_isolated(encoder, [7, 8], np.zeros((2, 1, 16, 16), np.float32))
    assert (done, features.shape) == ([], (0, 8))
    assert sorted(failures) == [7, 8]
    assert "OutOfMemoryError: CUDA out of memory" in failures[7].error


def test_the_user_hears_of_it_once(store, images, recorder, little_memory):
    little_memory(ERRORS["cuda"])
    request = ExtractRequest(
        source=str(images), dataset="d", models={"old": "python:tests.extract.factories:old"}, workers=1
    )
    report = extract(store, request, recorder)
    assert (report.encoded, report.failed) == (60, 0)
    said = [note for note in recorder.notes if "memory ran out" in note]
    assert said == ["memory ran out: 4 images at once from now on; --batch 4 begins so"]
