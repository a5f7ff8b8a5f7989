"""A model that adapts two definitions, of which neither refines the other, in closed form."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from finite_differences import assert_outer_gradient
from joint_fixtures import joint_model

from tfrec_limaml.blocks import (
    BilinearGlobalBlock,
    DotProductGlobalBlock,
    JointMetaBlocks,
    MLPMetaBlock,
    OffsetMetaBlock,
)
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import OTHER_ROW, SIDE
from tfrec_limaml.models import JointLiMAML
from tfrec_limaml.tasks.sides import Sides
from tfrec_limaml.training.offset_table import OffsetTable

pytestmark = pytest.mark.slow

USERS, VIDEOS = 5, 4


class Ratings:
    """Every user rates some of the videos; batches of either side, all rows support."""

    def __init__(self, seed=0):
        draw = np.random.default_rng(seed)
        self.weight = (draw.random((USERS, VIDEOS)) < 0.8).astype(float)
        self.label = draw.normal(size=(USERS, VIDEOS))
        self.features = draw.normal(size=(USERS, 2)), draw.normal(size=(VIDEOS, 2))

    def batch(self, side):
        tasks, rows = (USERS, VIDEOS) if side == 0 else (VIDEOS, USERS)
        by_side = [
            np.broadcast_to(self.features[0][:, None], (USERS, VIDEOS, 2)),
            np.broadcast_to(self.features[1][None], (USERS, VIDEOS, 2)),
        ]
        turned = lambda v: np.swapaxes(v, 0, 1) if side else v  # noqa: E731
        # Table rows: users from 1 on, then videos.
        other = np.arange(rows) + (1 + USERS if side == 0 else 1)
        keys = [f"u{n}" if side == 0 else str(n) for n in range(tasks)]
        return {
            "task_key": tf.constant(keys),
            "support": {
                "features": {
                    "meta": tf.constant(turned(by_side[0])),
                    "other": tf.constant(turned(by_side[1])),
                    SIDE: tf.fill([tasks, rows], side),
                    OTHER_ROW: tf.constant(np.broadcast_to(other, (tasks, rows)), tf.int32),
                },
                "label": tf.constant(turned(self.label)),
                "weight": tf.constant(turned(self.weight)),
            },
        }


def squared_model(**options):
    """The label is the logit: every solve is a ridge regression, exact after one step."""
    model = joint_model(dtype="float64", inner_steps=1, fine_tune_steps=1, **options)
    model.compile("sgd", loss="mse")
    return model


def make_table(model, ratings):
    keys = [np.array([f"u{n}".encode() for n in range(USERS)], object)]
    keys.append(np.array([str(n).encode() for n in range(VIDEOS)], object))
    datasets = [tf.data.Dataset.from_tensors(ratings.batch(side)) for side in (0, 1)]
    OffsetTable(model, Sides(("user", "video"), keys)).make(datasets)
    return np.split(model.table.numpy()[1:], [USERS])


def parts(model, ratings):
    """What NumPy needs of the model: un-adapted embeddings and contexts ``[U, V, ...]``."""
    features = {n: ratings.batch(0)["support"]["features"][n] for n in ("meta", "other")}
    flat = {n: tf.reshape(v, [-1, 2]) for n, v in features.items()}
    shape = (USERS, VIDEOS, -1)
    plain = model.meta_block(flat).numpy().reshape(shape)
    logit, projection, _ = (
        v.numpy().reshape(shape) for v in model.global_block.encode_context(flat)
    )
    return plain, logit[..., 0], projection


def ridge(design, target, weight, precision):
    """Half the squared error's minimum, as the losses of the package are half of it or not: see
    the factor.
    """
    curvature = 2.0  # of a squared error
    matrix = curvature * (design * weight[:, None]).T @ design + np.diag(precision)
    return np.linalg.solve(matrix, curvature * (design * weight[:, None]).T @ target)


def alternating_ridge(model, ratings, sweeps):
    """Offsets of both sides in NumPy, from the formula of the bilinear logit."""
    plain, logit, projection = parts(model, ratings)
    width = model.global_block.width
    scale = model.global_block.scale.numpy()
    precision = np.split(model.precision().numpy() / model.adaptation_strength, 2)
    users, videos = np.zeros((USERS, width + 1)), np.zeros((VIDEOS, width + 1))
    of_users, of_videos = projection[..., :width], projection[..., width : 2 * width]

    def halves():
        first = plain[..., : width + 1] + users[:, None]
        second = plain[..., width + 1 :] + videos[None]
        return first, second

    def base(first, second):
        u, a, v, b = first[..., :-1], first[..., -1], second[..., :-1], second[..., -1]
        products = of_users * u + of_videos * v + scale * u * v
        return logit + products.sum(-1) + a + b

    for _ in range(sweeps):
        for number in (1, 0):
            (users, videos)[number][:] = 0
            first, second = halves()
            left = ratings.label - base(first, second)
            if number == 1:
                gain = of_videos + scale * first[..., :-1]
            else:
                gain = of_users + scale * second[..., :-1]
            design = np.concatenate([gain, np.ones((USERS, VIDEOS, 1))], -1)
            solved = users if number == 0 else videos
            for n in range(len(solved)):
                rows = (n, slice(None)) if number == 0 else (slice(None), n)
                solved[n] = ridge(design[rows], left[rows], ratings.weight[rows], precision[number])
    return users, videos


@pytest.mark.parametrize(("sweeps", "strength"), [(1, 1.0), (2, 1.0), (3, 1.0), (2, 0.25)])
def test_the_table_of_a_bilinear_world_is_that_of_alternating_ridge_regression(sweeps, strength):
    model, ratings = squared_model(sweeps=sweeps), Ratings()
    model.adaptation_strength = strength
    users, videos = make_table(model, ratings)
    expected = alternating_ridge(model, ratings, sweeps)
    np.testing.assert_allclose(users, expected[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(videos, expected[1], rtol=1e-8, atol=1e-10)
    assert np.abs(users).min() > 1e-6


def test_sweeps_of_an_additive_world_arrive_at_the_two_way_ridge_regression():
    model, ratings = squared_model(sweeps=60), Ratings()
    for variable in (model.global_block.scale, model.global_block.projection_layer.kernel):
        variable.assign(tf.zeros_like(variable))
    users, videos = make_table(model, ratings)
    plain, logit, _ = parts(model, ratings)
    width = model.global_block.width
    fixed = logit + plain[..., width] + plain[..., -1]
    rows = np.argwhere(ratings.weight > 0)
    design = np.zeros((len(rows), USERS + VIDEOS))
    design[np.arange(len(rows)), rows[:, 0]] = 1
    design[np.arange(len(rows)), USERS + rows[:, 1]] = 1
    precision = model.precision().numpy()
    both = ridge(
        design,
        (ratings.label - fixed)[tuple(rows.T)],
        np.ones(len(rows)),
        np.repeat([precision[width], precision[-1]], [USERS, VIDEOS]),
    )
    np.testing.assert_allclose(np.concatenate([users[:, -1], videos[:, -1]]), both, rtol=1e-6)
    np.testing.assert_allclose(users[:, :-1], 0, atol=1e-12)


def test_a_batch_s_own_offsets_are_solved_given_the_other_side_s_and_scores_use_both():
    model, ratings = squared_model(), Ratings()
    _, videos = make_table(model, ratings)
    support = ratings.batch(0)["support"]
    adapted = model.adapt_tasks(support, 1)
    own = model.task_embeddings(support).embedding.numpy()
    plain, logit, projection = parts(model, ratings)
    width, scale = model.global_block.width, model.global_block.scale.numpy()
    first = plain[..., : width + 1] + own[:, None]
    second = plain[..., width + 1 :] + videos[None]
    products = (
        projection[..., :width] * first[..., :-1]
        + projection[..., width : 2 * width] * second[..., :-1]
        + scale * first[..., :-1] * second[..., :-1]
    )
    expected = logit + products.sum(-1) + first[..., -1] + second[..., -1]
    np.testing.assert_allclose(model.adapted_outputs(adapted, support["features"]), expected)
    # The table's last sweep ended with the users, given the same videos.
    np.testing.assert_allclose(own, model.table.numpy()[1 : 1 + USERS], rtol=1e-9)


def test_un_adapted_means_neither_side():
    model, ratings = squared_model(), Ratings()
    make_table(model, ratings)
    support = ratings.batch(1)["support"]
    outputs = model.adapted_outputs(model.adapt_tasks(support, None), support["features"])
    flat = {n: tf.reshape(support["features"][n], [-1, 2]) for n in ("meta", "other")}
    expected = tf.reshape(model.network(flat), [VIDEOS, USERS])
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)


@pytest.mark.parametrize("side", [0, 1])
def test_the_outer_gradient_is_that_of_finite_differences_on_either_side(side):
    model, ratings = joint_model(dtype="float64"), Ratings()
    model.compile("sgd")
    ratings.label = (ratings.label > 0).astype(float)
    support = ratings.batch(side)["support"]
    ratings.label = 1 - ratings.label
    query = ratings.batch(side)["support"]
    table = np.random.default_rng(3).normal(size=(1 + USERS + VIDEOS, 4))
    model.table.assign(table)
    derivatives = assert_outer_gradient(model, support, query)
    # Both definitions' blocks learn from either side.
    assert all(abs(value) > 1e-6 for value in derivatives)


def test_a_saved_model_makes_the_same_table(tmp_path):
    model = joint_model(sweeps=3)
    model.compile("sgd")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.sweeps, loaded.meta_block.joint_definitions) == (3, ("video",))
    support = tf.nest.map_structure(
        lambda v: tf.cast(v, tf.float32) if v.dtype == tf.float64 else v,
        Ratings().batch(0)["support"],
    )
    for each in (model, loaded):
        each.clear_table(1 + USERS + VIDEOS)
        each.fill_table(tf.range(1, 1 + USERS), support)
    np.testing.assert_allclose(loaded.table, model.table, rtol=1e-5, atol=1e-6)
    assert np.abs(model.table.numpy()[1 : 1 + USERS]).min() > 1e-6


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (
            lambda: JointLiMAML(OffsetMetaBlock(), DotProductGlobalBlock()),
            ValueError,
            "must be JointMetaBlocks, received OffsetMetaBlock",
        ),
        (lambda: joint_model(adaptation="gradient"), LimamlError, "received 'gradient'"),
        (lambda: joint_model(sweeps=0), LimamlError, "sweeps must be at least 1, received 0"),
        (
            lambda: JointMetaBlocks({"a": OffsetMetaBlock()}),
            ValueError,
            "two meta blocks with the same embedding_dim",
        ),
        (
            lambda: JointMetaBlocks({"a": OffsetMetaBlock(), "b": OffsetMetaBlock((4,), 7)}),
            ValueError,
            "received embedding_dim {'a': 33, 'b': 7}",
        ),
        (
            lambda: JointMetaBlocks({"a": OffsetMetaBlock(), "b": MLPMetaBlock((4,), 33)}),
            ValueError,
            "must be OffsetMetaBlocks without support_encoder, received {'b': 'MLPMetaBlock'}",
        ),
        (
            lambda: BilinearGlobalBlock().build({"meta": (None, 2), "other": (None, 2)}, (None, 5)),
            ValueError,
            "even width of at least 4, received 5",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()
