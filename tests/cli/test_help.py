"""`--help` is light, complete and fits a terminal of 80 columns."""

import subprocess
import sys

import pytest
import rich_click as click
from click.testing import CliRunner

from featstore_cli.main import _GROUPS, COMMANDS, cli

HEAVY = ("torch", "zarr", "faiss", "numba", "h5py", "numpy", "pydantic", "PIL")


def every_command():
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        yield [name], command
        if isinstance(command, click.Group):
            for inner in command.commands:
                yield [name, inner], command.commands[inner]


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from featstore_cli.main import run
for arguments in (["--help"], *[[*name, "--help"] for name in {[name for name, _ in every_command()]}]):
    assert run(arguments) == 0, arguments
    print("LOADED", [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == ["LOADED []"] * (1 + len(list(every_command())))


def test_the_store_imports_without_torch():
    code = "import sys, featstore.store, featstore.convert; print([m for m in ('torch', 'numba', 'faiss') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "command"), list(every_command()), ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_every_command_helps_within_80_columns(name, command):
    shown = CliRunner().invoke(cli, [*name, "--help"], terminal_width=80, env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    assert max(map(len, shown.output.splitlines())) <= 80
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name}: {option.name} says nothing"


def test_the_listing_says_what_the_commands_say():
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command.help.splitlines()[0] == line
    assert sorted(name for group in _GROUPS for name in group["commands"]) == sorted(COMMANDS)
