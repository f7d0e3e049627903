"""The version is stated once, CITATION.cff cites the paper, and links between pages outside the site resolve."""

from __future__ import annotations

import re

import pytest
import yaml
from conftest import ROOT

import maskclip

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)")


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a Markdown page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_citation_has_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == maskclip.__version__
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhou", "Loy", "Dai"] and paper["year"] == 2022


def test_no_version_in_pyproject() -> None:
    assert not re.search(r"^version = \"", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"])
def test_links_resolve(page: str) -> None:
    folder = (ROOT / page).parent
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for path, anchor in LINK.findall(text):
        target = folder / path if path else ROOT / page
        assert target.is_file(), f"{page}: {path}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {path}#{anchor}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 135
