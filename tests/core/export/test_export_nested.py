"""Export of a model that adapts to two task definitions at once."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock
from tfrec_limaml.blocks import NestedMetaBlocks
from tfrec_limaml.commands import evaluate
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.export.savedmodels import export_for_serving
from tfrec_limaml.manifest import NESTED_OUTPUTS, Manifest, embedding_inputs
from tfrec_limaml.schema.task_keys import encode_task_key
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.record_format import encode_task

DIM = 3


@pytest.fixture(scope="module")
def model(every_kind):
    keras.utils.set_random_seed(7)
    encoder = FeatureEncoder(*every_kind, nested=("member_tab",))
    meta = encoder.embeddings("meta")
    block = NestedMetaBlocks(
        {
            name: MLPMetaBlock((4,), DIM, "tanh", embeddings=meta)
            for name in ("member", "member_tab")
        }
    )
    built = LiMAML(
        block,
        MLPGlobalBlock((5,), embeddings=encoder.embeddings()),
        encoder=encoder,
        inner_learning_rate=0.5,
        fine_tune_steps=2,
    )
    draw = np.random.default_rng(1)
    built.set_weights(
        [
            w + 0.3 * draw.normal(size=w.shape) if w.dtype == np.float32 else w
            for w in built.get_weights()
        ]
    )
    return built


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_for_serving(model, folder)
    return folder


@pytest.fixture(scope="module")
def tasks(make_rows):
    return [
        (key, make_rows(n, seed=i, start=10_000 * i), -1)
        for i, (key, n) in enumerate({"a": 7, "bä|1%": 1, "c": 20}.items())
    ]


@pytest.fixture(scope="module")
def adapt(exported):
    return tf.saved_model.load(str(exported / "adapter" / "1")).signatures["serving_default"]


@pytest.fixture(scope="module")
def ranker(exported):
    return tf.saved_model.load(str(exported / "ranker" / "1")).signatures


@pytest.fixture(scope="module")
def outputs(model, adapt, tasks):
    records = [
        encode_task(model.encoder.schema, encode_task_key([key]), *rest) for key, *rest in tasks
    ]
    return {name: value.numpy() for name, value in adapt(task_records=tf.constant(records)).items()}


def test_rank_repeats_the_columns_that_make_up_a_nested_task_key(
    model, ranker, make_rows, as_columns
):
    columns = {n: tf.constant(v) for n, v in as_columns(make_rows(5, seed=3)).items()}
    inputs = {f.name: columns[f.name] for f in model.encoder.schema.all_features}
    for at, (stored, has) in enumerate(embedding_inputs(model.meta_block.nested_definitions)):
        inputs[stored] = tf.constant(np.random.default_rng(at).normal(size=(1, DIM)), tf.float32)
        inputs[has] = tf.constant([True])
    repeated = {n: tf.repeat(v, 5, 0) if v.shape[0] == 1 else v for n, v in inputs.items()}
    expected = ranker["serving_default"](**repeated)["logit"]
    assert len(set(expected.numpy().tolist())) == 5
    np.testing.assert_allclose(ranker["rank"](**inputs)["logit"], expected, rtol=1e-5)


def test_the_adapter_gives_one_embedding_per_part_of_a_task_under_its_own_key(
    model, support_of, tasks, outputs
):
    for i, (key, rows, _) in enumerate(tasks):
        tabs = list(dict.fromkeys(row["tab"] for row in rows))
        expected = model.task_embeddings(support_of(model, rows))
        np.testing.assert_allclose(outputs["meta_embedding"][i], expected.embedding[0], atol=2e-6)
        parts = outputs["nested_definition"][i] == 0
        assert parts.sum() == len(tabs)
        assert not parts[len(tabs) :].any()
        actual = {name: outputs[name][i, : len(tabs)] for name in NESTED_OUTPUTS}
        assert [k.decode() for k in actual["nested_task_key"]] == [
            encode_task_key([key, tab]) for tab in tabs
        ]
        np.testing.assert_allclose(
            actual["nested_meta_embedding"], expected.nested[0].embedding[: len(tabs)], atol=2e-6
        )
        assert actual["nested_sample_count"].tolist() == [
            sum(row["tab"] == tab for row in rows) for tab in tabs
        ]
        assert actual["nested_last_timestamp"].tolist() == [
            max(r["timestamp"] for r in rows if r["tab"] == tab) for tab in tabs
        ]
    assert outputs["nested_task_key"].shape[1] == max(
        len({r["tab"] for r in rows}) for _, rows, _ in tasks
    )


def test_a_part_s_embedding_does_not_depend_on_the_tasks_beside_it(model, adapt, tasks, outputs):
    for i, (key, *rest) in enumerate(tasks):
        alone = adapt(
            task_records=tf.constant(
                [encode_task(model.encoder.schema, encode_task_key([key]), *rest)]
            )
        )
        parts = int((outputs["nested_definition"][i] == 0).sum())
        np.testing.assert_allclose(
            alone["nested_meta_embedding"][0],
            outputs["nested_meta_embedding"][i, :parts],
            atol=1e-6,
        )


@pytest.mark.parametrize("signature", ["serving_default", "serve_examples"])
def test_the_ranker_joins_both_stored_embeddings_and_falls_back_for_each_alone(
    model, ranker, as_columns, make_rows, signature
):
    columns = {n: tf.constant(v) for n, v in as_columns(make_rows(4, seed=9)).items()}
    draw = np.random.default_rng(2)
    stored = {
        name: draw.normal(size=(4, DIM)).astype(np.float32)
        for name in ("meta_embedding", "meta_embedding_member_tab")
    }
    has = {
        "has_meta_embedding": [True, True, False, False],
        "has_meta_embedding_member_tab": [True, False, True, False],
    }
    inputs = {**columns, **{n: tf.constant(v) for n, v in (stored | has).items()}}
    if signature == "serve_examples":
        inputs = {"examples": tf.constant([_example(columns, stored, has, i) for i in range(4)])}
    actual = ranker[signature](**inputs)["logit"]
    features = model.encoder(columns)
    unadapted = model.meta_block(features).numpy()
    parts = [
        np.where(np.array(mask)[:, None], embedding, unadapted[:, DIM * i : DIM * (i + 1)])
        for i, (mask, embedding) in enumerate(zip(has.values(), stored.values(), strict=True))
    ]
    np.testing.assert_allclose(
        actual, model.global_block(features, np.concatenate(parts, 1)), rtol=1e-5
    )
    np.testing.assert_allclose(
        actual[3], model.network({n: v[3:] for n, v in features.items()})[0], rtol=1e-5
    )


def _example(columns, stored, has, row):
    example = tf.train.Example()
    given = {n: v[row] for n, v in stored.items() if has[f"has_{n}"][row]}
    for name, value in {**{n: v.numpy()[row] for n, v in columns.items()}, **given}.items():
        feature, values = example.features.feature[name], np.atleast_1d(value)
        if values.dtype.kind in "OS":
            feature.bytes_list.value.extend(values)
        elif values.dtype.kind == "i":
            feature.int64_list.value.extend(values.tolist())
        else:
            feature.float_list.value.extend(values.tolist())
    return example.SerializeToString()


def test_the_manifest_names_both_definitions_and_the_width_of_one_embedding(exported):
    manifest = Manifest.read(exported / "ranker" / "1")
    assert (
        manifest.task_definition,
        list(manifest.nested_definitions),
        manifest.embedding_dim,
    ) == ("member", ["member_tab"], DIM)


def test_another_task_definition_than_the_nested_one_refines_is_refused(model, tmp_path):
    with pytest.raises(LimamlError, match="cannot be exported for 'member_tab'"):
        export_for_serving(model, tmp_path, task_definition="member_tab")


def test_definitions_that_do_not_refine_the_records_are_refused_with_the_reason(every_kind):
    schema, statistics = every_kind
    with pytest.raises(SchemaError, match=r"'member' \['member'\] does not refine \['member'\]"):
        FeatureEncoder(schema, statistics, nested=("member",))
    with pytest.raises(SchemaError, match="unknown task definition 'item'"):
        FeatureEncoder(schema, statistics, nested=("item",))
    words = schema.replace(tasks={"member": ("member",), "member_word": ("member", "words")})
    with pytest.raises(SchemaError, match=r"\['words'\] must be single-valued features"):
        FeatureEncoder(words, statistics, nested=("member_word",))


def test_warm_up_requests_hold_the_inputs_of_both_definitions(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    path = exported / "ranker" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert {
            "has_meta_embedding",
            "meta_embedding_member_tab",
            "has_meta_embedding_member_tab",
        } <= set(request.inputs)
        assert tf.make_ndarray(request.inputs["meta_embedding_member_tab"]).shape[1] == DIM


def test_a_nested_model_is_evaluated_on_the_tasks_that_its_definitions_refine(model, every_kind):
    with pytest.raises(LimamlError, match="or pass member, not member_tab"):
        evaluate._definition(model, every_kind[0], "member_tab", "limaml.keras")
    evaluate._definition(model, every_kind[0], None, "limaml.keras")
