"""The blocking ranker client: store look-up, version lock and one Predict call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

import grpc

from limaml_serving.client.base import RankerBase
from limaml_serving.client.columns import Candidates
from limaml_serving.client.steps import (
    LookUp,
    Predict,
    Ranked,
    Request,
    Resolve,
    Steps,
    seconds_of,
)
from limaml_serving.errors import ServingError
from tfrec_limaml.closing import Closing
from tfrec_limaml.errors import StoreError


class Ranker(RankerBase, Closing):
    """Ranks candidates for a member through TensorFlow Serving's gRPC protocol.

    One object serves a whole process: it is safe to share between threads. Create it after forking,
    not before.

    Examples:
        >>> ranker = Ranker("127.0.0.1:8500", store, manifest="export")   # doctest: +SKIP
        >>> member = {"user_id": 7, "age": 41.0}                          # doctest: +SKIP
        >>> candidates = {"item": ["a", "b", "c"]}                        # doctest: +SKIP
        >>> ranked = ranker.rank(member, candidates, top=2)               # doctest: +SKIP
        >>> ranked.order, ranked.probability                              # doctest: +SKIP

    Args:
        target: ``host:port``, or any gRPC target. Calls to ``dns:///ranker.svc:8500`` are spread
            over all addresses of the name.
        store: Where meta embeddings are looked up; the caller closes it. A look-up may take half of
            the time left. A slower look-up counts as failed, and the candidates are scored without
            embeddings. `Ranker` (but not `AsyncRanker`) sets no limit for a store that does not
            block, such as LMDB, which has a true attribute ``local``.
        manifest: The ranker's manifest, its file, or a folder to read it from: ``EXPORT``,
            ``EXPORT/ranker`` or one version of it. Given a folder of versions, the client can
            follow the server through a roll-out.
        model_name: The model's name on the server.
        version: The model version to ask for, always the same one.
        version_label: Ask for the version that the server gives this label, for example
            ``"stable"``. Without `version` and label, the client asks for the server's newest.
        timeout: Seconds for a whole call, retries included.
        retries: Further attempts, with back-off, after ``UNAVAILABLE`` and ``RESOURCE_EXHAUSTED``
            only; 0 to 4.
        on_version_mismatch: What to do without embeddings of the answering version:
            ``"unadapted"`` scores without embeddings, ``"raise"`` raises `VersionMismatchError`.
        signature: ``"rank"`` sends the member's columns once; ``"serving_default"`` repeats them
            for every candidate, which a server with ``--enable_batching`` requires.
        refresh_seconds: Seconds after which the client asks again which version the label, or the
            newest version, is.
        tls: TLS settings; ``None`` for an unencrypted connection.
        options: Further gRPC channel options.

    Raises:
        LimamlError: An argument is out of range, or a file cannot be read.
        VersionMismatchError: There is no manifest.
    """

    _grpc = grpc

    def rank(
        self,
        member: Mapping[str, Any],
        candidates: Candidates,
        *,
        top: int | None = None,
        timeout: float | None = None,
    ) -> Ranked:
        """Scores and orders one member's candidates.

        Args:
            member: The member's features and key columns by name, one value each. A key column that
                is ``None`` means an unknown member: no look-up, un-adapted scores.
            candidates: Columns by name, N values each (arrays or lists), or a pandas DataFrame; or
                one mapping per candidate. A key column may vary by candidate; the embeddings are
                then looked up for each key. Names unknown to the model are ignored.
            top: Number of candidates to return; None for all.
            timeout: Seconds for this call; None for the client's `timeout`.

        Returns:
            The candidates, best first.

        Raises:
            RequestError: Member or candidates do not fit the schema, `top` is not a whole number of
                at least 1, or `timeout` is not a finite number. Nothing was sent.
            ServingError: The server did not answer with scores; its ``code`` says why.
            VersionMismatchError: As configured by `on_version_mismatch`; and always when another
                version than the one asked for answers.
        """
        return self._drive(self._protocol.rank([(member, candidates)], top, timeout))[0]

    def rank_many(
        self, requests: Sequence[Request], *, top: int | None = None, timeout: float | None = None
    ) -> list[Ranked]:
        """Like `rank` for several ``(member, candidates)`` pairs, with one look-up and one call.

        All are scored by one version, or the whole call fails; a `RequestError` names the faulty
        pair by position.
        """
        return self._drive(self._protocol.rank(requests, top, timeout))

    def wait_for_server(self, timeout: float) -> None:
        """Returns once the server can be reached.

        `rank` does not need it: its retries cover a short absence of the server.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            RequestError: `timeout` is not a finite number.
            ServingError: Code UNAVAILABLE: the server was not reached in `timeout` seconds. Code
                CANCELLED: the client is closed.
        """
        if self._closed:
            raise self._closed_error()
        seconds = seconds_of(timeout)
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(seconds)
        except grpc.FutureTimeoutError as error:
            raise self._no_server_error(seconds) from error
        finally:
            ready.cancel()  # a thread of gRPC would go on asking the channel, even a closed one

    def close(self) -> None:
        """Closes the channel: running and later calls raise a `ServingError` of code CANCELLED."""
        self._closed = True
        self._store_reader.close()
        self._channel.close()

    def _drive(self, steps: Steps) -> list[Ranked]:
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._perform(step)
                except (grpc.RpcError, StoreError, TimeoutError, ServingError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: list[Ranked] = done.value
            return result

    def _perform(self, step: Resolve | LookUp | Predict) -> Any:
        try:
            if isinstance(step, LookUp):
                return self._store_reader.look_up(step)
            call = self._predict if isinstance(step, Predict) else self._metadata
            return call(step.request, timeout=step.timeout)
        except (ValueError, RuntimeError, CancelledError) as error:  # of a closed channel or pool
            if not self._closed:
                raise
            raise self._closed_error() from error
