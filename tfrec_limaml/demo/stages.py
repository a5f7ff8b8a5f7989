"""The stages of the loop, each a ``limaml`` command with the output that it writes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tfrec_limaml import staging
from tfrec_limaml.cli import build_parser, say
from tfrec_limaml.errors import LimamlError

STATE_FILE = "demo.json"
#: Key of the member's story in the state.
STORY = "story"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage.

    Attributes:
        name: Key of the stage in the demo's state.
        words: Description for the progress lines.
        arguments: The command line after ``limaml``.
        output: The file or folder that exists once it has finished.
    """

    name: str
    words: str
    arguments: tuple[str, ...]
    output: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folder of one demo.

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def raw(self) -> Path:
        """The data set in the raw layout."""
        return self.root / "raw"

    @property
    def tasks(self) -> Path:
        """Task records."""
        return self.root / "tasks"

    @property
    def run(self) -> Path:
        """Trained models, learning curves, evaluation."""
        return self.root / "model"

    @property
    def export(self) -> Path:
        """SavedModels of the ranker and the adapter."""
        return self.root / "export"

    @property
    def embeddings(self) -> Path:
        """Embeddings as Parquet."""
        return self.root / "embeddings"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    def store(self, name: str = "store") -> str:
        """Address of an embedding store in the workspace."""
        return f"lmdb:{quote(str(self.root / name))}"

    def open(self, settings: dict[str, Any], overwrite: bool) -> dict[str, Any]:
        """Reads the state of an earlier demo, or starts a new one.

        Args:
            settings: Settings of the demo; must not change between a run and its continuation.
            overwrite: Remove an earlier demo's files.

        Returns:
            The state: ``settings``, the result of each finished stage and the member's story.

        Raises:
            LimamlError: The folder holds something else, or a demo with other settings.
        """
        path = self.root / STATE_FILE
        if self.root.exists() and any(self.root.iterdir()) and not path.is_file():
            raise LimamlError(
                f"--workspace {self.root} is not empty and does not hold an earlier demo; choose "
                "another folder"
            )
        if overwrite and path.is_file():
            shutil.rmtree(self.root)
        if path.is_file():
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if state["settings"] != settings:
                raise LimamlError(
                    f"--workspace {self.root} holds a demo with the settings {state['settings']}, "
                    f"received {settings}; "
                    "choose another folder, or pass --overwrite"
                )
            return state
        state = {"settings": settings, "stages": {}}
        self.save(state)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state, completely or not at all."""
        self.root.mkdir(parents=True, exist_ok=True)
        text = json.dumps(state, indent=1, default=str) + "\n"
        staging.write_text(self.root / STATE_FILE, text)


def _stage(name: str, words: str, output: Path, *arguments: str) -> Stage:
    return Stage(name=name, words=words, output=output, arguments=arguments)


def stages(
    workspace: Workspace, dataset: str, *, data: Sequence[str] = (), training: Sequence[str] = ()
) -> list[Stage]:
    """The stages up to the published embeddings, in order.

    Args:
        workspace: The folder that they write to.
        dataset: Name of the data set.
        data: Further options of ``limaml datasets prepare``.
        training: Further options of ``limaml train``.
    """
    tasks, run, export = (str(path) for path in (workspace.tasks, workspace.run, workspace.export))

    def train(algorithm: str) -> Stage:
        return _stage(
            f"train_{algorithm}",
            f"train {algorithm}",
            workspace.run / f"{algorithm}.keras",
            *("train", tasks, "--output", run, "--algorithm", algorithm, *training),
        )

    return [
        *_data_stages(workspace, dataset, data),
        train("vanilla"),
        train("limaml"),
        _stage(
            "evaluate",
            "measure on the test period",
            workspace.run / "evaluation.json",
            *("evaluate", tasks, "--run", run),
        ),
        _stage(
            "export",
            "export ranker and adapter",
            workspace.export,
            *("export", run, "--output", export),
        ),
        _stage(
            "embed",
            "compute and publish embeddings (Beam)",
            workspace.embeddings,
            *("embed", tasks, "--export", export, "--output", str(workspace.embeddings)),
            *("--store", workspace.store()),
        ),
    ]


def _data_stages(workspace: Workspace, dataset: str, options: Sequence[str]) -> list[Stage]:
    """The stages up to the task records."""
    raw, tasks = str(workspace.raw), str(workspace.tasks)
    return [
        _stage(
            "data",
            "get the data",
            workspace.raw,
            *("datasets", "prepare", dataset, "--output", raw, *options),
        ),
        _stage(
            "prepare",
            "build task records (Beam)",
            workspace.tasks,
            *("prepare", raw, "--output", tasks),
        ),
    ]


def run_stage(stage: Stage, position: str, workspace: Workspace, state: dict[str, Any]) -> bool:
    """Runs one stage unless it is finished; adds its result and duration to the state.

    Args:
        stage: The stage.
        position: Position for the progress line, for example ``"3/8"``.
        workspace: Holds the state.
        state: Extended in place.

    Returns:
        Whether the stage ran.
    """
    if stage.output.exists() and stage.name in state["stages"]:
        say(f"[{position}] {stage.words}: done before, {stage.output} exists")
        return False
    say(f"[{position}] {stage.words}\n      limaml {shlex.join(stage.arguments)}")
    if state.pop(STORY, None) is not None:  # computed from outputs that are about to be replaced
        workspace.save(state)
    _remove(stage.output)  # from an interrupted run, or computed from outputs changed since
    started = time.perf_counter()
    result = call(stage.arguments)
    seconds = round(time.perf_counter() - started, 2)
    state["stages"][stage.name] = {"seconds": seconds, "result": result}
    workspace.save(state)
    say(f"      done in {seconds:.0f} s")
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def call(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Runs an installed ``limaml`` command in this process and returns its result.

    Errors of the command pass through.
    """
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            parsed = build_parser([arguments[0]]).parse_args(list(arguments))
    except SystemExit as error:
        reason = captured.getvalue().strip().splitlines()
        raise LimamlError(
            f"cannot run `limaml {shlex.join(arguments)}`: {reason[-1] if reason else error}"
        ) from error
    result: dict[str, Any] | None = parsed.run_command.run(parsed)
    return result
