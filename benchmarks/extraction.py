"""Extraction beside its own limit, beside a plain DataLoader loop and clip-retrieval, and beside itself run twice.

Seconds are those of one processor, the smallest of some rounds in turns, with one thread. The limit of one core is
1 / (1 / forward + 1 / prepare): the network alone on images in memory, and reading, decoding and resizing alone. Rates of
`extract` and of the loop are those of the further images between a short run and a long one, so that loading, trying the
encoder and the like do not count. `python:` models need the extra `lite`; extraction_peers.py says how to get clip-retrieval.

    python benchmarks/extraction.py --images ../shared/data/cars196h/cars196h.tar
    python benchmarks/extraction.py --cached 100000      # rerun of a dataset that is all there
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from extraction_peers import BATCH, clip_retrieval, has_clip_retrieval, plain_loop
from PIL import Image

from featstore.encoders import Encoder, Numerics, Preprocess, build_architecture, load_encoder, save_encoder
from featstore.extract import ExtractRequest, extract
from featstore.extract.process import keep_memory
from featstore.sources import content_digest, decode_image
from featstore.store import Store

LITE = "python:featstore.encoders.pretrained:efficientnet_lite0"
IMPORTS = (
    "import featstore.extract, featstore_cli.commands.extract, featstore_cli.render; from featstore.store import Store"
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", help="a folder or a tar of images; made up if not given")
    parser.add_argument("--lite", type=int, default=192, help="further images for efficientnet_lite0; 0 leaves it out")
    parser.add_argument("--small", type=int, default=1024, help="further images for small networks")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cached", type=int, default=0, help="images of a dataset that is extracted, then run again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.cached:
            cached(folder, arguments.cached)
            return
        most = max(arguments.lite, arguments.small) + 64
        images = pictures(folder / "images", arguments.images, most)
        for label, side, width in (("small", 32, 8), ("middle", 48, 8), ("tiny", 64, 8)):
            write_network(folder / label, side, width)
        tiny = str(folder / "tiny")
        budget(folder, "small network, 64 px: decoding counts", tiny, images, arguments.small, arguments.rounds)
        together(folder, "as they are", images, arguments.small // 2, arguments.rounds)
        large = enlarged(folder / "large", images, arguments.small // 2 + 64)
        together(folder, "as photos of 640 pixels", large, arguments.small // 2, arguments.rounds)
        if arguments.lite:
            title = "efficientnet_lite0, 224 px: the network counts"
            budget(folder, title, LITE, images, arguments.lite, arguments.rounds)
            faster(LITE, images)


def budget(folder: Path, title: str, uri: str, images: Path, count: int, rounds: int) -> None:
    """The limit, `extract` and a plain loop over the same images with the same network."""
    encoder = load_encoder(uri)
    paths = sorted(images.rglob("*.*"))[: 4 * BATCH]
    arrays = np.stack([encoder.preprocess.apply(decode_image(path.read_bytes())) for path in paths[:BATCH]])
    short, long = (listing(folder, images, n) for n in (64, 64 + count))

    def forward() -> None:
        for _ in range(4):
            encoder.encode(arrays)

    def prepare() -> None:
        for path in paths:
            encoder.preprocess.apply(decode_image(path.read_bytes()))

    def extracted(spec: str) -> Callable[[], None]:
        def run() -> None:
            store = Store.init(tempfile.mkdtemp(dir=folder))
            extract(store, ExtractRequest(source=spec, dataset="d", models={"f": uri}, workers=1, canary=0))

        return run

    def looped(spec: str) -> Callable[[], None]:
        return lambda: plain_loop(encoder, spec, folder / "loop.npy")

    def peer(n: int) -> Callable[[], None]:
        return lambda: clip_retrieval(encoder, images, n, folder / "clip-retrieval")

    steps = {
        "forward": forward,
        "prepare": prepare,
        "extract short": extracted(short),
        "extract long": extracted(long),
        "loop short": looped(short),
        "loop long": looped(long),
    }
    if has_clip_retrieval():
        for size, n in (("short", 64), ("long", 64 + count)):
            steps[f"clip-retrieval {size}"] = peer(n)
    seconds = smallest(steps, rounds)
    rates = {
        "network alone": len(paths) / seconds["forward"],
        "read, decode, resize alone": len(paths) / seconds["prepare"],
    }
    limit = 1 / sum(1 / rate for rate in rates.values())
    rates["limit of both"] = limit
    rates["featstore extract"] = count / (seconds["extract long"] - seconds["extract short"])
    for kind, label in (("loop", "DataLoader loop into one .npy"), ("clip-retrieval", "clip-retrieval's runner")):
        if f"{kind} long" in seconds:
            rates[label] = count / (seconds[f"{kind} long"] - seconds[f"{kind} short"])
    print(f"\n{title}, {count:,} images")
    for name, rate in rates.items():
        print(f"  {name:32} {rate:8,.1f} images/CPU-s  {rate / limit:5.2f} of the limit")


def together(folder: Path, title: str, images: Path, count: int, rounds: int) -> None:
    """Two encoders in one pass, and one after the other, beside what sharing the decoding can save at most.

    That depends on what there is to share: with equal decoding and encoding (of both networks together) 1.5, with much
    larger networks 1.
    """
    models = {"small": str(folder / "small"), "middle": str(folder / "middle")}
    encoders = {name: load_encoder(uri) for name, uri in models.items()}
    specs = [listing(folder, images, n) for n in (64, 64 + count)]
    files = sorted(images.rglob("*.*"))[: 4 * BATCH]
    decoded = [decode_image(path.read_bytes()) for path in files]

    def decode() -> None:
        for path in files:
            data = path.read_bytes()
            content_digest(data)
            decode_image(data)

    def encode(encoder: Encoder) -> Callable[[], None]:
        def work() -> None:
            for first in range(0, len(decoded), BATCH):
                encoder.encode(np.stack([encoder.preprocess.apply(image) for image in decoded[first : first + BATCH]]))

        return work

    def run(spec: str, *passes: dict[str, str]) -> Callable[[], None]:
        def work() -> None:
            store = Store.init(tempfile.mkdtemp(dir=folder))
            for chosen in passes:
                extract(store, ExtractRequest(source=spec, dataset="d", models=chosen, workers=1, canary=0))

        return work

    steps = {"decode": decode, **{name: encode(encoder) for name, encoder in encoders.items()}}
    for size, spec in zip(("short", "long"), specs, strict=True):
        steps[f"one {size}"] = run(spec, models)
        steps[f"two {size}"] = run(spec, *({name: uri} for name, uri in models.items()))
    seconds = smallest(steps, rounds)
    shared, *own = (1000 * seconds[name] / len(files) for name in ("decode", *encoders))
    least = shared + sum(own)
    one, two = (1000 * (seconds[f"{kind} long"] - seconds[f"{kind} short"]) / count for kind in ("one", "two"))
    limit = (least + shared) / least
    print(f"\ntwo encoders (32 and 48 px), {title}, {count:,} images; CPU-ms an image")
    print(f"  alone: read and decode {shared:.2f}, resize and encode {own[0]:.2f} and {own[1]:.2f}")
    print(f"  one pass   {one:6.2f}, of which those parts are {least:.2f}")
    print(f"  two passes {two:6.2f}, of which those parts are {least + shared:.2f}")
    print(f"  one pass is {two / one:.2f} x as fast; {limit:.2f} x is what sharing those parts can give")


def faster(uri: str, images: Path) -> None:
    """The network computed in other ways, with the cosine to float32 on real images."""
    encoder = load_encoder(uri)
    paths = sorted(images.rglob("*.*"))
    chosen = [paths[k] for k in np.linspace(0, len(paths) - 1, BATCH).astype(int)]
    arrays = np.stack([encoder.preprocess.apply(decode_image(path.read_bytes())) for path in chosen])
    wide = encoder.encode(arrays).astype(np.float64)
    ways = {
        "float32": Numerics(),
        "float32, channels last": Numerics(channels_last=True),
        "bf16, channels last": Numerics(autocast="bf16", channels_last=True),
        "float32, compiled": Numerics(channels_last=True, compile=True),
        "bf16, compiled": Numerics(autocast="bf16", channels_last=True, compile=True),
    }
    print("\nthe network of efficientnet_lite0 alone")
    first = 0.0
    for name, numerics in ways.items():
        tuned = encoder.tuned(numerics, BATCH)
        features = tuned.encode(arrays).astype(np.float64)
        rate = BATCH / smallest({"run": partial(tuned.encode, arrays)}, 3)["run"]
        first = first or rate
        norms = np.linalg.norm(features, axis=1) * np.linalg.norm(wide, axis=1)
        cosine = ((features * wide).sum(axis=1) / norms).min()
        print(f"  {name:24} {rate:8,.1f} images/CPU-s  {rate / first:5.2f} x  smallest cosine {cosine:.6f}")


def cached(folder: Path, count: int) -> None:
    """A run that finds everything there, as a user starts it, beside one that only imports what it needs."""
    root = folder / "images"
    rng = np.random.default_rng(0)
    for n in range(count):
        path = root / f"c{n % 100:02}" / f"{n:07}.png"
        if n < 100:
            path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    write_network(folder / "tiny", 8, 4)
    featstore = str(Path(sys.executable).with_name("featstore"))
    command = [featstore, "extract", str(root), "--dataset", "d", "--model", f"f={folder}/tiny"]
    environment = os.environ | {"FEATSTORE_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
    Store.init(folder / "store")
    for name, arguments in (
        ("the first run", command),
        ("the same again", command),
        ("imports alone", [sys.executable, "-c", IMPORTS]),
        ("the same again", command),
        ("imports alone", [sys.executable, "-c", IMPORTS]),
    ):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(arguments, env=environment, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"  {name:16} {spent:7.2f} CPU-s  {time.perf_counter() - began:7.2f} s")


def pictures(folder: Path, given: str | None, count: int) -> Path:
    """A folder with the images: the one given, a tar unpacked, or made up."""
    if given is not None and Path(given).is_dir():
        return Path(given)
    if given is not None:
        with tarfile.open(given) as tar:
            tar.extractall(folder, filter="data")
        return folder
    rng = np.random.default_rng(0)
    folder.mkdir()
    for n in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((400, 300), Image.Resampling.BICUBIC).save(folder / f"{n:05}.jpg", quality=90)
    return folder


def enlarged(folder: Path, images: Path, count: int) -> Path:
    """The first images as cameras and shops give them: JPEG, the longer side 640 pixels."""
    folder.mkdir()
    for n, path in enumerate(sorted(images.rglob("*.*"))[:count]):
        image = decode_image(path.read_bytes()).convert("RGB")
        factor = 640 / max(image.size)
        size = (round(image.width * factor), round(image.height * factor))
        image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{n:05}.jpg", quality=90)
    return folder


def listing(folder: Path, images: Path, count: int) -> str:
    """A source of the first images: a table of paths."""
    path = folder / f"{images.name}-{count}.csv"
    chosen = sorted(images.rglob("*.*"))[:count]
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["path"], *[[found.relative_to(images).as_posix()] for found in chosen]])
    return f"{path}?root={images}"


def write_network(folder: Path, side: int, width: int) -> None:
    """A run folder of a small convolutional network."""
    config = {"widths": [width, 2 * width, 4 * width], "embedding": 64}
    module = build_architecture("convnet", config, seed=0)
    preprocess = Preprocess(size=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    save_encoder(folder, Encoder(module, preprocess, architecture="convnet", config=config))


def smallest(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each step, the smallest of some rounds in turns."""
    seconds = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name] = min(seconds[name], time.process_time() - began)
    return seconds


if __name__ == "__main__":
    main()
