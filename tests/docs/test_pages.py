"""The blocks of README, CONTRIBUTING, data/README and docs: every command names settings that exist, and every page runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from support.commands import CONFIGS, compose_command, unknown_parameters
from support.pages import SHELL, Command, blocks, pages, parse, shell_lines, spans, unquoted
from support.run_pages import DONE

from maskclip.textures.dataset import write_textures

PAGES = pages()
SHELL_BLOCKS = [block for page in PAGES for block in blocks(page) if block.language in SHELL]
LINES = [(block.page, block.place, line) for block in SHELL_BLOCKS for line in shell_lines(block)]
LINES += [(page, page, span) for page in PAGES for span in spans(page)]
SETTING = re.compile(r"'?[~+]{0,2}[a-z_]+(?:[./][a-z_]+)*(?:@[a-z_.]+)?=[^\s=]")
SETTINGS = [(page, span) for page in PAGES for span in spans(page) if SETTING.match(span)]
CODE = {path: path.read_text(encoding="utf-8") for folder in ("scripts", "src/maskclip/prepare") for path in (ROOT / folder).rglob("*.py")}
CAMVID = {"train": 3, "val": 2, "test": 4}


WITH_COMMANDS = [page for page in PAGES if any(place == page and parse(line) for place, _, line in LINES)]


@pytest.fixture(scope="module")
def shown_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each page a folder with the project's conf/ and the files that the page shows."""
    folder = tmp_path_factory.mktemp("pages")
    for page in WITH_COMMANDS:
        files = [block for block in blocks(page) if block.file is not None]
        if files:
            shutil.copytree(ROOT / "conf", folder / page / "conf")
        for block in files:
            path = folder / page / str(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    return folder


def test_pages_have_the_commands_of_every_program() -> None:
    commands = [command for _, _, line in LINES if (command := parse(line)) is not None]
    assert {command.program for command in commands} >= set(CONFIGS) and len(commands) > 20


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_compose_and_bind(page: str, shown_files: Path) -> None:
    folder = shown_files / page
    problems = []
    for where, place, line in LINES:
        if where == page and (command := parse(line)) is not None:
            problems += [f"{place}: {line}: {problem}" for problem in problems_of(command, folder)]
    assert not problems, "\n".join(problems)


def problems_of(command: Command, folder: Path) -> list[str]:
    """What is wrong with a command whose page has its files in `folder`."""
    if not (ROOT / command.program).is_file():
        return ["no such program"]
    if command.program not in CONFIGS:
        return missing_options(command)
    root = folder if (folder / "conf").is_dir() else ROOT
    try:
        return [f"{key} is no parameter" for key in unknown_parameters(compose_command(command, root, folder))]
    except (HydraException, OmegaConfBaseException) as error:
        return [str(error)]


def missing_options(command: Command) -> list[str]:
    """Options that are neither in the code of the scripts nor in what they share."""
    options = [word.partition("=")[0] for word in command.arguments if word.startswith("--") and word != "--help"]
    return [f"no option {option}" for option in options if not any(f'"{option}"' in code for code in CODE.values())]


def test_settings_in_the_text_parse() -> None:
    parser = OverridesParser.create()
    for page, setting in SETTINGS:
        try:
            parser.parse_overrides(shlex.split(setting))
        except (HydraException, ValueError) as error:
            pytest.fail(f"{page}: `{setting}`: {error}")


def test_shells_expand_nothing_in_commands_and_settings() -> None:
    commands = [(place, line) for _, place, line in LINES if parse(line) is not None]
    for place, line in commands + SETTINGS:
        assert not set("[]{}*?") & set(unquoted(line)), f"{place}: quote words with brackets, as in 'classes.names=[cat,grass]'"


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for _, place, line in LINES:
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, f"{place}: make {target}"


def test_python_blocks_are_python() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                compile(block.text, block.place, "exec")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the programs and configs, with some photos and CamVid. Pages draw the synthetic data themselves."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("src", "conf", "scripts"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    drawn = tmp_path_factory.mktemp("drawn")
    write_textures(drawn, [(i, 2 * i, 3 * i) for i in range(13)], train=4, val=1)
    (root / "photos" / "holiday").mkdir(parents=True)
    images = sorted((drawn / "JPEGImages").glob("*.jpg"))
    for source, name in zip(images, ("photo.jpg", "photos/beach.jpg", "photos/garden.jpg", "photos/holiday/zoo.jpg"), strict=False):
        shutil.copy(source, root / name)
    draw_camvid(root / "data" / "camvid")
    return root


def draw_camvid(root: Path) -> None:
    """CamVid's folders and lists with small images; value 11 is void."""
    rng = np.random.default_rng(0)
    for split, count in CAMVID.items():
        names = [f"0001TP_{i:06d}.png" for i in range(count)]
        for folder, shape in ((split, (48, 64, 3)), (f"{split}annot", (48, 64))):
            (root / folder).mkdir(parents=True)
            for name in names:
                Image.fromarray(rng.integers(0, 12, shape, dtype=np.uint8)).save(root / folder / name)
        lines = [f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n" for name in names]
        (root / f"{split}.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def runner(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process that runs pages, see support/run_pages.py."""
    folder = tmp_path_factory.mktemp("runner")
    copy = folder / "checkout"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(copy / "src"), str(ROOT / "tests")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        **{"MASKCLIP_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "WANDB_MODE": "offline"},
    }
    environment.pop("MASKCLIP_DATA", None)
    shutil.copytree(checkout, copy)
    command = [sys.executable, str(ROOT / "tests" / "support" / "run_pages.py"), str(checkout), str(copy)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str, runner: subprocess.Popen[str]) -> None:
    assert runner.stdin is not None and runner.stdout is not None
    runner.stdin.write(page + "\n")
    runner.stdin.flush()
    lines = []
    for line in runner.stdout:
        if line.startswith(DONE):
            assert line.split()[-1] == "0", "".join(lines)[-5000:]
            return
        lines.append(line)
    pytest.fail("the process ended: " + "".join(lines)[-5000:])
