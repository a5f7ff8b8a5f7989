"""Imports TensorFlow Recommenders when a block needs it."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

from tfrec_limaml.errors import LimamlError

#: The version whose layers work, and whose weights are tracked, under Keras 3.
SUPPORTED = "0.7.3"


def feature_interaction() -> Any:
    """The module ``tensorflow_recommenders.layers.feature_interaction``.

    Raises:
        LimamlError: The package is missing, or it makes Keras 2 layers. Versions after `SUPPORTED`
            cannot be imported with Keras 3; with ``TF_USE_LEGACY_KERAS=1`` they can, but a Keras 3
            model silently does not train their layers.
    """
    remedy = f"run `pip install tensorflow-recommenders=={SUPPORTED}`"
    try:
        installed = metadata.version("tensorflow-recommenders")
    except metadata.PackageNotFoundError:
        raise LimamlError(
            f"this block needs tensorflow-recommenders, which is not installed; {remedy}"
        ) from None
    if tuple(int(part) for part in installed.split(".")[:3] if part.isdigit()) > (0, 7, 3):
        raise LimamlError(
            f"tensorflow-recommenders {installed} does not work with Keras 3; {remedy}"
        )
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        raise LimamlError(
            "TF_USE_LEGACY_KERAS is set: tensorflow-recommenders would make Keras 2 layers, which "
            "are not trained here; unset it"
        )
    from tensorflow_recommenders.layers import feature_interaction as module

    return module
