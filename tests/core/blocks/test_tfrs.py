"""What we rely on in the pinned version of TensorFlow Recommenders."""

from __future__ import annotations

from importlib import metadata

import keras
import numpy as np
import pytest

from tfrec_limaml.blocks import tfrs
from tfrec_limaml.blocks.tfrs import SUPPORTED, feature_interaction
from tfrec_limaml.errors import LimamlError


def test_the_pinned_version_is_installed_and_its_layers_are_keras_3_layers():
    assert metadata.version("tensorflow-recommenders") == SUPPORTED
    module = feature_interaction()
    assert isinstance(module.Cross(), keras.layers.Layer)
    assert isinstance(module.DotInteraction(), keras.layers.Layer)


@pytest.mark.parametrize(
    ("rank", "names"), [(None, ["kernel", "bias"]), (2, ["kernel", "kernel", "bias"])]
)
def test_the_weights_of_a_cross_are_made_by_a_symbolic_call_and_tracked_in_this_order(rank, names):
    cross = feature_interaction().Cross(rank)
    cross(keras.KerasTensor((None, 5)), keras.KerasTensor((None, 5)))
    assert [v.name for v in cross.trainable_variables] == names
    again = type(cross).from_config(cross.get_config())
    assert again.get_config()["projection_dim"] == rank


def test_dots_without_the_gather_are_the_lower_triangle_in_row_order():
    vectors = list(np.random.default_rng(0).normal(size=(3, 2, 4)).astype("float32"))
    layer = feature_interaction().DotInteraction
    with_zeros, gathered = layer(skip_gather=True)(vectors), layer()(vectors)
    np.testing.assert_allclose(with_zeros.numpy()[:, [3, 6, 7]], gathered, rtol=1e-6)
    np.testing.assert_allclose(gathered[:, 1], np.sum(vectors[2] * vectors[0], -1), rtol=1e-5)


@pytest.mark.parametrize("version", ["0.7.6", "0.7.7", "0.8.0", "1.0"])
def test_a_version_for_keras_2_is_refused_with_the_remedy(version, monkeypatch):
    monkeypatch.setattr(tfrs.metadata, "version", lambda name: version)
    with pytest.raises(
        LimamlError,
        match=rf"tensorflow-recommenders {version} does not work with Keras 3; run `pip install .*==0.7.3`",  # noqa: E501
    ):
        feature_interaction()


def test_legacy_keras_is_refused(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.raises(LimamlError, match="TF_USE_LEGACY_KERAS is set"):
        feature_interaction()


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(tfrs.metadata, "version", missing)
    with pytest.raises(LimamlError, match="needs tensorflow-recommenders, which is not installed"):
        feature_interaction()
