"""Beam without the work that it repeats for each small pipeline.

Most of the time of a pipeline over a few rows goes to asking the same methods for their signatures
and to building the same argument parsers: the answers are kept here. What pipelines compute does
not change, and processes that tests start use Beam as it is.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core


def use() -> None:
    """Makes the pipelines of this process quicker; a second call changes nothing."""
    if getattr(core.get_function_args_defaults, "keeps", None) is None:
        core.get_function_args_defaults = _signatures_kept(core.get_function_args_defaults)
        PipelineOptions.__init__ = _flags_kept(PipelineOptions.__init__)


def _signatures_kept(read: Callable[[Any], tuple[list[str], list[Any]]]) -> Callable[..., Any]:
    kept: dict[Any, tuple[list[str], list[Any]]] = {}

    def arguments_of(function: Any) -> tuple[list[str], list[Any]]:
        if not isinstance(function, types.MethodType):
            return read(function)
        known = kept.get(function.__func__)
        if known is None:
            known = kept[function.__func__] = read(function)
        return list(known[0]), list(known[1])

    arguments_of.keeps = kept
    return arguments_of


def _flags_kept(parse: Callable[..., None]) -> Callable[..., None]:
    kept: dict[tuple[type, tuple[str, ...]], Any] = {}

    def __init__(self: Any, flags: Sequence[str] | None = None, **options: Any) -> None:
        if flags is None or isinstance(flags, str):
            return parse(self, flags, **options)
        key = type(self), tuple(flags)
        if key not in kept:
            parse(self, flags, **options)
            kept[key] = copy.deepcopy(self._visible_options)
            return
        self._flags = flags
        self._visible_options = copy.deepcopy(kept[key])
        self._all_options = options
        for name in self._visible_option_list():
            options.setdefault(name, getattr(self._visible_options, name))

    return __init__
