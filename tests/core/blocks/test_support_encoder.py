"""The support encoder against an independent computation, and models that use it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from finite_differences import assert_outer_gradient
from processors import multiplies_bfloat16
from scipy.special import erf
from toys import untuned

from tfrec_limaml import DotProductGlobalBlock, LiMAML, ModelOptions
from tfrec_limaml.blocks import FunctionalGlobalBlock, OffsetMetaBlock, SupportEncoder
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.adaptation import served_outputs

WIDTH, UNITS, D = 3, 5, 4


def _support(tasks=3, rows=6, seed=0):
    random = np.random.default_rng(seed)
    return {
        "rows": random.normal(size=(tasks, rows, WIDTH)),
        "label": (random.random((tasks, rows)) < 0.5).astype(float),
        "weight": random.random((tasks, rows)),
        "age": random.exponential(9.0, (tasks, rows)),
    }


def _encoder(**options):
    keras.utils.set_random_seed(1)
    encoder = SupportEncoder(D, UNITS, label_mean=0.3, dtype="float64", **options)
    encoder.build((None, None, WIDTH))
    for variable in encoder.trainable_variables:
        variable.assign(np.random.default_rng(2).normal(0, 0.5, variable.shape))
    return encoder


def _vector(encoder, support):
    return encoder(*(tf.constant(v) for v in support.values())).numpy()


def test_the_vector_is_a_map_of_the_smoothed_mean_token():
    encoder, support = _encoder(), _support()
    kernel, bias = (v.numpy() for v in encoder.token_layer.variables)
    output, smoothing = (encoder.vector_layer.kernel.numpy(), encoder.scaled_log_smoothing.numpy())
    expected = np.zeros((3, D))
    for task in range(3):
        total = np.zeros(UNITS)
        for row in range(6):
            token = [
                *support["rows"][task, row],
                support["label"][task, row] - 0.3,
                0.3 * np.log(1 + support["age"][task, row]),
            ]
            hidden = np.array(token) @ kernel + bias
            gelu = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
            total += support["weight"][task, row] * gelu
        count = support["weight"][task].sum()
        expected[task] = total / (count + np.exp(10 * smoothing)) @ output
    np.testing.assert_allclose(_vector(encoder, support), expected, rtol=1e-6)


def test_order_padding_and_neighbours_change_nothing_and_an_empty_set_gives_zero():
    encoder, support = _encoder(), _support()
    expected = _vector(encoder, support)
    turned = {name: value[:, ::-1] for name, value in support.items()}
    np.testing.assert_allclose(_vector(encoder, turned), expected, rtol=1e-12)
    pads = {name: [(0, 0), (0, 4)] for name in support} | {"rows": [(0, 0), (0, 4), (0, 0)]}
    wide = {n: np.pad(v, pads[n], constant_values=7.0) for n, v in support.items()}
    wide["weight"][:, 6:] = 0
    np.testing.assert_allclose(_vector(encoder, wide), expected, rtol=1e-12)
    alone = {name: value[1:2] for name, value in support.items()}
    np.testing.assert_allclose(_vector(encoder, alone)[0], expected[1], rtol=1e-12)
    nothing = support | {"weight": np.zeros((3, 6))}
    assert (_vector(encoder, nothing) == 0).all()


def test_more_rows_of_the_same_kind_move_the_vector_towards_the_mean_token():
    encoder, support = _encoder(), _support()
    encoder.scaled_log_smoothing.assign(np.log(5.0) / 10)
    many = {name: np.concatenate([value] * 200, 1) for name, value in support.items()}
    once, often = (np.linalg.norm(_vector(encoder, s), axis=1) for s in (support, many))
    count = support["weight"].sum(1)
    np.testing.assert_allclose(once / often, count / (count + 5) * (1 + 5 / (200 * count)))


def test_the_age_of_a_row_matters_where_tokens_hold_it():
    support = _support()
    older = support | {"age": support["age"] * 10}
    assert np.abs(_vector(_encoder(), support) - _vector(_encoder(), older)).min() > 1e-6
    ageless = _encoder(with_age=False)
    np.testing.assert_array_equal(_vector(ageless, support), _vector(ageless, older))


SHAPES = {"meta": (None, 3), "other": (None, 2), "item": (None,)}


def _samples(tasks, rows, seed, dtype="float64"):
    random = np.random.default_rng(seed)
    meta = np.broadcast_to(random.normal(size=(tasks, 1, 3)), (tasks, rows, 3))
    return {
        "features": {
            "meta": tf.constant(meta, dtype),
            "other": tf.constant(random.normal(size=(tasks, rows, 2)), dtype),
            "item": tf.constant(random.integers(0, 9, (tasks, rows)), tf.int32),
        },
        "label": tf.constant(random.random((tasks, rows)) < 0.5, dtype),
        "weight": tf.constant(random.random((tasks, rows)) < 0.8, dtype),
        "age": tf.constant(random.exponential(9.0, (tasks, rows)), dtype),
    }


def _model(dtype="float64", **options):
    keras.utils.set_random_seed(1)
    encoder = SupportEncoder(D, UNITS, label_mean=0.5, dtype=dtype)
    model = LiMAML(
        OffsetMetaBlock((5,), D, support_encoder=encoder, dtype=dtype),
        DotProductGlobalBlock((6, 5), embeddings={"item": (9, 3)}, dtype=dtype),
        **{
            "inner_steps": 2,
            "unadapted_loss_weight": 1.0,
            "averaging": "sample",
            "dtype": dtype,
            **options,
        },
    )
    model.build(SHAPES)
    model.compile("sgd", run_eagerly=True)
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(2).normal(0, 0.5, variable.shape))
    return model


MODES = {
    "closed form": {"inner_steps": 2},
    "alone": {"inner_steps": 0},
    "gradient steps": {"inner_steps": 2, "adaptation": "gradient", "inner_learning_rate": 0.5},
    "alone, gradient": {"inner_steps": 0, "adaptation": "gradient"},
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_the_outer_gradient_is_that_of_finite_differences(options):
    model, support, query = _model(**options), _samples(4, 6, 1), _samples(4, 3, 2)
    assert_outer_gradient(model, support, query)


def _mean(model, support):
    rows = model.encode_samples(support, False)
    return model.prior_mean(rows, support).numpy()


def test_without_steps_the_offset_is_the_encoders_vector_and_is_served():
    model, support, query = _model(inner_steps=0), _samples(4, 6, 1), _samples(4, 3, 2)
    adapted = model.adapt_tasks(support, 0)
    mean = _mean(model, support)
    assert np.abs(mean).min() > 1e-4
    np.testing.assert_allclose(adapted.weights[0], mean, rtol=1e-12)
    np.testing.assert_allclose(model.task_embeddings(support).embedding, mean, rtol=1e-12)
    outputs = model.outputs_of(adapted, query)
    served = served_outputs(model, support, query)
    np.testing.assert_allclose(served, outputs, rtol=1e-9)
    plain = model.outputs_of(model.adapt_tasks(support, None), query)
    assert np.abs(outputs - plain).max() > 1e-3


def test_under_the_closed_form_it_is_the_mean_of_the_prior():
    """A rigid prior holds the offset at the encoder's vector, a loose one hardly."""
    model, support = _model(), _samples(4, 6, 1)
    mean, distances = _mean(model, support), []
    for strength in (1e-12, 1.0, 1e3):
        model.adaptation_strength = strength
        distances.append(np.abs(model.adapt_tasks(support, 2).weights[0] - mean).max())
    assert distances[0] < 1e-6 < distances[1] < distances[2]


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_without_support_the_task_stays_unadapted_and_the_loss_before_is_the_unadapted_one(options):
    model, support, query = _model(**options), _samples(4, 6, 1), _samples(4, 3, 2)
    steps = options["inner_steps"]
    plain = model.adapted_outputs(model.adapt_tasks(support, None), query["features"])
    empty = support | {"weight": tf.zeros_like(support["weight"])}
    outputs = model.adapted_outputs(model.adapt_tasks(empty, steps), query["features"])
    np.testing.assert_allclose(outputs, plain, rtol=1e-12)
    of_support = model.adapted_outputs(model.adapt_tasks(support, None), support["features"])
    expected = model.task_loss(of_support, support)
    np.testing.assert_allclose(model.adapt_tasks(support, steps).losses[0], expected, rtol=1e-9)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_model_with_an_encoder_trains_and_scores_the_same_after_loading(steps, tmp_path):
    model = _model("float32", inner_steps=steps)
    batch = {"support": _samples(8, 6, 1, "float32"), "query": _samples(8, 3, 2, "float32")}
    dataset = untuned(tf.data.Dataset.from_tensors(batch).repeat(3))
    encoder = model.meta_block.support_encoder
    before = [v.numpy() for v in encoder.trainable_variables]
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.fit(dataset, validation_data=dataset, verbose=0)
    pairs = zip(encoder.trainable_variables, before, strict=True)
    assert min(np.abs(v - b).max() for v, b in pairs) > 1e-4
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected, actual = (m.task_embeddings(batch["support"]).embedding for m in (model, loaded))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@multiplies_bfloat16
def test_in_mixed_precision_the_sum_keeps_its_digits():
    model = _model("mixed_bfloat16")
    support = _samples(2, 600, 3, "float32")
    rows = model.encode_samples(support, False)
    summary = rows.real.spread(model.global_block.summarise(rows.context))
    encoder = model.meta_block.support_encoder
    known = support["label"], support["weight"], support["age"]
    actual = encoder(summary, *known)
    assert (summary.dtype, actual.dtype) == (tf.bfloat16, tf.float32)
    shuffled = np.random.default_rng(0).permutation(600)
    again = encoder(*(tf.gather(v, shuffled, axis=1) for v in (summary, *known)))
    np.testing.assert_allclose(again, actual, rtol=1e-4, atol=1e-6)


