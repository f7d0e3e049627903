"""The reference pages are complete, and the site loads nothing from other servers."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from support.pages import blocks, pages

REFERENCE = ROOT / "docs" / "reference"


def hook(name: str) -> ModuleType:
    """A fresh copy of a hook of mkdocs, which loads them by their path too."""
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_config_key_has_a_meaning() -> None:
    missing = hook("config").undocumented()
    assert not missing, "add a comment above the key or behind its value:\n" + "\n".join(missing)


def test_every_option_has_a_description(tmp_path: Path) -> None:
    header, shown = hook("config").header, tmp_path / "shown.yaml"
    options = [path for path in (ROOT / "conf").glob("*/**/*.yaml") if not path.stem.startswith("_") and path.parent.name != "local"]
    missing = [str(path.relative_to(ROOT)) for path in options if not header(path)]
    for block in (block for page in pages() for block in blocks(page) if block.text.startswith("# @package")):
        shown.write_text(block.text, encoding="utf-8")
        missing += [] if header(shown) else [block.place]
    assert not missing, "start the file with a comment, after `# @package`, that says what the option is:\n" + "\n".join(missing)


def test_every_config_file_is_in_the_reference() -> None:
    text = (REFERENCE / "config.md").read_text(encoding="utf-8")
    places = {place for _, place in hook("config").MARKER.findall(text)}
    conf = ROOT / "conf"
    groups = {path.parent.relative_to(conf).as_posix() for path in conf.rglob("*.yaml")} - {".", "hydra", "local"}
    assert groups | {path.name for path in conf.glob("*.yaml")} == places


def test_every_program_is_in_the_reference() -> None:
    scripts = set(hook("programs").MARKER.findall((REFERENCE / "programs.md").read_text(encoding="utf-8")))
    assert scripts >= {path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("src/*.py"), *ROOT.glob("scripts/prepare_*.py")]}


def test_named_modules_and_tests_exist() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text(encoding="utf-8"))
        if not any((folder / name).is_file() for folder in (ROOT, ROOT / "src", ROOT / "scripts", ROOT / "src" / "maskclip"))
    ]
    assert not missing, "\n".join(missing)


def test_meanings_come_from_comments_and_docstrings(tmp_path: Path) -> None:
    config = hook("config")
    config.CONF = tmp_path
    (tmp_path / "part").mkdir()
    (tmp_path / "run.yaml").write_text("# a program\nseed: 0\noutput: out  # where | to\n")
    (tmp_path / "part" / "_base.yaml").write_text(
        "_target_: torch.nn.Linear\n# above,\n# in two lines\nnames: [a, b]\nbias: true\n# a heading\nwords:  # one value\n  a: {b: c}\n"
        "deep:\n  key: '#'  # behind a quoted value\n  other: 1\n"
    )
    (tmp_path / "part" / "some.yaml").write_text("# an option\ndefaults: [_base]\nnames: [d]\nwords:\n  e: f\n")
    (tmp_path / "part" / "plain.yaml").write_text("bias: false\n")
    rows = [line.split(" | ") for line in config.tables("part").splitlines() if line.startswith("| `part.")]
    meanings = {row[0].strip("| `"): row[-1].rstrip(" |") for row in rows}
    assert meanings == {
        "part.names": "above, in two lines",
        "part.bias": "If set to ``False``, the layer will not learn an additive bias.",
        "part.words": "one value",
        "part.deep.key": "behind a quoted value",
        "part.deep.other": "",
    }
    assert "| `part=some` | an option |" in config.tables("part") and "| `part=plain` | `bias: false` |" in config.tables("part")
    assert "where &#124; to" in config.tables("run.yaml")
    assert config.undocumented() == ["part/_base.yaml: part.deep.other", "run.yaml: seed"]


def test_equations_become_mathml() -> None:
    text = hook("equations").on_page_content('<p><span class="arithmatex">\\(a &lt; b\\)</span></p><div class="arithmatex">\\[x^2\\]</div>')
    assert text.count("<math") == 2 and "arithmatex" not in text and "<msup>" in text


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_other_servers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["'](https?:[^"']+)""", page.read_text(encoding="utf-8"))
        assert not loaded, f"{page.name}: {loaded}"
