"""Two whole data sets through two pretrained encoders in one pass, disturbed in three ways: is it the same in the end?

Cars are a folder (with four files that are no pictures), groceries are read in their tar file. Everything goes through the
command line; each way has a store of its own:

- `undisturbed`: one process.
- `killed`: one process, killed with SIGKILL in the middle of each data set, and the same command again.
- `ranks`: two ranks side by side, one of them stopped (SIGINT) after its first shard and resumed when the other is through.
- `ray`: two Ray workers, one of them killed with SIGKILL in the middle.
- `onnx`: the first encoder's ONNX export over the rows of `undisturbed`.

    python benchmarks/extraction_whole.py --data ../shared/data --folder /tmp/whole
    python benchmarks/extraction_whole.py --data ../shared/data --folder /tmp/whole --ways killed ray

Ways that are given run anew; then all that are there are compared with `undisturbed`. It needs the extras `lite`, `ray` and
`onnx`, and about 2,000 seconds of one core; `--images 200` takes that many of each set and a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featstore.encoders import Encoder
from featstore.encoders.pretrained import efficientnet_lite1
from featstore.store import FeatureSet, Store, verify

FEATSTORE = str(Path(sys.executable).with_name("featstore"))
LITE0 = "python:featstore.encoders.pretrained:efficientnet_lite0"
MODELS = {"lite0": LITE0, "lite1": "python:extraction_whole:lite1_at_128"}
DATASETS = ("cars", "grocery")
SMALL = 128


def lite1_at_128() -> Encoder:
    """EfficientNet-Lite1 on smaller images than lite0 takes: it only pools, so it takes any size."""
    whole = efficientnet_lite1()
    preprocess = whole.preprocess.model_copy(update={"size": SMALL, "shorter_side": SMALL + 16})
    return Encoder(
        whole.module, preprocess, architecture=whole.architecture, config=whole.config, name="lite1 at 128 px"
    )


class Way:
    """One way of extracting both data sets, with a store of its own.

    Args:
        folder: Of everything made.
        name: Of the way.
        sources: Where the images of each data set are.
    """

    def __init__(self, folder: Path, name: str, sources: dict[str, str]) -> None:
        self.folder, self.name, self.sources = folder, name, sources
        self.store = folder / name
        self.events: list[str] = []

    def begin(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        Store.init(self.store)

    def start(self, dataset: str, *options: str, models: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """The command in a session of its own, so that it can be killed with all it started."""
        chosen = [f"--model={name}={uri}" for name, uri in (models or MODELS).items()]
        command = [
            FEATSTORE,
            "extract",
            self.sources[dataset],
            "--dataset",
            dataset,
            *chosen,
            "--channels-last",
            "--json",
        ]
        places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"FEATSTORE_STORE": str(self.store), "PYTHONPATH": os.pathsep.join(places)}
        with (self.folder / f"{self.name}.log").open("a") as log:
            return subprocess.Popen(
                [*command, *options],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What the command reported; pictures that fail are no fault of its."""
        out, _ = process.communicate()
        if process.returncode not in (0, 3):
            raise SystemExit(f"{self.name} ended with {process.returncode}, see {self.folder / self.name}.log")
        report: dict[str, Any] = json.loads(out)
        self.events.append(
            f"exit {process.returncode}, {report['encoded']:,} encoded at {report['images_per_second']:.1f}/s, "
            f"{report['cached']:,} cached, {report['left']:,} left, {report['failed']} failed"
        )
        return report

    def published(self, dataset: str) -> int:
        """Rows in shards that are durable, of the set that has fewest."""
        rows = []
        for name in MODELS:
            place = self.store / "features" / dataset / name
            rows.append(sum(json.loads(path.read_text())["rows"] for path in place.rglob("shards/*.json")))
        return min(rows)

    def wait_for(self, dataset: str, rows: int, process: subprocess.Popen[str]) -> None:
        """Until so many rows are published, and then up to a few seconds, so that a shard is under way."""
        while self.published(dataset) < rows:
            if process.poll() is not None:
                raise SystemExit(f"{self.name} ended before it was disturbed, see {self.folder / self.name}.log")
            time.sleep(0.2)
        time.sleep(np.random.default_rng(len(dataset)).uniform(0.5, 5))


def undisturbed(way: Way, dataset: str, _: int) -> None:
    """One process."""
    way.finish(way.start(dataset, "--workers", "1"))


