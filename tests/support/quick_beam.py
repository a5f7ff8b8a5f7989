"""Beam without the work that it repeats for each small pipeline.

Most of the time of a pipeline over a few rows goes to asking the same methods for their signatures
and their source, to building the same argument parsers, to making a client of S3 for each
operation, to listing all modules for the size of each cached value: the answers are kept here.
Functions are compressed a little less, and types do not remember where they were given. Jobs of one
process that use the same adapter share it (``load_model.__wrapped__`` loads it). What pipelines
compute does not change, and processes that tests start use Beam as it is, unless they call `use`.
"""

from __future__ import annotations

import bz2
import copy
import functools
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from apache_beam.internal import cloudpickle_pickler
from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate
from apache_beam.typehints import decorators
from objsize import traverse

from limaml_beam.generate_embeddings import adapter
from limaml_beam.update import adapting


def use() -> None:
    """Makes the pipelines of this process quicker; a second call changes nothing."""
    if getattr(core.get_function_args_defaults, "keeps", None) is None:
        core.get_function_args_defaults = _signatures_kept(core.get_function_args_defaults)
        core._check_fn_use_yield_and_return = _kept_by_code(core._check_fn_use_yield_and_return)
        userstate.get_dofn_specs = _no_specs_kept(userstate.get_dofn_specs)
        PipelineOptions.__init__ = _flags_kept(PipelineOptions.__init__)
        traverse._iter_modules_globals = _globals_kept(traverse._iter_modules_globals)
        decorators.TRACEBACK_LIMIT = 0
        adapter.load_model = adapting.load_model = _models_kept(adapter.load_model)
        cloudpickle_pickler.bz2 = types.SimpleNamespace(
            compress=lambda content, compresslevel: bz2.compress(content, 1),
            decompress=bz2.decompress,
        )
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


def _kept_by_code(read: Callable[[Any], bool]) -> Callable[[Any], bool]:
    kept: dict[types.CodeType, bool] = {}

    def yields_and_returns(function: Any) -> bool:
        code = getattr(function, "__code__", None)
        if code is None:
            return read(function)
        if code not in kept:
            kept[code] = read(function)
        return kept[code]

    return yields_and_returns


def _no_specs_kept(
    read: Callable[[Any], tuple[set[Any], set[Any]]],
) -> Callable[[Any], tuple[set[Any], set[Any]]]:
    """Of the classes without state and timers, which are most."""
    without: set[type] = set()

    def specs_of(dofn: Any) -> tuple[set[Any], set[Any]]:
        if type(dofn) in without:
            return set(), set()
        specs = read(dofn)
        if not any(specs):
            without.add(type(dofn))
        return specs

    return specs_of


def _globals_kept(read: Callable[[], Iterable[Any]]) -> Callable[[], list[Any]]:
    """Until the number of modules changes."""
    kept: dict[int, list[Any]] = {}

    def globals_of_modules() -> list[Any]:
        number = len(sys.modules)
        if number not in kept:
            kept.clear()
            kept[number] = list(read())
        return kept[number]

    return globals_of_modules


def _models_kept(load: Callable[[str, Sequence[str], int], Any]) -> Callable[..., Any]:
    """The last two, as long as their files stay as they are."""
    kept: dict[Any, Any] = {}

    @functools.wraps(load)
    def model_of(folder: str, tags: Sequence[str], intra_op_threads: int) -> Any:
        files = [(str(path), path.stat()) for path in sorted(Path(folder).rglob("*"))]
        key = tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in files), tuple(tags)
        if not files:  # not local
            return load(folder, tags, intra_op_threads)
        model = kept.pop(key, None) or load(folder, tags, intra_op_threads)
        kept[key] = model
        while len(kept) > 2:
            del kept[next(iter(kept))]
        return model

    return model_of


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
