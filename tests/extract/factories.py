"""Encoders that tests name by URI, so that worker processes and subprocesses find them too."""

import os
import time
from pathlib import Path

import torch
from torch import nn

from featstore.encoders import Encoder, Preprocess, build_architecture

GREY = Preprocess(channels=1, size=16, mean=(0.5,), std=(0.5,))
COLOUR = Preprocess(size=20, resize="shorter-side", shorter_side=24)


def _convnet(channels, embedding, seed, preprocess, **options):
    config = {"in_channels": channels, "widths": [8, 16], "embedding": embedding}
    module = build_architecture("convnet", config, seed=seed)
    return Encoder(module, preprocess, architecture="convnet", config=config, **options)


def old():
    return _convnet(1, 8, 1, GREY)


def new():
    return _convnet(3, 24, 2, COLOUR, normalise=True)


def other_old():
    return _convnet(1, 8, 3, GREY)


def unseeded():
    return _convnet(1, 8, None, GREY)


class _Wrapped(nn.Module):
    def __init__(self, before):
        super().__init__()
        self.inner = old().module
        self.before = before

    def forward(self, images):
        self.before(images)
        return self.inner(images)


def _wrapped(before, name):
    return Encoder(_Wrapped(before), GREY, architecture=name)


def slow():
    """About 200 images a second, so that a test can interrupt it."""
    return _wrapped(lambda images: time.sleep(0.005 * len(images)), "slow")


def _die_on_white(flag):
    def before(images):
        # the mark is an all-white image; the probe in the parent must survive it
        white = (images == 1).flatten(1).all(dim=1).any()
        if white and os.getpid() != int(os.environ["TEST_PARENT"]) and not (flag and Path(flag).exists()):
            if flag:
                Path(flag).touch()
            os.kill(os.getpid(), 9)

    return before


def dies_once():
    return _wrapped(_die_on_white(os.environ["TEST_FLAG"]), "dies")


def dies_always():
    return _wrapped(_die_on_white(""), "dies")


class _Odd(nn.Module):
    """NaN for all-black images, an exception for batches with an all-white one."""

    def forward(self, images):
        if (images == 1).flatten(1).all(dim=1).any():
            raise RuntimeError("white is too bright")
        out = images.flatten(1)[:, :4].clone()
        out[(images == -1).flatten(1).all(dim=1)] = float("nan")
        return out


def odd():
    return Encoder(_Odd(), GREY, architecture="odd")


def half():
    class Half(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :4].to(torch.float16)

    return Encoder(Half(), GREY, architecture="half")


def zero_for_grey():
    class Flat(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :4] - images.flatten(1)[:, 4:8]

    return Encoder(Flat(), GREY, architecture="flat")
