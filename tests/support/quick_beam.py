"""Beam without the work that it repeats for each small pipeline.

Most of the time of a pipeline over a few rows goes to asking the same methods for their signatures,
to building the same argument parsers and to making a client of S3 for each operation: the answers
are kept here. What pipelines compute does not change, and processes that tests start use Beam as it
is.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core


def use() -> None:
    """Makes the pipelines of this process quicker; a second call changes nothing."""
    if getattr(core.get_function_args_defaults, "keeps", None) is None:
        core.get_function_args_defaults = _signatures_kept(core.get_function_args_defaults)
        PipelineOptions.__init__ = _flags_kept(PipelineOptions.__init__)
        if boto3_client.boto3 is not None:
            session = types.SimpleNamespace(Session=_session_that_keeps_clients(boto3_client.boto3))
            boto3_client.boto3 = types.SimpleNamespace(session=session)


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


def _session_that_keeps_clients(boto3: Any) -> Callable[[], Any]:
    """Makes a session whose clients are made once for each set of options; they may be shared."""

    @functools.cache
    def client(**options: Any) -> Any:
        return boto3.session.Session().client(**options)

    return lambda: types.SimpleNamespace(client=client)
