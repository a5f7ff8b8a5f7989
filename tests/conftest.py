"""What every test folder shares: quiet TensorFlow, steady hypothesis, the real log, and the command line in process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
hypothesis.settings.register_profile("limaml", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("limaml")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Root folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data_directory() -> Path:
    """Folder that holds ``KuaiRand-Pure/``; skips the test where there is none."""
    directory = Path(os.environ.get("LIMAML_DATA_DIR") or ROOT.parent / "shared" / "data")
    if not (directory / "KuaiRand-Pure").is_dir():
        pytest.skip(
            f"no KuaiRand-Pure/ in {directory}: unpack the official archive (see `limaml datasets --help`) "
            "and set LIMAML_DATA_DIR to the folder that holds it"
        )
    return directory


@pytest.fixture
def run_limaml(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """``run_limaml("train", tasks, "--output", run)``: runs ``limaml ... --json`` in this process and returns its result."""
    from tfrec_limaml.cli import main

    def run(*arguments: object) -> Any:
        capsys.readouterr()
        code = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out) if captured.out.strip() else None

    return run
