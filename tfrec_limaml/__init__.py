"""Personalise deep recommender models with LiMAML (KDD 2024): Keras 3 models that adapt to each
member.

The names below are loaded on first use, so that ``import tfrec_limaml`` does not import TensorFlow.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise ImportError(
        "tfrec_limaml needs the TensorFlow backend of Keras; unset KERAS_BACKEND (now "
        f"{os.environ['KERAS_BACKEND']!r})"
    )

_HOMES = {
    "LiMAML": "tfrec_limaml.models",
    "EntireNetworkMAML": "tfrec_limaml.models",
    "Vanilla": "tfrec_limaml.models",
    "MLPMetaBlock": "tfrec_limaml.blocks",
    "MLPGlobalBlock": "tfrec_limaml.blocks",
    "MetaBlock": "tfrec_limaml.blocks",
    "GlobalBlock": "tfrec_limaml.blocks",
    "FeatureEncoder": "tfrec_limaml.tasks.feature_encoder",
    "task_dataset": "tfrec_limaml.tasks.input_pipeline",
    "Schema": "tfrec_limaml.schema.schema",
    "Feature": "tfrec_limaml.schema.schema",
    "Manifest": "tfrec_limaml.manifest",
    "LimamlError": "tfrec_limaml.errors",
    "export_for_serving": "tfrec_limaml.export.savedmodels",
    "open_store": "tfrec_limaml.store",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
