"""The Redis backend: one hash per generation, one pointer per model version.

Keys, below a prefix (``limaml`` by default)::

    <prefix>:<version>:current               record (JSON) of the generation that readers see
    <prefix>:<version>:generations           hash: identifier -> record of every published
    generation <prefix>:<version>:data:<identifier>     hash: task key -> vector, raw little-endian
    floats <prefix>:<version>:writer:<identifier>   token of a living writer, expires with its lease
    <prefix>:versions                        set of model versions

One HMGET reads one hash, hence one generation; the pointer and the values of the generation that
was current last time are asked for in one round trip. Every data hash expires: an abandoned one
after a day, a published one after ``ttl``.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import common
from tfrec_limaml.store.base import Generation, Mask, Matrix

_WRITING_TTL_SECONDS = 24 * 3600
_FIELDS_PER_COMMAND = 512
_COMMANDS_PER_ROUND_TRIP = 32


class RedisStore:
    """Embedding store in Redis; see the module's text.

    Args:
        url: ``redis://HOST:PORT/DB``.
        prefix: First part of every key.
        dtype: ``"float32"`` or ``"float16"`` for generations written from now on.
        ttl: Seconds after its publication that a generation lives: the backstop for a job that
            stopped for good.
        lease: Seconds without a `put` after which a writer counts as dead.
        timeout: Seconds to wait for the server.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "limaml",
        dtype: str = "float32",
        ttl: float = 30 * 86_400.0,
        lease: float = 900.0,
        timeout: float = 5.0,
    ) -> None:
        for name, value in (("ttl", ttl), ("lease", lease), ("timeout", timeout)):
            if not value > 0:
                raise StoreError(f"{name} must be a positive number of seconds, received {value}")
        self.prefix = prefix
        self.dtype = common.check_dtype(dtype)
        self.ttl_ms = round(ttl * 1000)
        self.lease_ms = round(lease * 1000)
        self._url = url
        # One quick second try: a connection that went stale is replaced; a server that is gone is
        # reported soon.
        retry = Retry(ExponentialBackoff(cap=0.1, base=0.02), 1)
        try:
            self.client = redis.Redis.from_url(
                url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry
            )
        except (ValueError, redis.RedisError) as error:
            raise StoreError(f"cannot read the store address {url!r}: {error}") from error
        self._last: dict[int, common.Record] = {}

    @classmethod
    def from_options(cls, url: str, options: Mapping[str, str]) -> RedisStore:
        """From the text options of a store address."""
        arguments: dict[str, Any] = dict(options)
        for name in ("ttl", "lease", "timeout"):
            if name in arguments:
                try:
                    arguments[name] = float(arguments[name])
                except ValueError as error:
                    raise StoreError(
                        f"store option {name} must be a number of seconds, received "
                        f"{arguments[name]!r}"
                    ) from error
        return cls(url, **arguments)

    def get_many(self, keys: Sequence[str], model_version: int) -> tuple[Matrix, Mask]:
        """See `EmbeddingStore.get_many`; one round trip while the current generation stays the
        same.
        """
        fields = common.encode_keys(keys)
        with self.errors():
            for _ in range(3):
                guess = self._last.get(model_version)
                pipeline = self.client.pipeline(transaction=False)
                pipeline.get(self.key(model_version, "current"))
                if guess is not None and fields:
                    pipeline.hmget(self.data_key(model_version, guess.identifier), fields)
                pointer, *answers = pipeline.execute()
                if pointer is None:
                    return common.nothing_found(len(keys))
                record = common.Record.from_bytes(pointer)
                if record == guess:
                    return common.decode_values(answers[0] if fields else [], record)
                self._last[model_version] = record
        raise StoreError(
            f"the current generation of model version {model_version} changed three times during "
            "one read; try again"
        )

    def new_generation(
        self, model_version: int, embedding_dim: int, identifier: str | None = None
    ) -> RedisWriter:
        """See `EmbeddingStore.new_generation`; refused while a living writer holds the same
        identifier.
        """
        if model_version < 1 or embedding_dim < 1:
            raise StoreError(
                f"model_version and embedding_dim must be positive, received {model_version} and "
                f"{embedding_dim}"
            )
        with self.errors():
            self._remove_dead(model_version)
            name = common.choose_identifier(
                identifier, [r.identifier for r in self._records(model_version)]
            )
            return RedisWriter(self, model_version, embedding_dim, name)

    def current(self, model_version: int) -> Generation | None:
        """See `EmbeddingStore.current`."""
        with self.errors():
            record = self._current(model_version)
        return None if record is None else record.generation(current=True)

    def generations(self, model_version: int | None = None) -> list[Generation]:
        """See `EmbeddingStore.generations`; unpublished ones of living writers are not listed."""
        with self.errors():
            known = (
                self.client.smembers(f"{self.prefix}:versions")
                if model_version is None
                else [model_version]
            )
            listed = []
            for version in sorted(int(v) for v in known):
                current = self._current(version)
                listed += [
                    r.generation(current is not None and r.identifier == current.identifier)
                    for r in self._records(version)
                ]
            return listed

    def rollback(self, model_version: int, identifier: str | None = None) -> Generation:
        """See `EmbeddingStore.rollback`."""
        with self.errors():
            current = self._current(model_version)
            name = None if current is None else current.identifier
            target = common.rollback_target(
                self._records(model_version), name, identifier, model_version
            )
            if not self.client.exists(self.data_key(model_version, target.identifier)):
                raise StoreError(
                    f"generation {target.identifier!r} of model version {model_version} has "
                    "expired (ttl); run the embedding job"
                )
            self.client.set(self.key(model_version, "current"), target.to_bytes())
            return target.generation(current=True)

    def prune(self, model_version: int, keep: int = 2, grace_seconds: float = 3600.0) -> list[str]:
        """See `EmbeddingStore.prune`; what dead writers left behind goes too."""
        with self.errors(), self.client.pipeline() as pipeline:
            self._remove_dead(model_version)
            pointer = self.key(model_version, "current")
            pipeline.watch(pointer)
            current = self._current(model_version)
            name = None if current is None else current.identifier
            doomed = common.prunable(
                self._records(model_version), name, keep, time.time() - grace_seconds
            )
            pipeline.multi()
            for record in doomed:
                pipeline.hdel(self.key(model_version, "generations"), record.identifier)
                pipeline.unlink(self.data_key(model_version, record.identifier))
            try:
                pipeline.execute()
            except redis.WatchError as error:
                raise StoreError(
                    f"model version {model_version} was published or rolled back meanwhile; prune "
                    "again"
                ) from error
            return [record.identifier for record in doomed]

    def close(self) -> None:
        """See `EmbeddingStore.close`."""
        self.client.close()

    def key(self, model_version: int, name: str) -> str:
        """A key of one model version."""
        return f"{self.prefix}:{model_version}:{name}"

    def data_key(self, model_version: int, identifier: str) -> str:
        """The hash that holds one generation."""
        return self.key(model_version, f"data:{identifier}")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns the client's errors into `StoreError` with the server's address (without a
        password).
        """
        try:
            yield
        except redis.RedisError as error:
            place = self._url.rpartition("@")[2]
            raise StoreError(
                f"the Redis store at {place} refused or did not answer: {type(error).__name__}: "
                f"{error}"
            ) from error

    def _current(self, model_version: int) -> common.Record | None:
        content = self.client.get(self.key(model_version, "current"))
        return None if content is None else common.Record.from_bytes(content)

    def _records(self, model_version: int) -> list[common.Record]:
        found = [
            common.Record.from_bytes(c)
            for c in self.client.hvals(self.key(model_version, "generations"))
        ]
        return sorted(found, key=lambda record: record.identifier)

    def _remove_dead(self, model_version: int) -> None:
        """Drops data that is neither published nor held by a writer's lease."""
        published = {record.identifier for record in self._records(model_version)}
        stem = self.data_key(model_version, "")
        for found in self.client.scan_iter(match=f"{_escape(stem)}*", count=1000):
            identifier = found.decode().removeprefix(stem)
            if identifier in published or self.client.exists(
                self.key(model_version, f"writer:{identifier}")
            ):
                continue
            # Asked again after the lease: it may have ended by publishing.
            if not self.client.hexists(self.key(model_version, "generations"), identifier):
                self.client.unlink(found)


