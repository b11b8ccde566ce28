"""Invariant 9: every non-zero exit says what to do next, with the documented status."""

import pytest

from featstore_cli.main import run


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("FEATSTORE_STORE", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["ls"], 1, "featstore init"),
        (["exctract"], 2, "did you mean extract"),
        (["ls", "--store", "nowhere"], 1, "featstore init"),
        (["--store", "nowhere", "ls"], 1, "featstore init"),
        (["init", "ftp://host/x"], 2, "give a folder"),
        (["export", "cars", "x.npz", "--store", "s"], 2, "DATASET/NAME"),
        (["show", "pets", "--store", "s"], 2, "featstore import"),
        (["import", "no.npz", "--as", "a/b", "--store", "s"], 1, "does not exist"),
        (["import", "x.npz", "--as", "a/b", "--key", "features", "--store", "s"], 2, "features=emb"),
        (["eval", "--store", "s"], 2, "--old SET"),
        (["eval", "--old", "a/b", "--metric", "mapp", "--store", "s"], 2, "did you mean map"),
        (["eval", "--old", "a/b", "--gate", "map >", "--store", "s"], 2, "for example"),
        (["eval", "--no-such-option"], 2, "--no-such-option"),
        (["train", "--loss", "independent", "--out", "x", "--store", "s"], 2, "--new DATASET/NAME"),
        (["train", "--new", "a/b", "--out", "x", "--store", "s"], 2, "--loss"),
        (["train", "--sweep", "bct", "--recipe", "bct", "--out", "x", "--store", "s"], 2, "leave one out"),
    ],
)
def test_what_went_wrong_and_what_helps(arguments, status, said, capsys):
    assert run(["init", "s"]) == 0
    capsys.readouterr()
    assert run(arguments) == status
    shown = capsys.readouterr()
    assert said in " ".join(shown.err.split())
    assert "Traceback" not in shown.err
    assert not shown.out


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys):
    from featstore.store import Store

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "open", interrupted)
    assert run(["ls"]) == 130
    assert "same command again" in capsys.readouterr().err
