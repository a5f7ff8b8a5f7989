"""Runs all rivals over the seeds, keeps the scores of each run, and summarises them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfrec_limaml import staging
from tfrec_limaml.comparison import rivals
from tfrec_limaml.comparison.boosting import lightgbm, lightgbm_as_served, lightgbm_ids
from tfrec_limaml.comparison.networks import network
from tfrec_limaml.comparison.random_effects import glmix
from tfrec_limaml.comparison.rivals import Data, Outcome, Rival
from tfrec_limaml.comparison.summary import summarise
from tfrec_limaml.comparison.target_attention import build_target_attention
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.options import EPOCHS, MAX_EPOCHS, MIN_BATCHES, TrainOptions
from tfrec_limaml.wording import duration

_VANILLA = TrainOptions(algorithm="vanilla")
_ATTENTION = TrainOptions(choose_strength=False).replace(id_embeddings=True)
_GRADIENT = TrainOptions().replace(
    adaptation="gradient", support_reduction="sum", inner_learning_rate=0.03
)

#: All rivals by name; LiMAML's variants begin with ``limaml``.
RIVALS: Mapping[str, Rival] = {
    "constant": rivals.constant,
    "task-rate": rivals.task_rate,
    "history-rate": rivals.history_rate,
    "logistic-regression": rivals.logistic_regression,
    "lightgbm": lightgbm,
    "lightgbm-ids": lightgbm_ids,
    "lightgbm-as-served": lightgbm_as_served,
    "vanilla": network(_VANILLA),
    "vanilla-fine-tuned": network(_VANILLA, in_place=True),
    "wide-and-deep": network(_VANILLA.replace(global_block="wide_and_deep", id_embeddings=True)),
    "din": network(_ATTENTION, True, build_target_attention, 16),
    "glmix": glmix,
    "limaml": network(TrainOptions()),
    "limaml-encoder": network(TrainOptions().replace(prior="encoder", inner_steps=0)),
    "limaml-encoder-prior": network(TrainOptions().replace(prior="encoder")),
    "limaml-gradient": network(_GRADIENT),
    "limaml-paper": network(TrainOptions.paper()),
}
#: Rivals whose result does not depend on the seed.
UNSEEDED = ("constant", "task-rate", "history-rate", "logistic-regression")
#: Rivals other than networks, which have no epochs.
_WITHOUT_EPOCHS = (*UNSEEDED, "lightgbm", "lightgbm-ids", "lightgbm-as-served")
REFERENCE = "vanilla"
Progress = Callable[[str], None]


def compare(
    data: Data,
    output: str | Path,
    seeds: Sequence[int],
    names: Sequence[str] = tuple(RIVALS),
    progress: Progress = lambda text: None,
) -> dict[str, Any]:
    """Runs rivals and summarises them; runs that an earlier call finished are not repeated.

    Args:
        data: Task records with their encoder; see `Data.of`.
        output: Folder for ``runs/<name>-<seed>.json`` and ``.parquet`` (the score of each test row,
            with the columns that identify the row).
        seeds: One run of each rival per seed.
        names: Keys of `RIVALS`.
        progress: Called with a line for each run that starts, with the time since the call.

    Returns:
        ``results`` with one entry per rival (see `summarise`), ``rows``, ``tasks``, ``seeds``.

    Raises:
        LimamlError: An unknown rival, rows of one class, or an `output` whose runs were made with
            other data or epochs.
    """
    unknown = sorted(set(names) - set(RIVALS))
    if unknown:
        raise LimamlError(f"unknown rivals {unknown}; choose from {list(RIVALS)}")
    _check_classes(data)
    todo = [(n, s) for n in names for s in (seeds[:1] if n in UNSEEDED else seeds)]
    runs = run_all(data, output, todo, RIVALS, progress)
    return {
        "rows": len(data.test.label),
        "tasks": int(data.test.task.max()) + 1,
        "seeds": list(seeds),
        "reference": REFERENCE,
        "results": summarise(runs, data.test, REFERENCE),
    }


def _check_classes(data: Data) -> None:
    """Raises `LimamlError` for evaluation rows of one class: their AUC is undefined."""
    for split in ("validation", "test"):
        labels = np.unique(getattr(data, split).label)
        if len(labels) == 1:
            raise LimamlError(
                f"all rows of the {split} split of {data.tasks} have the label {labels[0]:g}, and "
                "AUC needs both classes; give `limaml prepare` other split dates or more rows"
            )


def run_all(
    data: Data,
    output: str | Path,
    todo: Sequence[tuple[str, int]],
    rivals: Mapping[str, Rival],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Runs rivals whose results are not yet in `output`.

    Args:
        data: Task records with their encoder; see `compare`.
        output: Folder for ``runs/<name>-<seed>.json`` and ``.parquet``.
        todo: Name and seed of each run.
        rivals: Rivals by name.
        progress: Called with a line for each run that starts, with the time since the call.

    Returns:
        One record per run: ``name``, ``seed``, ``seconds``; ``val_auc``, ``settings``, ``scores``
        and ``unadapted`` scores ``[N]`` if there are any; or a ``note`` if it could not run.
    """
    folder = Path(output) / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    started, runs = time.perf_counter(), []
    for number, (name, seed) in enumerate(todo):
        if not all(file.is_file() for file in _files(folder, name, seed)):
            # The time left is not estimated: a rival may take a hundred times as long as another.
            seconds = round(time.perf_counter() - started)
            elapsed = f", {duration(seconds)} elapsed" if number else ""
            progress(f"[{number + 1}/{len(todo)}] {name}, seed {seed}{elapsed}")
        runs.append(_run(data, folder, name, seed, rivals[name]))
    return runs


