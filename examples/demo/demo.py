"""The whole way once: two encoders, one store, compatible training, a verdict.

Everything after the encoders is the public command line; each command is printed as you would type it.

    python examples/demo/demo.py                     digits that a package ships
    python examples/demo/demo.py --images FOLDER     your own images, one folder a class, with pretrained encoders
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from images import copy_users_images, write_digits

METHODS = ("independent", "odpp")


def main() -> None:
    """Run the demo in `demo-out/` of the current folder."""
    parser = argparse.ArgumentParser(description="The whole way once, on real images.")
    parser.add_argument("--images", type=Path, help="class folders of your own; default: handwritten digits")
    images = parser.parse_args().images
    work = (Path("demo-out") / (folder_for(images) if images else "digits")).absolute()
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if images is None:
        models = prepare_digits(work)
    else:
        count = copy_users_images(images, work / "images")
        say(f"{count:,} of your images; old: EfficientNet-Lite0, new: EfficientNet-Lite1, both pretrained on ImageNet")
        models = {
            name: f"python:featstore.encoders.pretrained:efficientnet_lite{n}" for n, name in enumerate(("old", "new"))
        }

    run(work, "featstore init")
    encoding = " ".join(f"--model {name}={uri}" for name, uri in models.items())
    extracted = timed(work, "encode", f"featstore extract images --dataset demo {encoding}")
    if "split" not in run_json(work, "featstore show demo")["columns"]:
        run(work, "featstore dataset split demo --by image --fraction train=0.5,test=0.5 --seed 0")
    for loss in METHODS:
        run(
            work,
            f"featstore train --loss {loss} --old demo/old --new demo/new --where split=train --seed 0 --out runs/{loss}",
        )
    applied = timed(work, "apply", "featstore apply runs/odpp demo/new --as demo/odpp")
    run(work, "featstore apply runs/independent demo/new --as demo/independent")
    sets = "--old demo/old --reference demo/independent --where split=test"
    result = run_json(work, f"featstore eval {sets} --new demo/odpp --report report.html --images images", show=True)
    control = run_json(work, f"featstore eval {sets} --new demo/independent --allow-unrelated", show=True)
    summary(result, control, extracted, applied, work)
    say(f"\ndone in {time.monotonic() - began:.0f} s; the same command again reuses every cache")


def folder_for(images: Path) -> str:
    """One folder for each source of images, so that two of them never mix."""
    digest = hashlib.sha256(str(images.absolute()).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', images.absolute().name)}-{digest}"


def prepare_digits(work: Path) -> dict[str, str]:
    """Digit images and two encoders as run folders; what is there already is kept."""
    count = write_digits(work / "images")
    say(f"{count:,} images of handwritten digits in {shown(work / 'images')}")
    from encoders import train_encoders

    train_encoders(work / "encoders", say)
    return {"old": "run:encoders/old", "new": "run:encoders/new"}


def summary(
    result: dict[str, Any], control: dict[str, Any], encode: dict[str, Any], apply: dict[str, Any], work: Path
) -> None:
    """The table that the demo is about."""
    cells = {cell["role"]: cell for cell in result["cells"]}
    unrelated = {cell["role"]: cell for cell in control["cells"]}
    rows = [
        ("old queries on the old gallery", "old/old", cells["old/old"]),
        ("independent queries on the old gallery", "new/old", unrelated["new/old"]),
        ("odpp queries on the old gallery", "new/old", cells["new/old"]),
        ("odpp queries on an odpp gallery", "new/new", cells["new/new"]),
        ("independent on independent (reference)", "reference", cells["reference"]),
    ]
    say(f"\n{'':50}{'mAP %':>7}  {'95 % interval':>14}{'R@1 %':>8}")
    for line, role, cell in rows:
        low, high = cell["interval"]["map"]
        numbers = cell["metrics"]
        span = f"{100 * low:6.1f} – {100 * high:4.1f}"
        say(f"{line:40}{role:10}{100 * numbers['map']:7.1f}  {span}{100 * numbers['recall@1']:11.1f}")
    say(f"\nverdict: {result['verdict']}")
    again = encode["seconds"] / max(apply["seconds"], 1e-9)
    say(
        f"moving the gallery to odpp took {apply['seconds']:.2f} s from the cache; "
        f"encoding its images (both models, one pass) took {encode['seconds']:.1f} s ({again:,.0f}×)"
    )
    say(f"report: {shown(work / 'report.html')}")


def timed(work: Path, name: str, command: str) -> dict[str, Any]:
    """Run a command that reports seconds; if everything was cached, say so and give the numbers of the run that was not."""
    file = work / f".{name}.json"
    report = run_json(work, command, show=True)
    fresh = report["encoded"] > 0 if "encoded" in report else not report["cached"]
    if fresh or not file.exists():
        file.write_text(json.dumps(report))
    else:
        say("  cached: nothing was computed again")
    kept: dict[str, Any] = json.loads(file.read_text())
    return kept


def run(work: Path, command: str) -> None:
    """Run a featstore command as a user would, output and all."""
    say(f"\n$ {command}")
    call(work, shlex.split(command))


def run_json(work: Path, command: str, *, show: bool = False) -> dict[str, Any]:
    """The JSON that a command prints; shown as the user would type it, without --json."""
    if show:
        say(f"\n$ {command}")
    result: dict[str, Any] = json.loads(call(work, [*shlex.split(command), "--json"], capture=True))
    return result


def call(work: Path, arguments: list[str], *, capture: bool = False) -> str:
    """Run a command in the demo's folder and stop with its exit status if it fails."""
    executable = [sys.executable, "-c", "from featstore_cli.main import main; main()", *arguments[1:]]
    done = subprocess.run(executable, cwd=work, stdout=subprocess.PIPE if capture else None, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.returncode)
    return done.stdout or ""


def shown(path: Path) -> str:
    """A path as short as it can be said."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def say(text: str) -> None:
    """Print at once, so that lines stand in the order of what happened."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