def test_the_transformer_reads_its_support_set_without_steps_too(make_model, make_samples):
    model = make_model("transformer")
    support, query = make_samples([3, 1, 0]), make_samples([2, 2, 2], seed=1)
    with_memory = model.adapted_outputs(model.adapt_tasks(support, 0), query["features"])
    plain = model.adapted_outputs(model.adapt_tasks(support, None), query["features"])
    assert np.abs(with_memory - plain)[:2].min() > 1e-6
    np.testing.assert_allclose(with_memory[2], plain[2], rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: SupportEncoder(0), ValueError, "embedding_dim must be at least 1, received 0"),
        (lambda: SupportEncoder(3, 0), ValueError, "units must be at least 1, received 0"),
        (
            lambda: SupportEncoder(3, smoothing=0.0),
            ValueError,
            "smoothing must be positive, received 0.0",
        ),
        (
            lambda: OffsetMetaBlock((5,), 4, support_encoder=SupportEncoder(3)),
            ValueError,
            "support_encoder must have embedding_dim 4, received 3",
        ),
        (
            lambda: _model().adapt_tasks(
                {n: v for n, v in _samples(2, 3, 1).items() if n != "age"}, 1
            ),
            ValueError,
            r"the support set has no 'age' .* make batches with task_dataset",
        ),
        (
            lambda: FunctionalGlobalBlock.summarise(DotProductGlobalBlock(name="head"), []),
            ValueError,
            "head computes nothing from a row without its meta embedding",
        ),
        (
            lambda: ModelOptions(prior="encoder", meta_block="mlp"),
            LimamlError,
            "prior 'encoder' needs the meta_block 'offset', received 'mlp'",
        ),
        (
            lambda: ModelOptions(prior="one"),
            LimamlError,
            r"prior must be one of \['zero', 'encoder'\], received 'one'",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()
