"""An option of one value is given once: what came last would silently win."""

import click as plain
import pytest
import rich_click as click
from click.testing import CliRunner

from featstore_cli.base import Command, Group
from featstore_cli.main import COMMANDS, cli, run


def everything():
    yield cli
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        yield command
        if isinstance(command, plain.Group):
            yield from command.commands.values()


def test_every_command_has_the_rule():
    for command in everything():
        assert isinstance(command, Command | Group), command.name


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["eval", "--old", "a/b", "--new", "a/c", "--old", "a/d"], "--old"),
        (["eval", "--old=a/b", "--old=a/b"], "--old"),
        (["ls", "--store", "a", "--store", "b"], "--store"),
        (["--store", "a", "--store", "b", "ls"], "--store"),
        (["dataset", "split", "d", "--by", "image", "--by", "class"], "--by"),
    ],
)
def test_twice_is_refused(arguments, option, capsys):
    assert run(arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{option} takes one value and is given 2 times" in said
    assert "--help lists" in said


@click.command(cls=Command)
@click.option("--one")
@click.option("--many", multiple=True)
@click.option("--flag", is_flag=True)
def sample(one, many, flag):
    click.echo(f"{one} {many} {flag}")


def test_what_may_repeat_goes_on_repeating():
    done = CliRunner().invoke(sample, ["--many", "a", "--one", "x", "--many", "b", "--flag", "--flag"])
    assert done.output == "x ('a', 'b') True\n"
