"""The ranking protocol without input and output: the order of calls and the use of their results.

`RankingProtocol.rank` is a generator. It yields the calls to make (`Resolve`, `LookUp`, `Predict`),
and receives the result or the error of each. The blocking and the asyncio client only make these
calls, so that both behave in the same way.
"""

from __future__ import annotations

import logging
import math
import numbers
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

import grpc
import numpy as np
import numpy.typing as npt

from limaml_serving.client import wire
from limaml_serving.client.columns import Rows
from limaml_serving.client.counters import Counters
from limaml_serving.client.embeddings import (
    check_answer,
    keys_of,
    model_problem,
    size_problem,
    split_by_request,
)
from limaml_serving.client.predict_request import read_output
from limaml_serving.client.steps import (
    LookUp,
    Predict,
    Ranked,
    Request,
    Resolve,
    Steps,
    best_first,
    empty_ranking,
    seconds_of,
)
from limaml_serving.client.store_faults import StoreFaults
from limaml_serving.client.versions import KnownVersion, KnownVersions, VersionLock
from limaml_serving.errors import RequestError, ServingError, quote
from tfrec_limaml.arrays import Mask
from tfrec_limaml.errors import LimamlError, StoreError, VersionMismatchError
from tfrec_limaml.manifest import RANK_SIGNATURE, SERVING_SIGNATURE
from tfrec_limaml.store.base import Matrix

logger = logging.getLogger(__name__)

Signature = Literal["rank", "serving_default"]
OnVersionMismatch = Literal["unadapted", "raise"]
_COUNTER_OF_CODE = {
    "DEADLINE_EXCEEDED": "deadline_exceeded",
    "UNAVAILABLE": "unavailable",
    "RESOURCE_EXHAUSTED": "unavailable",
}


