"""Import this module first: it puts the checkout's `src` folder on the path, so that scripts run without an installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import maskclip.threads  # noqa: F401 - before torch
