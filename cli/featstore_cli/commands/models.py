"""`featstore models …`: encoders by URI."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from featstore_cli.base import Group
from featstore_cli.options import examples, json_option
from featstore_cli.render import out, print_json, print_table


@click.group(cls=Group)
@examples("featstore models show run:models/old", "featstore models export run:models/old old.onnx")
def models() -> None:
    """Encoders: list the kinds, show one, export one.

    A model is named by a URI, which `featstore extract --model NAME=URI` takes.
    """


@models.command()
@json_option
def ls(as_json: bool) -> None:
    """List the kinds of models and what each needs."""
    from importlib.util import find_spec

    from featstore.encoders.uris import MODEL_KINDS

    kinds = [
        {
            "example": kind.example,
            "what": kind.what,
            "extra": kind.extra,
            "installed": kind.package is None or find_spec(kind.package) is not None,
        }
        for kind in MODEL_KINDS.values()
    ]
    if as_json:
        print_json(kinds)
        return
    rows = [
        [
            str(kind["example"]),
            str(kind["what"]),
            "" if kind["installed"] else f"pip install 'featstore[{kind['extra']}]'",
        ]
        for kind in kinds
    ]
    print_table(["model", "", ""], rows)


@models.command()
@click.argument("model", metavar="MODEL")
@json_option
def show(model: str, as_json: bool) -> None:
    """Describe an encoder: its space, width and preprocessing."""
    from featstore.encoders import load_encoder

    encoder = load_encoder(model)
    if as_json:
        print_json(encoder.space.model_dump(mode="json") | {"digest": encoder.space.digest})
        return
    rows = {"space": encoder.space.name, "digest": encoder.space.digest, "features": repr(encoder)}
    rows |= {key: str(value) for key, value in encoder.space.identity.items() if key not in ("preprocess", "kind")}
    rows |= {key: str(value) for key, value in encoder.preprocess.model_dump().items() if value is not None}
    for name, text in rows.items():
        out.print(f"[bold]{name:>16}[/]  ", end="")
        out.print(text if len(text) < 200 else text[:199] + "…", markup=False)


@models.command()
@click.argument("model", metavar="MODEL")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@examples("featstore models export run:models/new new.onnx", "featstore models export timm:resnet50 resnet50.pt2")
def export(model: str, file: Path) -> None:
    """Write an encoder as .onnx or .pt2, with its preprocessing.

    The file is read back and compared with the encoder before it gets its name. Features of the export may be compared
    with those of the encoder: its space says so.
    """
    from featstore.encoders import export_encoder, load_encoder

    difference = export_encoder(load_encoder(model), file)
    scheme = "onnx" if file.suffix == ".onnx" else "export"
    out.print(f"[bold]{scheme}:{file}[/]  features differ by at most {difference:.1e} of the largest")