def _files(folder: Path, name: str, seed: int) -> tuple[Path, Path]:
    """The record and the scores of a run."""
    return folder / f"{name}-{seed}.json", folder / f"{name}-{seed}.parquet"


def _run(data: Data, folder: Path, name: str, seed: int, rival: Rival) -> dict[str, Any]:
    """One run, from its files if it is done; ``scores`` and ``unadapted`` are arrays ``[N]``."""
    record, table = _files(folder, name, seed)
    identity, origin = data.test.identity(), _origin(data, name)
    if record.is_file() and table.is_file():
        earlier = pd.read_parquet(table)
        if not np.array_equal(earlier["row"].to_numpy(), identity):
            raise LimamlError(
                f"{table} has scores of other rows than {data.tasks}; compare into another --output"
            )
        columns = {c: earlier[c].to_numpy() for c in ("scores", "unadapted") if c in earlier}
        result = json.loads(record.read_text(encoding="utf-8"))
        _check_origin(result, record, origin)
        return {**result, **columns}
    started = time.perf_counter()
    result = {"name": name, "seed": seed, "made_with": origin}
    columns = {}
    try:
        outcome: Outcome = rival(data, seed)
    except LimamlError as error:
        result["note"] = str(error)
    else:
        columns["scores"] = outcome.served
        if outcome.unadapted is not None:
            columns["unadapted"] = outcome.unadapted
        result |= {
            "val_auc": outcome.val_auc,
            "settings": outcome.settings,
            "served": outcome.served_form,
        }
    result["seconds"] = round(time.perf_counter() - started, 1)
    if columns:  # the next call repeats runs that failed
        frame = pd.DataFrame({"row": identity, "label": data.test.label, **columns})
        with staging.file(table) as temporary:
            frame.to_parquet(temporary, index=False)
        staging.write_text(record, json.dumps(result, indent=1) + "\n")
    return {**result, **columns}


def _origin(data: Data, name: str) -> dict[str, Any]:
    """What a run is made with; the default of the epochs too, since it may change."""
    if name in _WITHOUT_EPOCHS:
        return data.origin
    default = f"{EPOCHS} epochs, or {MIN_BATCHES} batches in up to {MAX_EPOCHS}"
    return {**data.origin, "epochs": data.epochs or default}


def _check_origin(result: dict[str, Any], record: Path, origin: dict[str, Any]) -> None:
    """Raises `LimamlError` for an earlier run that was made with other data or epochs."""
    for subject, value in result.get("made_with", {}).items():
        if value != origin.get(subject):
            raise LimamlError(
                f"{record} was made with other {subject} ({value}, now {origin.get(subject)}); "
                "compare into another --output"
            )
