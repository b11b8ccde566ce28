"""`featstore config …`: recipes for training."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from featstore_cli.base import Group
from featstore_cli.options import examples, json_option
from featstore_cli.render import amount, out, print_json, print_table


@click.group(cls=Group)
@examples("featstore config show odpp", "featstore config cp odpp mine.yaml", "featstore config validate mine.yaml")
def config() -> None:
    """Shipped training recipes: list, show, copy, validate.

    Copy one, edit it, validate it, and give it to `featstore train --sweep`.
    """


@config.command()
@json_option
def ls(as_json: bool) -> None:
    """List the shipped recipes."""
    from featstore_training.recipes import parse_recipe, shipped_recipes

    recipes = {name: parse_recipe(text, name) for name, text in shipped_recipes().items()}
    if as_json:
        print_json({name: recipe.model_dump(mode="json") for name, recipe in recipes.items()})
        return
    rows = [[name, recipe.description, str(len(recipe.combinations()))] for name, recipe in recipes.items()]
    print_table(["recipe", "", "trials"], rows, left=2)


@config.command()
@click.argument("name", metavar="RECIPE")
def show(name: str) -> None:
    """Print a shipped recipe."""
    from featstore_training.recipes import shipped_recipe

    click.echo(shipped_recipe(name), nl=False)


@config.command()
@click.argument("name", metavar="RECIPE")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def cp(name: str, file: Path) -> None:
    """Copy a shipped recipe into a file of your own."""
    from featstore.errors import AlreadyExistsError
    from featstore_training.recipes import shipped_recipe

    text = shipped_recipe(name)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{file} exists", hint="name another file") from error
    out.print(f"[bold]{file}[/]  edit it, then: featstore config validate {file}")


@config.command()
@click.argument("file", metavar="RECIPE")
@json_option
def validate(file: str, as_json: bool) -> None:
    """Check every trial of a recipe without training anything."""
    from featstore_training.recipes import find_recipe
    from featstore_training.sweep import trial_config

    recipe = find_recipe(file)
    trials = recipe.combinations()
    for trial in trials:
        trial_config({"new": "a/new", **recipe.base}, trial, recipe.seeds[0])
    runs = len(trials) * len(recipe.seeds)
    if as_json:
        print_json({"recipe": file, "trials": len(trials), "runs": runs})
        return
    out.print(f"[bold]{file}[/]  {amount(len(trials), 'trials')} × {amount(len(recipe.seeds), 'seeds')}: fine")
