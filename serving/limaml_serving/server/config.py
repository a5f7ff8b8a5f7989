"""Settings of the models to serve, also from TensorFlow Serving's ``models.config``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from limaml_serving.errors import ConfigError
from limaml_serving.server_settings import check_settings
from tfrec_limaml.choices import check_choice

#: Longest model name, in characters.
_LONGEST_NAME = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


Kind = Literal["latest", "all", "specific"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VersionPolicy:
    """Which of the version directories found on disk to serve.

    Attributes:
        kind: ``"latest"`` (the `count` highest), ``"all"`` or ``"specific"`` (those of `versions`
            that exist).
        count: For ``"latest"``, at least 1.
        versions: For ``"specific"``, at least one.

    Raises:
        ConfigError: An unknown kind, a `count` below 1, or no version for ``"specific"``.
    """

    kind: Kind = "latest"
    count: int = 1
    versions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choice("kind of a version policy", self.kind, get_args(Kind), ConfigError)
        check_settings({"count": self.count})
        if self.kind == "specific" and not self.versions:
            raise ConfigError("the 'specific' version policy names no version: give versions")

    def choose(self, versions: Iterable[int]) -> set[int]:
        """The versions to serve out of those found on disk."""
        if self.kind == "latest":
            return set(sorted(versions)[-self.count :])
        return set(versions) if self.kind == "all" else set(versions) & set(self.versions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One served model.

    Attributes:
        name: The name in requests. It is never used as a path.
        base_path: Directory that holds one SavedModel per version, named by whole numbers.
        policy: Which versions to serve.
        labels: Names for versions, e.g. ``{"stable": 3, "canary": 4}``.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= _LONGEST_NAME or _CONTROL.search(self.name):
            raise ConfigError(
                f"model name {self.name[:100]!r} is not allowed: use 1 to {_LONGEST_NAME} "
                "characters, none of them a control character"
            )
        if "\0" in str(self.base_path):
            raise ConfigError(
                f"model {self.name!r}: base_path holds a NUL byte: {str(self.base_path)!r}"
            )
        if not self.base_path.is_absolute():
            raise ConfigError(
                f"model {self.name!r}: base_path must be absolute, received {str(self.base_path)!r}"
            )


def as_settings(
    models: Mapping[str, str | Path] | Sequence[ModelSettings],
) -> dict[str, ModelSettings]:
    """Checks models and returns their settings by name.

    Args:
        models: Name to directory, or full settings.

    Raises:
        ConfigError: No model, a duplicate name, or an invalid name.
    """
    if isinstance(models, Mapping):
        models = [
            ModelSettings(name=name, base_path=Path(_local(name, str(path))).absolute())
            for name, path in models.items()
        ]
    names = [model.name for model in models]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ConfigError(
            f"models are listed more than once: {duplicates}; give each a different name"
        )
    return {model.name: model for model in models}


def read_models_config(path: str | Path) -> dict[str, ModelSettings]:
    """Reads a ``models.config`` (text proto of ``ModelServerConfig``).

    Raises:
        ConfigError: No such file, not a valid text proto, or settings that cannot be served.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"no models config at {path}; pass a text proto of tensorflow.serving.ModelServerConfig"
        )
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not a text proto of tensorflow.serving.ModelServerConfig: {error}"
        ) from error
    return from_proto(config)


def from_proto(config: Any) -> dict[str, ModelSettings]:
    """Settings from a ``ModelServerConfig`` message.

    Raises:
        ConfigError: Not a list of models, or settings that cannot be served.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError(
            "only a model_config_list is supported, received " + str(config.WhichOneof("config"))
        )
    return as_settings([_model(model) for model in config.model_config_list.config])


def _model(model: Any) -> ModelSettings:
    # `model_type` is the older field for the same thing; its only meaningful value is 1.
    if model.model_type and model.model_platform:
        raise ConfigError(
            f"model {model.name!r}: give model_platform or model_type (deprecated), not both"
        )
    if model.model_platform != "tensorflow" and model.model_type != 1:
        raise ConfigError(
            f"model {model.name!r}: model_platform must be 'tensorflow', received "
            f"{model.model_platform!r}"
        )
    return ModelSettings(
        name=model.name,
        base_path=Path(_local(model.name, model.base_path)),
        policy=_policy(model.name, model.model_version_policy),
        labels=dict(model.version_labels),
    )


def _local(name: str, base_path: str) -> str:
    """A path without its ``file://``."""
    scheme, separator, path = base_path.partition("://")
    if not separator:
        return base_path
    if scheme != "file" or not path.startswith("/"):
        raise ConfigError(
            f"model {name!r}: base_path {base_path!r} is not on this machine; use an absolute "
            "path, or file:///PATH"
        )
    return path


def _policy(name: str, policy: Any) -> VersionPolicy:
    kind: Any = policy.WhichOneof("policy_choice") or "latest"
    if kind == "specific" and not policy.specific.versions:
        raise ConfigError(f"model {name!r}: the 'specific' version policy names no version")
    return VersionPolicy(
        kind=kind,
        count=max(policy.latest.num_versions, 1),
        versions=tuple(policy.specific.versions),
    )
