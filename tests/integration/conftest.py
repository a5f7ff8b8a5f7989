from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import quick_beam


@pytest.fixture(scope="session", autouse=True)
def _quick_beam() -> None:
    quick_beam.use()


@pytest.fixture(scope="session")
def readme_blocks(checkout: Path):
    """The code of the README's quickstart: shell (prepare), Python (train), shell (serve)."""
    quickstart = (
        (checkout / "README.md")
        .read_text(encoding="utf-8")
        .split("## Quickstart")[1]
        .split("\n## ")[0]
    )
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", quickstart, flags=re.DOTALL | re.MULTILINE)
    assert [language for language, _ in blocks] == ["sh", "python", "sh"]
    return [code for _, code in blocks]


@pytest.fixture(scope="session")
def serving_here() -> Callable[[Path], AbstractContextManager[str]]:
    """``with serving_here(EXPORT / "ranker") as target``: a server in this process.

    It replaces `tfrec_limaml.demo.serving.serving`, which starts another process.
    """
    from limaml_serving.server import EmbeddedServer

    @contextlib.contextmanager
    def serving(model: Path) -> Iterator[str]:
        with EmbeddedServer({"ranker": model}) as server:
            yield server.target

    return serving
