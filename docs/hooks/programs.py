"""Put the `--help` of every program into the page reference/programs.

A line `<!-- help: src/train.py -->` in a page is replaced by what `python src/train.py --help` prints.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"^<!-- help: (\S+) -->$", re.MULTILINE)

# One process prints all texts, since importing torch takes most of the time.
PRINT_ALL = """
import contextlib, io, json, os, runpy, sys
os.environ["COLUMNS"] = "100"
texts = {}
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as stream, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    texts[script] = stream.getvalue()
    if "hydra" in sys.modules:
        from hydra.core.global_hydra import GlobalHydra
        GlobalHydra.instance().clear()
print(json.dumps(texts))
"""


@cache
def help_texts(scripts: tuple[str, ...]) -> dict[str, str]:
    """What each script prints for --help, with paths relative to the checkout."""
    command = [sys.executable, "-c", PRINT_ALL, *scripts]
    path = f"{ROOT / 'src'}:{ROOT / 'scripts'}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MASKCLIP_")} | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"--help of {', '.join(scripts)} failed:\n{done.stderr}")
    texts: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return {script: text.replace(f"{ROOT}/", "").strip() for script, text in texts.items()}


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with every marker replaced by a text block."""
    scripts = tuple(MARKER.findall(markdown))
    if not scripts:
        return markdown
    texts = help_texts(scripts)
    return MARKER.sub(lambda match: f"```text\n{texts[match[1]]}\n```", markdown)
