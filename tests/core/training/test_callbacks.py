"""What TensorBoard finds in its folder."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import Vanilla
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.callbacks import (
    EmbeddingProjector,
    task_embeddings,
    tensorboard,
    write_projector,
)
from tfrec_limaml.training.optimizer import warmup_cosine


def test_training_leaves_scalars_the_graph_and_embeddings_with_their_labels(
    make_model, test_tasks, tmp_path
):
    pytest.importorskip("tensorboard")  # Keras writes scalars through it
    model = make_model()
    labels = {f"m{i}".encode(): "even" if i % 2 == 0 else "odd" for i in range(60)}
    board = tensorboard(tmp_path)
    model.fit(
        test_tasks,
        epochs=1,
        verbose=0,
        callbacks=[board, EmbeddingProjector(test_tasks, tmp_path, labels)],
    )
    assert list(tmp_path.glob("train/events.out.tfevents.*"))
    vectors = np.loadtxt(tmp_path / "meta_embeddings.tsv", delimiter="\t")
    metadata = (tmp_path / "meta_embeddings_metadata.tsv").read_text().splitlines()
    assert vectors.shape == (55, 3)  # five members have no history to make an embedding of
    assert metadata[0] == "task\tlabel"
    assert metadata[1:] == [f"m{i}\t{'even' if i % 2 == 0 else 'odd'}" for i in range(5, 60)]
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "meta_embeddings.tsv"' in config
    assert 'metadata_path: "meta_embeddings_metadata.tsv"' in config
    (batch,) = test_tasks.take(1)
    expected = model.task_embeddings(batch["support"])[0].numpy()[5:]
    np.testing.assert_allclose(vectors[: len(expected)], expected, atol=1e-4)
    keys, first = task_embeddings(model, test_tasks, max_tasks=7)
    assert keys == [f"m{i}".encode() for i in range(5, 12)]
    np.testing.assert_allclose(first, expected[:7], atol=1e-6)


def test_tensorboard_itself_reads_the_scalars_the_graph_of_both_blocks_and_the_projector(
    make_model, test_tasks, tmp_path
):
    """With TensorBoard's own readers, as its pages use them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    callbacks = [tensorboard(tmp_path), EmbeddingProjector(test_tasks, tmp_path)]
    history = (
        make_model()
        .fit(test_tasks, validation_data=test_tasks, epochs=2, verbose=0, callbacks=callbacks)
        .history
    )

    def read(run, tag):
        events = accumulator.EventAccumulator(str(tmp_path / run)).Reload()
        return [
            (event.step, tf.make_ndarray(event.tensor_proto).item())
            for event in events.Tensors(tag)
        ]

    assert read("train", "epoch_loss") == [
        (n, pytest.approx(value)) for n, value in enumerate(history["loss"])
    ]
    assert read("validation", "epoch_auc") == [
        (n, pytest.approx(value)) for n, value in enumerate(history["val_auc"])
    ]
    graph = accumulator.EventAccumulator(str(tmp_path / "train")).Reload().Graph()
    scopes = {part for node in graph.node for part in node.name.split("/")}
    assert {"meta_block", "global_block"} <= scopes
    config = text_format.Parse(
        (tmp_path / "projector_config.pbtxt").read_text(), projector_config_pb2.ProjectorConfig()
    )
    (embedding,) = config.embeddings
    assert (
        len((tmp_path / embedding.metadata_path).read_text().splitlines())
        == len(np.loadtxt(tmp_path / embedding.tensor_path))
        == 55
    )


def test_labels_cannot_break_the_table(tmp_path):
    write_projector(tmp_path, [b"a\tb", b""], np.zeros((2, 2)), {b"a\tb": "two\nlines"})
    assert (
        tmp_path / "meta_embeddings_metadata.tsv"
    ).read_text() == "task\tlabel\na b\ttwo lines\n-\t-\n"


def test_what_has_no_keys_or_no_meta_embedding_is_refused(make_model, test_tasks, tmp_path):
    without = test_tasks.map(lambda batch: {"support": batch["support"], "query": batch["query"]})
    with pytest.raises(LimamlError, match="with_keys=True"):
        EmbeddingProjector(without, tmp_path)
    with pytest.raises(LimamlError, match="max_tasks must be at least 1, received 0"):
        EmbeddingProjector(test_tasks, tmp_path, max_tasks=0)
    projector = EmbeddingProjector(test_tasks, tmp_path)
    projector.set_model(make_model(Vanilla))
    with pytest.raises(LimamlError, match="received Vanilla"):
        projector.on_train_end()


def test_the_rate_warms_up_linearly_and_decays_along_a_cosine():
    schedule = warmup_cosine(0.1, steps=110, warmup_steps=10)
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(10)], [0, 0.05, 0.1], atol=1e-7)
    np.testing.assert_allclose(
        [schedule(60), schedule(110), schedule(500)], [0.05, 0, 0], atol=1e-7
    )
    np.testing.assert_allclose(
        [warmup_cosine(0.1, 100)(0), warmup_cosine(0.1, 100)(50)], [0.1, 0.05], atol=1e-7
    )
    with pytest.raises(LimamlError, match="less than steps"):
        warmup_cosine(0.1, steps=5, warmup_steps=5)
