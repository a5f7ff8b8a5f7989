"""Personalise deep recommender models with LiMAML (KDD 2024).

The names below are loaded on first use, so that ``import tfrec_limaml`` does not import TensorFlow.
If Keras is imported already, or by one of these names, the classes of this package are registered
with it, so that ``keras.saving.load_model`` finds them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from typing import TYPE_CHECKING, Any

from tfrec_limaml.lazy_names import lazy_getattr

if TYPE_CHECKING:
    from tfrec_limaml.blocks import (
        DotProductGlobalBlock,
        GlobalBlock,
        MetaBlock,
        MLPGlobalBlock,
        MLPMetaBlock,
        OffsetMetaBlock,
    )
    from tfrec_limaml.errors import LimamlError
    from tfrec_limaml.export.savedmodels import export_for_serving
    from tfrec_limaml.manifest import Manifest
    from tfrec_limaml.models import EntireNetworkMAML, LiMAML, Vanilla
    from tfrec_limaml.schema.schema import Feature, History, Label, Schema, Split
    from tfrec_limaml.store import open_store
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
    from tfrec_limaml.tasks.input_pipeline import task_dataset
    from tfrec_limaml.training.model_options import ModelOptions
    from tfrec_limaml.training.options import TrainOptions
    from tfrec_limaml.training.train import train

if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise ImportError(
        "tfrec_limaml needs the TensorFlow backend of Keras; unset KERAS_BACKEND (now "
        f"{os.environ['KERAS_BACKEND']!r})"
    )

__all__ = [
    "DotProductGlobalBlock",
    "EntireNetworkMAML",
    "Feature",
    "FeatureEncoder",
    "GlobalBlock",
    "History",
    "Label",
    "LiMAML",
    "LimamlError",
    "MLPGlobalBlock",
    "MLPMetaBlock",
    "Manifest",
    "MetaBlock",
    "ModelOptions",
    "OffsetMetaBlock",
    "Schema",
    "Split",
    "TrainOptions",
    "Vanilla",
    "export_for_serving",
    "open_store",
    "task_dataset",
    "train",
]

#: The module of each name.
_MODULES = {
    "DotProductGlobalBlock": "blocks",
    "EntireNetworkMAML": "models",
    "Feature": "schema.schema",
    "FeatureEncoder": "tasks.feature_encoder",
    "GlobalBlock": "blocks",
    "History": "schema.schema",
    "Label": "schema.schema",
    "LiMAML": "models",
    "LimamlError": "errors",
    "MLPGlobalBlock": "blocks",
    "MLPMetaBlock": "blocks",
    "Manifest": "manifest",
    "MetaBlock": "blocks",
    "ModelOptions": "training.model_options",
    "OffsetMetaBlock": "blocks",
    "Schema": "schema.schema",
    "Split": "schema.schema",
    "TrainOptions": "training.options",
    "Vanilla": "models",
    "export_for_serving": "export.savedmodels",
    "open_store": "store",
    "task_dataset": "tasks.input_pipeline",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("tfrec_limaml")
    value = lazy_getattr(__name__, _MODULES)(name)
    _register()
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _register() -> None:
    """Registers the Keras classes of this package if Keras is imported."""
    if "keras" in sys.modules:
        importlib.import_module("tfrec_limaml.models")


_register()
