"""The built-in data sets, one module each."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.errors import LimamlError

#: Modules of this package that define ``DATASETS``; a new data set is one module and one entry
#: here.
_MODULES = ("simulated", "kuairand", "movielens", "vk_lsvd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The user's choices, checked against the data set's lists.

    Attributes:
        data_dir: Folder for the official files; ``None`` for the default ones.
        label: Name of the label.
        tasks: Names of the task definitions; the first becomes the schema's default.
        history: Whether to declare point-in-time history features.
        settings: All further settings of the data set.
    """

    data_dir: Path | None
    label: str
    tasks: tuple[str, ...]
    history: bool
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """One public data set.

    Attributes:
        name: Name for ``limaml datasets prepare``.
        summary: One line for the list.
        homepage: Its official site.
        licence: Its licence.
        citation: The publication to cite.
        labels: Label columns to choose from; the first is the default.
        tasks: Task definitions to choose from: name to key columns; the first is the default.
        load: Reads the data set.
        settings: Further settings and their defaults.
    """

    name: str
    summary: str
    homepage: str
    licence: str
    citation: str
    labels: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]]
    load: Callable[[Request], RawData]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def request(
        self,
        *,
        data_dir: str | Path | None = None,
        label: str | None = None,
        tasks: tuple[str, ...] | None = None,
        history: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Request:
        """Fills in defaults; raises `LimamlError` for unknown choices."""
        definitions = tuple(tasks) if tasks else (next(iter(self.tasks)),)
        for choice, allowed, kind in (
            (label, self.labels, "label"),
            *((t, tuple(self.tasks), "task definition") for t in definitions),
        ):
            if choice is not None and choice not in allowed:
                raise LimamlError(f"{self.name} has no {kind} {choice!r}; it has {list(allowed)}")
        unknown = sorted(set(settings or {}) - set(self.settings))
        if unknown:
            raise LimamlError(
                f"{self.name} has no setting {unknown[0]!r}; it has "
                f"{sorted(self.settings) or 'none'}"
            )
        return Request(
            data_dir=None if data_dir is None else Path(data_dir),
            label=label or self.labels[0],
            tasks=definitions,
            history=history,
            settings={**self.settings, **(settings or {})},
        )

    def task_columns(self, request: Request) -> dict[str, tuple[str, ...]]:
        """The chosen task definitions, in the given order."""
        return {name: self.tasks[name] for name in request.tasks}

    def facts(self) -> dict[str, Any]:
        """Facts for ``limaml datasets list``."""
        return {
            "summary": self.summary,
            "homepage": self.homepage,
            "licence": self.licence,
            "citation": self.citation,
            "labels": list(self.labels),
            "tasks": {name: list(keys) for name, keys in self.tasks.items()},
            "settings": dict(self.settings),
        }

    def source(self, **facts: Any) -> dict[str, Any]:
        """Licence, citation and further facts for the data card."""
        return {
            "dataset": self.name,
            "homepage": self.homepage,
            "licence": self.licence,
            "citation": self.citation,
            **facts,
        }


def all_datasets() -> dict[str, Dataset]:
    """All built-in data sets by name."""
    modules = (importlib.import_module(f"tfrec_limaml.datasets.{name}") for name in _MODULES)
    return {dataset.name: dataset for module in modules for dataset in module.DATASETS}


def get(name: str) -> Dataset:
    """The data set called `name`; raises `LimamlError` listing the names."""
    datasets = all_datasets()
    if name not in datasets:
        raise LimamlError(
            f"unknown data set {name!r}; known ones are {sorted(datasets)}, or use your own data "
            f"with --schema and --interactions"
        )
    return datasets[name]
