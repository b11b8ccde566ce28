"""The page about objectives covers every one of them, with their forms and the defaults the code has."""

import re
from pathlib import Path

import pytest

from featstore_training import adapter_infos, losses

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "objectives.md").read_text(encoding="utf-8")
INFOS = [*losses(), *adapter_infos()]
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^#)", PAGE, re.DOTALL | re.MULTILINE))


def test_every_objective_has_a_section_and_every_section_an_objective():
    assert sorted(SECTIONS) == sorted(info.name for info in INFOS)


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_the_section_has_equation_forms_and_true_defaults(info):
    section = SECTIONS[info.name]
    assert "ℒ" in section or "loss of `" in section
    for form in info.forms:
        assert f"`{info.name}:{form}`" in section
    for name, text in re.findall(r"`(\w+)` = ([\d,./]+\d|\d)", section):
        if name in info.params:
            assert eval(text.replace(",", "")) == pytest.approx(info.params[name]), name  # noqa: S307 - our own page
