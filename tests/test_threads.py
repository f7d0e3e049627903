"""How waiting threads of OpenMP behave is set before torch is imported, unless the user has set it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

CODE = "import os, sys, maskclip.threads; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"


@pytest.mark.parametrize(("user", "expected"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_sleep_while_they_wait(user: dict[str, str], expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | user
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT / "src", env=environment, check=True)
    assert result.stdout.split() == ["False", expected]