def killed(way: Way, dataset: str, images: int) -> None:
    """One process, killed after two fifths of the images."""
    process = way.start(dataset, "--workers", "1")
    way.wait_for(dataset, images * 2 // 5, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    way.events.append(f"SIGKILL with {way.published(dataset):,} rows published")
    way.finish(way.start(dataset, "--workers", "1"))


def ranks(way: Way, dataset: str, _: int) -> None:
    """Two ranks, of which the second stops early and comes back late."""
    options = ("--workers", "1", "--rank")
    first, second = way.start(dataset, *options, "0/2"), way.start(dataset, *options, "1/2")
    way.wait_for(dataset, 1, second)
    second.send_signal(signal.SIGINT)
    second.communicate()
    way.events.append(f"rank 1 stopped with exit {second.returncode}")
    way.finish(first)
    way.finish(way.start(dataset, *options, "1/2"))


def ray(way: Way, dataset: str, images: int) -> None:
    """Two Ray workers, of which one is killed."""
    process = way.start(dataset, "--workers", "2", "--engine", "ray")
    way.wait_for(dataset, images * 2 // 5, process)
    actors = [pid for pid in descendants(process.pid) if command_of(pid).startswith("ray::_Actor.do")]
    os.kill(actors[0], signal.SIGKILL)
    way.events.append(f"SIGKILL of one of {len(actors)} actors with {way.published(dataset):,} rows published")
    way.finish(process)


def onnx(way: Way, dataset: str, _: int) -> None:
    """The export, into the store of `undisturbed`."""
    file = way.folder / "lite0.onnx"
    if not file.exists():
        subprocess.run([FEATSTORE, "models", "export", LITE0, str(file)], check=True, stdout=subprocess.DEVNULL)
    way.finish(way.start(dataset, "--workers", "1", models={"onnx": f"onnx:{file}"}))


WAYS: dict[str, Callable[[Way, str, int], None]] = {
    step.__name__: step for step in (undisturbed, killed, ranks, ray, onnx)
}


def main() -> None:
    """Run the ways that are asked for, and compare all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="Folder with cars196h/ and grocery/.")
    parser.add_argument("--folder", type=Path, required=True, help="Scratch; stores and logs stay there.")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--images", type=int, help="Of each data set; default: all.")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sources = prepared(arguments.folder, arguments.data, arguments.images)
    for name in arguments.ways:
        way = Way(arguments.folder, name, sources)
        if name == "onnx":
            way.store = arguments.folder / "undisturbed"
        else:
            way.begin()
        for dataset, source in sources.items():
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            WAYS[name](way, dataset, number_of_images(source))
            after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            cpu = "" if name == "ray" else f", {spent:,.0f} CPU-s"  # Ray's workers are nobody's children
            print(f"{name}, {dataset}: {wall:,.0f} s{cpu}; {'; '.join(way.events)}", flush=True)
            way.events.clear()
    first = Store.open(arguments.folder / "undisturbed")
    for dataset in DATASETS:
        for name in WAYS:
            if (arguments.folder / name / "features").is_dir() and name != "undisturbed":
                other = Store.open(arguments.folder / name)
                assert not verify(other, full=True).problems
                for key in (f"{dataset}/{model}" for model in MODELS):
                    if other.has_features(key):
                        compare(f"{name}, {key}", first.features(key), other.features(key))
                    else:
                        print(f"{name}, {key}: not finished")
        if first.has_features(f"{dataset}/onnx"):
            compare(f"onnx, {dataset}/lite0", first.features(f"{dataset}/lite0"), first.features(f"{dataset}/onnx"))


def compare(title: str, one: FeatureSet, other: FeatureSet) -> None:
    """Everything that must be the same, and how near the features are."""
    everything = range(one.dataset.rows)
    assert one.dataset.ids.take(everything) == other.dataset.ids.take(everything)
    assert (one.status() == other.status()).all()
    assert (one.input_digests() == other.input_digests()).all()
    ledgers = [[(entry.row, entry.id, entry.stage, entry.error) for entry in made.failures()] for made in (one, other)]
    assert ledgers[0] == ledgers[1]
    rows = one.valid_rows()
    left, right = (made.gather(rows).astype(np.float64) for made in (one, other))
    norms = np.linalg.norm(left, axis=1)
    relative = np.linalg.norm(left - right, axis=1) / norms
    print(
        f"{title}: {len(rows):,} ids, digests and states the same, {len(ledgers[0])} failures the same; "
        f"{(left == right).all(axis=1).mean():.1%} of the features bit for bit, at most {np.abs(left - right).max():.1e} apart "
        f"where the largest is {np.abs(left).max():.1f}, at most {relative.max():.1e} of their length"
    )


def prepared(folder: Path, data: Path, images: int | None) -> dict[str, str]:
    """The sources: cars unpacked, with files that are no pictures; groceries as they come."""
    place = folder / ("images" if images is None else f"images-{images}")
    if not place.is_dir():
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        with tarfile.open(data / "cars196h" / "cars196h.tar") as tar:
            chosen = tar.getmembers()[:images]
            tar.extractall(unfinished / "cars", members=chosen, filter="data")
            some = (unfinished / "cars" / chosen[-1].name).read_bytes()
        broken = unfinished / "cars" / "broken"
        broken.mkdir()
        (broken / "empty.webp").touch()
        (broken / "page.jpg").write_text("<html>not found</html>")
        (broken / "truncated.webp").write_bytes(some[: len(some) // 2])
        Image.new("1", (30_000, 30_000)).save(broken / "bomb.png")
        with (
            tarfile.open(data / "grocery" / "grocery.tar") as tar,
            tarfile.open(unfinished / "grocery.tar", "w") as new,
        ):
            for member in tar.getmembers()[:images]:
                new.addfile(member, tar.extractfile(member))
        unfinished.rename(place)
    return {"cars": str(place / "cars"), "grocery": str(place / "grocery.tar")}


def number_of_images(source: str) -> int:
    """Files in a folder or a tar."""
    if Path(source).is_dir():
        return sum(path.is_file() for path in Path(source).rglob("*"))
    with tarfile.open(source) as tar:
        return sum(member.isfile() for member in tar)


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def command_of(pid: int) -> str:
    """What a process calls itself."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


if __name__ == "__main__":
    main()
