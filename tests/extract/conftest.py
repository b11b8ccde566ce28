import numpy as np
import pytest
from PIL import Image

from featstore.sources import ImageFolder, decode_image
from featstore.store import Store


def make_images(root, count, *, classes=3, start=0):
    for n in range(start, start + count):
        folder = root / f"c{n % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(n).integers(0, 256, (18 + n % 5, 26, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{n:04}.{'png' if n % 2 else 'jpg'}")


def one_colour(path, grey, size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)


def one_by_one(source, encoder, ids):
    """The definition: each image alone, in the order of the ids."""
    folder = ImageFolder.open(source)
    return np.concatenate(
        [encoder.encode(encoder.preprocess.apply(decode_image(folder.read(id_)))[None]) for id_ in ids]
    )


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    make_images(root, 60)
    return root


@pytest.fixture
def store(tmp_path):
    return Store.init(tmp_path / "store")


class Recorder:
    def __init__(self):
        self.tasks = []
        self.advanced = 0
        self.notes = []

    def start(self, task, total, unit, *, done=0):
        self.tasks.append((task, total, unit, done))

    def advance(self, n):
        self.advanced += n

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def recorder():
    return Recorder()
