from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def readme_blocks(checkout: Path):
    """The README's quickstart: its first shell block and its Python block."""
    quickstart = (checkout / "README.md").read_text(encoding="utf-8").split("## Quickstart")[1].split("\n## ")[0]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", quickstart, flags=re.DOTALL | re.MULTILINE)
    shell = next(code for language, code in blocks if language == "sh")
    python = next(code for language, code in blocks if language == "python")
    return shell, python
