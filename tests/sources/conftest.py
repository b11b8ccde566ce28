"""The same eight images as every kind of source holds them."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

COUNT = 8
CLASSES = ["cat", "dog"]


def pixels(n):
    return np.random.default_rng(n).integers(0, 256, (6, 7, 3), dtype=np.uint8)


def png(n):
    stream = io.BytesIO()
    Image.fromarray(pixels(n)).save(stream, "PNG")
    return stream.getvalue()


def label(n):
    return CLASSES[n % 2]


def write_folder(root):
    for n in range(COUNT):
        path = root / label(n) / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(n))


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def add(tar, name, data, **changes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def write_tar(path, numbers, *, format_=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=format_) as tar:
        for n in numbers:
            add(tar, f"{n:04}.cls", label(n).encode())
            add(tar, f"{n:04}.json", json.dumps({"weight": n / 2, "camera": f"c{n % 3}", "box": [1, 2]}).encode())
            add(tar, f"{n:04}.png", png(n))


@pytest.fixture
def skipped():
    return []


def listed(source, skipped):
    return list(source.rows(skipped.append))