class RedisWriter:
    """Writes one generation into its own hash; see `GenerationWriter`."""

    def __init__(
        self, store: RedisStore, model_version: int, embedding_dim: int, identifier: str
    ) -> None:
        self.identifier = identifier
        self._store = store
        self._model_version = model_version
        self._embedding_dim = embedding_dim
        self._data = store.data_key(model_version, identifier)
        self._lease = store.key(model_version, f"writer:{identifier}")
        self._token = secrets.token_hex(16).encode()
        self._open = True
        if not store.client.set(self._lease, self._token, nx=True, px=store.lease_ms):
            self._open = False
            raise StoreError(
                f"generation {identifier!r} is held by another process that is still writing; "
                "wait for it, or stop it"
            )
        store.client.unlink(self._data)

    def put(self, keys: Sequence[str], embeddings: Matrix) -> None:
        """See `GenerationWriter.put`."""
        stored = common.encode_embeddings(keys, embeddings, self._embedding_dim, self._store.dtype)
        fields = common.encode_keys(keys)
        content = stored.tobytes()
        width = self._embedding_dim * stored.itemsize
        step = _FIELDS_PER_COMMAND * _COMMANDS_PER_ROUND_TRIP
        with self._store.errors():
            for start in range(0, len(fields), step):
                self._renew()
                pipeline = self._store.client.pipeline(transaction=False)
                for i in range(start, min(start + step, len(fields)), _FIELDS_PER_COMMAND):
                    part = fields[i : i + _FIELDS_PER_COMMAND]
                    pipeline.hset(
                        self._data,
                        mapping={
                            key: content[j * width : (j + 1) * width]
                            for j, key in enumerate(part, i)
                        },
                    )
                pipeline.expire(self._data, _WRITING_TTL_SECONDS)
                pipeline.execute()

    def publish(self, expected_count: int | None = None) -> Generation:
        """See `GenerationWriter.publish`; the record, the pointer and the TTL change in one
        transaction.
        """
        store = self._store
        with store.errors(), store.client.pipeline() as pipeline:
            self._renew()
            count = int(store.client.hlen(self._data))
            common.check_count(self.identifier, count, expected_count)
            record = common.Record(
                model_version=self._model_version,
                identifier=self.identifier,
                count=count,
                embedding_dim=self._embedding_dim,
                dtype=store.dtype,
                published=time.time(),
            )
            pipeline.sadd(f"{store.prefix}:versions", self._model_version)
            pipeline.hset(
                store.key(self._model_version, "generations"), self.identifier, record.to_bytes()
            )
            pipeline.pexpire(self._data, store.ttl_ms)
            pipeline.set(store.key(self._model_version, "current"), record.to_bytes())
            pipeline.delete(self._lease)
            pipeline.execute()
        self._open = False
        return record.generation(current=True)

    def abort(self) -> None:
        """See `GenerationWriter.abort`.

        An unreachable server drops the data itself, by its expiry.
        """
        if self._open:
            self._open = False
            with contextlib.suppress(redis.RedisError):
                if self._store.client.get(self._lease) == self._token:
                    self._store.client.unlink(self._data)
                    self._store.client.delete(self._lease)

    def _renew(self) -> None:
        if not self._open:
            raise StoreError(
                f"generation {self.identifier!r} is already published or aborted; open a new one"
            )
        if self._store.client.get(self._lease) != self._token:
            self._open = False
            raise StoreError(
                f"the lease on generation {self.identifier!r} ran out between two writes; start "
                "again, with a longer lease if need be"
            )
        self._store.client.pexpire(self._lease, self._store.lease_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


def _escape(text: str) -> str:
    """Takes the meaning from the characters that Redis patterns give one."""
    return "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in text)
