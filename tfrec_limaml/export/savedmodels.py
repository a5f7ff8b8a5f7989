"""Export: one version number, two SavedModels, one manifest.

``ranker/<version>/`` scores rows in TensorFlow Serving; ``adapter/<version>/`` computes meta
embeddings from task records in the embedding job. Both include all preprocessing and load without
any Python class of this package.
"""

from __future__ import annotations

import datetime as dt
import numbers
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import numpy as np

from tfrec_limaml import manifest as names
from tfrec_limaml import staging
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.export.adapter import adapter_module
from tfrec_limaml.export.joint_adapter import joint_adapter_module
from tfrec_limaml.export.ranker import ranker_module
from tfrec_limaml.export.signatures import write_saved_model
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.models import JointLiMAML, LiMAML
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.version_folders import version_number

#: Entry points of this group are called as ``hook(ranker_directory, manifest)`` before a version
#: becomes visible.
EXPORT_HOOKS = "limaml.export_hooks"


def export_for_serving(
    model: LiMAML,
    base_directory: str | Path,
    *,
    model_version: int | None = None,
    task_definition: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """Writes ``ranker/<version>/`` and ``adapter/<version>/`` below `base_directory`.

    Both are written to staging folders and renamed when they are complete, the adapter first: a
    server never loads half a model.

    Examples:
        >>> manifest = export_for_serving(model, "export")                # doctest: +SKIP
        >>> manifest.model_version                                        # doctest: +SKIP
        1

    Args:
        model: A trained `LiMAML` model with an encoder.
        base_directory: Folder for ``ranker`` and ``adapter``.
        model_version: Positive integer; one more than the highest exported one by default.
        task_definition: Task definition of the embeddings' keys; by default that of the encoder, or
            the schema's first.
        metrics: Evaluation results to record.

    Returns:
        The manifest, of which both SavedModels have a copy.

    Raises:
        LimamlError: The model has no encoder, is not a LiMAML model, has weights that are not
            finite, or cannot be exported for `task_definition`; the version exists or is not a
            valid number; or a feature is named like an input of the ranker.
    """
    if not isinstance(model, LiMAML):
        raise LimamlError(
            f"only LiMAML models have a meta embedding to export, received {type(model).__name__}"
        )
    if model.encoder is None:
        raise LimamlError(
            "the model has no encoder; build it as LiMAML(..., encoder=FeatureEncoder(schema, "
            "statistics)) to export it"
        )
    weights = [*model.network.weights, *model.trainable_variables]
    if bad := [v.path for v in weights if not np.isfinite(v.numpy()).all()]:
        raise LimamlError(
            f"{len(bad)} weights of the model, such as {bad[0]!r}, are not finite: training has "
            "diverged; train again with a lower learning rate"
        )
    base = Path(base_directory)
    number = _next_version(base) if model_version is None else _checked(model_version)
    final = _new_folders(base, number)
    manifest = _manifest(model, number, task_definition, metrics or {})
    # The adapter is renamed first: every visible ranker has one.
    with (
        staging.folder(final["ranker"], replace=False) as ranker,
        staging.folder(final["adapter"], replace=False) as adapter,
    ):
        joint = isinstance(model, JointLiMAML)
        adapt = joint_adapter_module if joint else adapter_module
        for folder, build in ((adapter, adapt), (ranker, ranker_module)):
            write_saved_model(build(model), folder)
            manifest.write(folder)
        for hook in entry_points(group=EXPORT_HOOKS):
            hook.load()(ranker, manifest)
    return manifest


def _checked(model_version: int) -> int:
    """The version as an int.

    Raises `LimamlError` unless it is a positive int64, which TensorFlow Serving requires.
    """
    is_text = isinstance(model_version, str) and model_version.isdecimal()
    is_number = isinstance(model_version, numbers.Integral) and not isinstance(model_version, bool)
    if not (is_text or is_number) or int(model_version) < 1:
        raise LimamlError(f"model_version must be a positive integer, received {model_version!r}")
    if int(model_version) >= 2**63:
        raise LimamlError(f"model_version must be below 2**63, received {model_version}")
    return int(model_version)


def _new_folders(base: Path, number: int) -> dict[str, Path]:
    """The version's folders, which must not exist."""
    folders = {kind: base / kind / str(number) for kind in ("adapter", "ranker")}
    existing = [str(path) for path in folders.values() if path.exists()]
    if existing:
        raise LimamlError(
            f"version {number} exists at {existing[0]}; choose another version, or remove it first"
        )
    return folders


def _exported_definition(model: LiMAML, definition: str | None) -> str:
    """The task definition of the embeddings' keys."""
    schema: Schema = model.encoder.schema
    trained_definition = model.encoder.task or schema.default_task
    definition = definition or trained_definition
    schema.task_columns(definition)
    further = model.meta_block.further_definitions
    if further and definition != trained_definition:
        raise LimamlError(
            f"this model was trained on the task definition {trained_definition!r} together with "
            f"{list(further)}: it cannot be exported for {definition!r}"
        )
    return definition


def _manifest(
    model: LiMAML, model_version: int, task_definition: str | None, metrics: Mapping[str, Any]
) -> Manifest:
    schema: Schema = model.encoder.schema
    block = model.meta_block
    reserved_names = {
        name for pair in names.embedding_inputs(block.further_definitions) for name in pair
    } & {f.name for f in schema.all_features}
    if reserved_names:
        raise LimamlError(
            f"the features {sorted(reserved_names)} are named like the ranker's inputs for "
            "embeddings; rename them in the schema"
        )
    return Manifest(
        model_version=model_version,
        schema=schema.to_dict(),
        schema_fingerprint=schema.fingerprint(),
        task_definition=_exported_definition(model, task_definition),
        nested_definitions=block.nested_definitions,
        joint_definitions=block.joint_definitions,
        embedding_dim=model.meta_block.stored_dim,
        inner_loop={
            "inner_learning_rate": model.inner_learning_rate,
            "inner_steps": model.inner_steps,
            "fine_tune_steps": model.fine_tune_steps,
            "pooling": model.pooling,
            **({"sweeps": model.sweeps} if isinstance(model, JointLiMAML) else {}),
        },
        prior_variance=model.prior_variance() or (),
        training_window=dict(model.encoder.statistics.window),
        training_label_mean=model.encoder.statistics.label_mean,
        training_quality=dict(model.encoder.statistics.quality),
        binary=model.binary,
        metrics=dict(metrics),
        libraries={name: version(name) for name in ("tensorflow", "keras", "tfrec-limaml")},
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _next_version(base: Path) -> int:
    versions = (
        version_number(p.name) for kind in ("ranker", "adapter") for p in (base / kind).glob("*")
    )
    return max((number for number in versions if number is not None), default=0) + 1