class RankingProtocol:
    """The order of a ranking's calls; see the module's docstring.

    Args:
        known: The model versions whose manifests the client has.
        lock: Chooses the version to ask for.
        model_name, timeout, on_version_mismatch, signature: See `limaml_serving.Ranker`.

    Raises:
        LimamlError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        known: KnownVersions,
        model_name: str,
        lock: VersionLock,
        timeout: float,
        on_version_mismatch: OnVersionMismatch,
        signature: Signature,
    ) -> None:
        if signature not in (RANK_SIGNATURE, SERVING_SIGNATURE):
            raise LimamlError(
                f"signature must be {RANK_SIGNATURE!r} or {SERVING_SIGNATURE!r}, received "
                f"{signature!r}"
            )
        if on_version_mismatch not in ("unadapted", "raise"):
            raise LimamlError(
                "on_version_mismatch must be 'unadapted' or 'raise', received "
                f"{on_version_mismatch!r}"
            )
        if not _is_positive(timeout):
            raise LimamlError(f"timeout must be a positive number of seconds, received {timeout!r}")
        self.counters = Counters()
        self._known = known
        self._model = model_name
        self._lock = lock
        self._timeout = float(timeout)
        self._compact = signature == RANK_SIGNATURE
        self._faults = StoreFaults(self.counters, on_version_mismatch == "raise")

    def rank(self, requests: Sequence[Request], top: int | None, timeout: float | None) -> Steps:
        """Ranks each request's candidates; see `Ranker.rank_many`, also for the errors."""
        if top is not None and (
            isinstance(top, bool) or not isinstance(top, numbers.Integral) or top < 1
        ):
            raise RequestError(f"top must be a whole number of at least 1, received {top!r}")
        seconds = self._timeout if timeout is None else seconds_of(timeout)
        requests = list(requests)
        self.counters.add(requests=len(requests))
        deadline = time.monotonic() + seconds
        try:
            if seconds <= 0:
                message = f"no time to ask the server: the call's timeout is {seconds:g} seconds"
                raise ServingError(message, "DEADLINE_EXCEEDED")
            return (yield from self._rank(requests, top, deadline))
        except ServingError as error:
            self.counters.add(**{_COUNTER_OF_CODE.get(error.code, "failed"): len(requests)})
            raise

    def _rank(self, requests: Sequence[Request], top: int | None, deadline: float) -> Steps:
        version = yield from self._version(deadline)
        try:
            return (yield from self._rank_with(version, requests, top, deadline))
        except ServingError as error:
            if error.code != "NOT_FOUND" or self._lock.pinned is not None:
                raise
        # The version was retired after it was resolved: follow the label, and score again with
        # the other version's embeddings.
        version = yield from self._resolve(deadline)
        return (yield from self._rank_with(version, requests, top, deadline))

    def _version(self, deadline: float) -> Generator[Resolve, Any, int]:
        if not self._lock.claim() and self._lock.current is not None:
            return self._lock.current
        try:
            return (yield from self._resolve(deadline))
        except ServingError as error:
            if self._lock.current is None:
                raise
            logger.warning("keeping model version %d: %s", self._lock.current, error)
            return self._lock.current

    def _resolve(self, deadline: float) -> Generator[Resolve, Any, int]:
        request = wire.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self._model
        if self._lock.label is not None:
            request.model_spec.version_label = self._lock.label
        try:
            response = yield Resolve(request, self._seconds_left(deadline))
        except grpc.RpcError as error:
            raise self._failure(error) from error
        version = int(response.model_spec.version.value)
        if self._lock.resolved(version):
            self.counters.add(version_changes=1)
            logger.info("model %s: version %d answers now", self._model, version)
        return version

    def _rank_with(
        self, version: int, requests: Sequence[Request], top: int | None, deadline: float
    ) -> Steps:
        model = self._model_of(version)
        numbered = [
            _numbered(model, request, index if len(requests) > 1 else None)
            for index, request in enumerate(requests)
        ]
        rows = [r for r in numbered if r.count]
        if not rows:
            return [empty_ranking(r, model.writer.outputs, version, top) for r in numbered]
        embeddings, has = yield from self._embeddings(model, version, rows, deadline)
        request = model.writer.write(
            self._model, version, rows, embeddings, has, compact=self._compact
        )
        try:
            response = yield Predict(request, self._seconds_left(deadline))
        except grpc.RpcError as error:
            raise self._failure(error) from error
        answered = response.model_spec.version.value
        if answered != version:
            raise VersionMismatchError(
                f"asked {self._model} for version {version}, but version {answered} answered: its "
                "scores are dropped"
            )
        total = sum(r.count for r in rows)
        scores = {name: read_output(response, name, total) for name in model.writer.outputs}
        return self._split(scores, numbered, has, version, top)

    def _model_of(self, version: int) -> KnownVersion:
        model = self._known.get(version)
        if model is not None:
            return model
        newest = self._known.newest
        self._faults.mismatch(
            f"version {version} serves, but its manifest is not known (the newest is of version "
            f"{newest.version})"
        )
        return newest

    def _embeddings(
        self, model: KnownVersion, version: int, rows: Sequence[Rows], deadline: float
    ) -> Generator[LookUp, Any, tuple[list[list[Matrix]], list[list[Mask]]]]:
        """Embeddings ``[1 or N, D]`` and masks ``[1 or N]``, by request and task definition.

        One look-up serves all requests.
        """
        keys = keys_of(rows)
        matrix = np.zeros((len(keys), model.embedding_dim), np.float32)
        found = np.zeros(len(keys), np.bool_)
        if keys and model.version == version and not self._faults.skips():
            limit = self._seconds_left(deadline) / 2
            try:
                answer = yield LookUp(keys, version, limit)
            except (StoreError, TimeoutError) as error:
                slow = f"no answer within {limit:.3g} seconds, half of the time left"
                self._faults.failed(str(error) or slow, error)
            else:
                if reason := size_problem(answer, keys):
                    self._faults.failed(reason)
                else:
                    self._faults.answered()
                    if reason := model_problem(answer, model):
                        self._faults.mismatch(reason)
                    else:
                        matrix, found, damaged = check_answer(answer)
                        self._faults.damaged(damaged, version)
        return split_by_request(rows, keys, matrix, found)

    def _split(
        self,
        scores: Mapping[str, npt.NDArray[np.float32]],
        rows: Sequence[Rows],
        has: Sequence[Sequence[Mask]],
        version: int,
        top: int | None,
    ) -> list[Ranked]:
        """Each request's part of the answer, ordered and counted."""
        results, start, masks = [], 0, iter(has)
        for r in rows:
            if r.count:
                used = next(masks)[0]
                self._count(r, used)
            else:
                used = np.zeros(0, np.bool_)
            part = {name: values[start : start + r.count] for name, values in scores.items()}
            results.append(best_first(r, part, used, version, top))
            start += r.count
        return results

    def _count(self, rows: Rows, used: Mask) -> None:
        scale, keys = rows.count // len(used), rows.keys[0]
        adapted, anonymous = scale * used.tolist().count(True), 0
        if None in keys.keys:
            anonymous = scale * keys.position.tolist().count(keys.keys.index(None))
        missing = rows.count - adapted - anonymous
        self.counters.add(
            candidates=rows.count,
            adapted=adapted,
            anonymous=anonymous,
            missing=missing,
            filled=len(rows.filled),
        )

    def _seconds_left(self, deadline: float) -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise ServingError(
                "no time left to ask the server after earlier steps, such as the store look-up; "
                "raise the timeout",
                "DEADLINE_EXCEEDED",
            )
        return seconds

    def _failure(self, error: Any) -> ServingError:
        code: str = error.code().name
        return ServingError(f"model server, {self._model}: {code}: {error.details()}", code)


def _is_positive(value: Any) -> bool:
    return isinstance(value, numbers.Real) and 0 < float(value) < math.inf


def _numbered(model: KnownVersion, request: Request, index: int | None) -> Rows:
    try:
        if not isinstance(request, Sequence) or len(request) != 2:
            raise RequestError(f"must be a pair (member, candidates), received {quote(request)}")
        rows = model.reader.read(*request)
        if rows.count:
            model.reader.check_known(request[1])
        return rows
    except RequestError as error:
        if index is None:
            raise
        raise RequestError(f"request {index}: {error}") from error
