"""The checkout: its path, its packages and its files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "tfrec_limaml": ROOT / "tfrec_limaml",
    "limaml_beam": ROOT / "beam" / "limaml_beam",
    "limaml_serving": ROOT / "serving" / "limaml_serving",
}


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository that match git's patterns: also untracked, but not ignored ones."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *patterns,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("needs the git checkout: the file list comes from `git ls-files`")
    return [path for name in result.stdout.split("\0") if name and (path := ROOT / name).is_file()]
