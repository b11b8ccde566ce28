"""Every code block of the documents runs, in order, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest

from featstore_cli.main import run

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?P<skip><!-- test: skip[^>]*-->\n)?```(?P<language>\w+)(?: exit=(?P<status>[\d,]+))?\n(?P<code>.*?)```",
    re.DOTALL,
)
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_blocks_run(document, tmp_path, monkeypatch, capsys, request):
    if "s3://team-bucket" in document.read_text(encoding="utf-8"):
        request.getfixturevalue("s3").make_bucket("team-bucket")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATSTORE_STORE", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    names: dict[str, object] = {}
    for block in BLOCK.finditer(document.read_text(encoding="utf-8")):
        if block["skip"] or not {"featstore ", "import "} & set(
            re.findall(r"^(?:featstore |import )", block["code"], re.MULTILINE)
        ):
            continue
        if block["language"] == "python":
            exec(compile(block["code"], str(document), "exec"), names)  # noqa: S102 - our own documents
            continue
        for line in block["code"].replace("\\\n", " ").splitlines():
            arguments = shlex.split(line, comments=True)
            if arguments:
                assert arguments[0] == "featstore"
                status = run(arguments[1:])
                assert str(status) in (block["status"] or "0").split(","), capsys.readouterr().err


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} → {target}"
