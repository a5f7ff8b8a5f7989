"""The manifest describes an exported model, so that artefacts of different models never mix.

The manifest is written twice, at ``ranker/<version>/assets.extra/manifest.json`` and
``adapter/<version>/assets.extra/manifest.json``; both copies are equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml.errors import LimamlError, VersionMismatchError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.version_folders import version_number

MANIFEST_FILE = "manifest.json"
EXTRA_DIRECTORY = "assets.extra"

# Names in the signatures of the adapter and the ranker.
ADAPTER_INPUT = "task_records"  # string [B], serialized task records
META_EMBEDDING = "meta_embedding"  # float32 [N, D]; of the adapter [B, D]
TASK_KEY = "task_key"
SAMPLE_COUNT = "sample_count"
LAST_TIMESTAMP = "last_timestamp"
LOSS_BEFORE = "loss_before"
LOSS_AFTER = "loss_after"
ADAPTER_OUTPUTS = {
    TASK_KEY: "string [B, 1]",
    META_EMBEDDING: "float32 [B, D]",
    SAMPLE_COUNT: "int64 [B, 1]",
    LAST_TIMESTAMP: "int64 [B, 1], milliseconds",
    LOSS_BEFORE: "float32 [B, 1]",
    LOSS_AFTER: "float32 [B, 1]",
}
# Further outputs of models with nested task definitions: G is the largest number of subtasks of a
# task, over all definitions.
NESTED_DEFINITION = "nested_definition"
NESTED_TASK_KEY = f"nested_{TASK_KEY}"
NESTED_META_EMBEDDING = f"nested_{META_EMBEDDING}"
NESTED_SAMPLE_COUNT = f"nested_{SAMPLE_COUNT}"
NESTED_LAST_TIMESTAMP = f"nested_{LAST_TIMESTAMP}"
NESTED_OUTPUTS = {
    NESTED_DEFINITION: "int64 [B, G], position in `Manifest.nested_definitions`, -1 for padding",
    NESTED_TASK_KEY: "string [B, G]",
    NESTED_META_EMBEDDING: "float32 [B, G, D]",
    NESTED_SAMPLE_COUNT: "int64 [B, G]",
    NESTED_LAST_TIMESTAMP: "int64 [B, G], milliseconds",
}
# The adapter of a model of two definitions has two further signatures for each side, "<name>_0" and
# "<name>_1". The first returns the key of each row's other task, as in the store. The second
# returns `ADAPTER_OUTPUTS`: a task's offset given the offsets of the other tasks. The default
# signature is that of side 0 with unknown other tasks.
OTHER_KEYS_SIGNATURE = "other_keys"  # input: `ADAPTER_INPUT`
OTHER_KEY = "other_key"  # string [R], of all rows of the records, one record after another
GIVEN_SIGNATURE = "given"  # inputs: `ADAPTER_INPUT`, `OTHER_ROW` and `OTHER_OFFSETS`
OTHER_ROW = "other_row"  # int32 [R], row of `OTHER_OFFSETS`
OTHER_OFFSETS = "other_offsets"  # float32 [K, D]
# The adapter's second signature, if tasks have a posterior variance, returns `ADAPTER_OUTPUTS` and
# `VARIANCE`.
VARIANCE_SIGNATURE = "with_variance"
VARIANCE = "variance"  # float32 [B, D]
HAS_META_EMBEDDING = "has_meta_embedding"  # bool [N]
EXAMPLES = "examples"  # string [N], serialized tf.Example
PROBABILITY = "probability"  # float32 [N]
LOGIT = "logit"  # float32 [N]
PREDICTION = "prediction"  # float32 [N], instead of these two if the loss is not a binary one
SERVING_SIGNATURE = (
    "serving_default"  # every raw feature [N] + the `embedding_inputs` [N, D] and [N]
)
RANK_SIGNATURE = (
    "rank"  # the same inputs, each of length N or 1 (length 1 is repeated in the graph)
)
EXAMPLES_SIGNATURE = "serve_examples"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of one exported version.

    Attributes:
        model_version: Positive integer; identifies the ranker, the adapter and its embeddings.
        schema: The schema as a dictionary.
        schema_fingerprint: The schema's `Schema.fingerprint`.
        task_definition: Name of the task definition of the embeddings' keys.
        nested_definitions: Definitions that refine `task_definition` and for which the model has
            embeddings too.
        joint_definitions: The second side's definition, if the model has embeddings for both sides;
            its keys in the store begin with `joint_key_prefix`.
        embedding_dim: Width ``D`` of the meta embedding.
        inner_loop: ``inner_learning_rate``, ``inner_steps``, ``fine_tune_steps`` and ``pooling``;
            for a model of two definitions also ``sweeps``.
        prior_variance: Variance of each number of a task's offset before any interaction is seen,
            ``[D]``; empty if tasks have no posterior variance.
        training_window: ``{"start": ms, "end": ms}`` of the training rows, if known.
        training_label_mean: Mean label of the training rows, towards which rates of history
            features are smoothed; None if unknown.
        training_quality: ``quality`` of the data card of the training run: shares of filled values
            and of unknown keys, rows per day. Empty if unknown.
        binary: Whether the ranker's outputs are `PROBABILITY` and `LOGIT`. Otherwise the output is
            `PREDICTION`: the model was trained with a regression loss, or with a custom loss and
            ``compile(binary=False)``.
        metrics: Evaluation results, if known.
        libraries: Names and versions of the libraries used for the export.
        created: ISO 8601 time of the export.
    """

    model_version: int
    schema: Mapping[str, Any]
    schema_fingerprint: str
    task_definition: str
    embedding_dim: int
    inner_loop: Mapping[str, Any]
    nested_definitions: Sequence[str] = ()
    joint_definitions: Sequence[str] = ()
    prior_variance: Sequence[float] = ()
    training_window: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training_label_mean: float | None = None
    training_quality: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    libraries: Mapping[str, str] = dataclasses.field(default_factory=dict)
    created: str = ""
    binary: bool = True

    @property
    def outputs(self) -> tuple[str, ...]:
        """The ranker's outputs; the last one orders candidates."""
        return (PROBABILITY, LOGIT) if self.binary else (PREDICTION,)

    def __post_init__(self) -> None:
        for name in (
            "nested_definitions",
            "joint_definitions",
            "prior_variance",
        ):  # JSON has lists, not tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def further_definitions(self) -> tuple[str, ...]:
        """All definitions other than `task_definition` for which the model has embeddings."""
        return (*self.nested_definitions, *self.joint_definitions)

    def refuse_two_definitions(self, what: str) -> None:
        """Raises `LimamlError` if the model has two sides; the message ends with `what`."""
        if self.joint_definitions:
            names = [self.task_definition, *self.joint_definitions]
            raise LimamlError(
                f"model version {self.model_version} adapts two definitions, {names}: {what}"
            )

    def write(self, version_directory: str | Path) -> Path:
        """Writes ``assets.extra/manifest.json`` to a SavedModel directory and returns its path."""
        path = _path_in(version_directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, default=float) + "\n",
            encoding="utf-8",
        )
        return path

    @classmethod
    def read(cls, version_directory: str | Path) -> Manifest:
        """Reads the manifest of a SavedModel directory.

        Raises:
            VersionMismatchError: There is no manifest, or one that this version cannot read.
        """
        path = _path_in(version_directory)
        return cls.from_json(_text_of(path), path)

    @classmethod
    def from_json(cls, text: str, where: str | Path) -> Manifest:
        """A manifest from its file's text.

        Raises `VersionMismatchError` naming `where` if this version cannot read it.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError, RecursionError) as error:
            raise VersionMismatchError(f"cannot read the manifest {where}: {error}") from error

    def check_schema(self, schema: Schema) -> None:
        """Raises `VersionMismatchError` unless `schema` is that of the model."""
        if schema.fingerprint() != self.schema_fingerprint:
            raise VersionMismatchError(
                f"schema fingerprint {schema.fingerprint()} of {schema.name!r} differs from "
                f"{self.schema_fingerprint} of model "
                f"version {self.model_version}: prepare the data with the model's schema, or "
                "train and export again"
            )


def embedding_inputs(further_definitions: Sequence[str]) -> list[tuple[str, str]]:
    """Names of the ranker's inputs for stored embeddings.

    One pair for the first definition and for each further one: the input for the embedding, and
    that for whether there is one.
    """
    return [
        (f"{META_EMBEDDING}{suffix}", f"{HAS_META_EMBEDDING}{suffix}")
        for suffix in ("", *(f"_{name}" for name in further_definitions))
    ]


def latest_version(base_directory: str | Path) -> Path:
    """The directory of the highest integer version below a SavedModel base directory.

    Raises:
        VersionMismatchError: There is no version.
    """
    base = Path(base_directory)
    numbers = {p: version_number(p.name) for p in base.iterdir()} if base.is_dir() else {}
    versions = {p: number for p, number in numbers.items() if number is not None and p.is_dir()}
    if not versions:
        raise VersionMismatchError(f"no exported version below {base}; run `limaml export` first")
    return max(versions, key=versions.__getitem__)


def digest_of(text: str) -> str:
    """Digest of a manifest's text, 32 hex digits, which identifies one export.

    A model that is exported again under the same version number has another digest.
    """
    return hashlib.sha256(text.encode()).digest()[:16].hex()


def read_digest(version_directory: str | Path) -> str:
    """The digest of the manifest of a SavedModel directory; raises as `Manifest.read`."""
    return digest_of(_text_of(_path_in(version_directory)))


def _path_in(version_directory: str | Path) -> Path:
    return Path(version_directory) / EXTRA_DIRECTORY / MANIFEST_FILE


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise VersionMismatchError(
            f"no manifest at {path}: was this model exported by `limaml export`?"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VersionMismatchError(f"cannot read the manifest {path}: {error}") from error
