"""A small adapter with a closed form, its export, task records, and a remote filesystem."""

import gzip
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem
from toys import toy_schema

from limaml_beam.io.tfrecords import frame_record
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.folder import SCHEMA_FILE
from tfrec_limaml.tasks.record_format import encode_task

DIM = 3


@pytest.fixture(scope="session")
def schema() -> Schema:
    return toy_schema(
        Feature(name="x", role="meta"), Feature(name="note", dtype="string", encoding="vocabulary")
    )


def save_closed_form_adapter(directory: Path) -> None:
    """Embedding = [sum of labels, sum of x, number of samples]; x = NaN makes it not finite."""
    import tensorflow as tf

    class Adapter(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, name="task_records")], autograph=False
        )
        def adapt(self, task_records: tf.Tensor) -> dict[str, tf.Tensor]:
            context, lists, _ = tf.io.parse_sequence_example(
                task_records,
                context_features={
                    "task_key": tf.io.FixedLenFeature([], tf.string),
                    "sample_count": tf.io.FixedLenFeature([], tf.int64),
                },
                sequence_features={name: tf.io.RaggedFeature(tf.float32) for name in ("x", "label")}
                | {"timestamp": tf.io.RaggedFeature(tf.int64)},
            )
            labels, x = (tf.reduce_sum(lists[name], axis=[1, 2]) for name in ("label", "x"))
            count = tf.cast(context["sample_count"], tf.float32)
            return {
                "task_key": context["task_key"][:, None],
                "meta_embedding": tf.stack([labels, x, count], axis=1),
                "sample_count": context["sample_count"][:, None],
                "last_timestamp": tf.reduce_max(lists["timestamp"], axis=[1, 2])[:, None],
                "loss_before": tf.ones_like(count)[:, None],
                "loss_after": tf.fill(tf.shape(count[:, None]), 0.5),
            }

    module = Adapter()
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.adapt})


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> Path:
    folder = tmp_path_factory.mktemp("export")
    save_closed_form_adapter(folder / "adapter" / "7")
    manifest = Manifest(
        model_version=7,
        schema=schema.to_dict(),
        schema_fingerprint=schema.fingerprint(),
        task_definition="user",
        embedding_dim=DIM,
        inner_loop={"fine_tune_steps": 1},
    )
    manifest.write(folder / "adapter" / "7")
    return folder


Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    """``make_rows([1.0, 2.0])``: one interaction per x, a day apart, with label 1 if x > 0."""

    def make(xs: Sequence[float], start: int = 1_650_000_000_000) -> Rows:
        return [
            {"x": x, "note": "n" * n, "label": float(x > 0), "timestamp": start + n * 86_400_000}
            for n, x in enumerate(xs)
        ]

    return make


@pytest.fixture
def write_tasks(tmp_path: Path, schema: Schema) -> Callable[..., Path]:
    """Writes ``TASKS/user/recent-*.tfrecord.gz`` from encoded records, spread over some files."""

    def write(records: Sequence[bytes], name: str = "tasks", files: int = 2) -> Path:
        folder = tmp_path / name
        (folder / "user").mkdir(parents=True)
        schema.save(folder / SCHEMA_FILE)
        for i in range(files):
            with gzip.open(
                folder / "user" / f"recent-{i:05d}-of-{files:05d}.tfrecord.gz", "wb"
            ) as file:
                file.writelines(map(frame_record, records[i::files]))
        return folder

    return write


@pytest.fixture
def encode(schema: Schema, make_rows: Callable[..., Rows]) -> Callable[..., bytes]:
    """``encode("u1", [1.0, -2.0])``: one task record."""

    def one(key: str, xs: Sequence[float], start: int = 1_650_000_000_000) -> bytes:
        return encode_task(schema, key, make_rows(xs, start))

    return one


class ObjectStore(FileSystem):
    """An object store, like S3: names and bytes, no folders, and renames of single objects.

    Attributes:
        objects: The bytes by name.
        changes: Every change in order: its kind, and the name that was changed.
    """

    objects: ClassVar[dict[str, bytes]] = {}
    changes: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def scheme(cls) -> str:
        return "objects"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join((basepath.rstrip("/"), *paths))

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        pass

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        yield from (
            self.metadata(name) for name in list(self.objects) if name.startswith(dir_or_prefix)
        )

    def create(
        self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO
    ) -> io.BytesIO:
        assert path.startswith("objects://")
        store = self

        class Upload(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    store.objects[path] = self.getvalue()
                    store.changes.append(("create", path))
                super().close()

        return Upload()

    def open(
        self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO
    ) -> io.BytesIO:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return io.BytesIO(self.objects[path])

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            self.objects[target] = self.objects[source]

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            self.objects[target] = self.objects.pop(source)
            self.changes.append(("rename", target))

    def exists(self, path: str) -> bool:
        return path in self.objects

    def size(self, path: str) -> int:
        return len(self.objects[path])

    def last_updated(self, path: str) -> float:
        return 0.0

    def checksum(self, path: str) -> str:
        return str(hash(self.objects[path]))

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, self.size(path), 0.0)

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            gone = [
                name
                for name in self.objects
                if name == path or name.startswith(f"{path.rstrip('/')}/")
            ]
            if not gone:
                raise BeamIOError("Delete operation failed", {path: FileNotFoundError(path)})
            for name in gone:
                del self.objects[name]
                self.changes.append(("delete", name))


@pytest.fixture
def object_store() -> Iterator[type[ObjectStore]]:
    """An empty `ObjectStore`, reached as ``objects://...``."""
    yield ObjectStore
    ObjectStore.objects.clear()
    ObjectStore.changes.clear()


@pytest.fixture
def upload(object_store: type[ObjectStore]) -> Callable[..., str]:
    """``upload(folder, "objects://bucket/tasks")``: puts a folder there and returns its address."""

    def put(folder: Path, address: str) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                object_store.objects[f"{address}/{path.relative_to(folder)}"] = path.read_bytes()
        return address

    return put
