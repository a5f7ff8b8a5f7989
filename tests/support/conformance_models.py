"""Small models in TensorFlow Serving's layout; as a script, writes them into a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

MODEL = "conformance"
MODELS_CONFIG = """\
model_config_list {{
  config {{
    name: "conformance"
    base_path: "{base}"
    model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
}}
"""
#: One member with an embedding, one without; their logits are 10 + 100 + bias and bias.
ROWS = {
    "country": [b"CH", b"XX"],
    "meta_embedding": [[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]],
    "has_meta_embedding": [True, False],
}


def save_model(directory: Path, bias: float) -> Path:
    """Saves a model of ``logit = sum(meta_embedding) + bias``, and of some other signatures.

    Without an embedding the logit is ``bias``. Returns the folder.
    """
    import tensorflow as tf

    rows = tf.TensorSpec([None], tf.float32)

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = tf.Variable(bias)
            self.country = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(["CH", "NZ"], [100.0, 200.0]), 0.0
            )

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "country"),
                tf.TensorSpec([None, 4], tf.float32, "meta_embedding"),
                tf.TensorSpec([None], tf.bool, "has_meta_embedding"),
            ],
            autograph=False,
        )
        def score(self, country, meta_embedding, has_meta_embedding):
            personal = tf.where(has_meta_embedding, tf.reduce_sum(meta_embedding, axis=1), 0.0)
            logit = personal + self.bias + self.country.lookup(country)
            return {"logit": logit, "probability": tf.sigmoid(logit), "country": country}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "count")], autograph=False)
        def spin(self, count):
            """Counts up one by one, to run for as long as a test needs."""
            return {
                "sum": tf.while_loop(
                    lambda i: i < count[0], lambda i: [i + 1], [tf.constant(0, tf.int64)]
                )[0]
            }

        @tf.function(
            input_signature=[tf.TensorSpec([None], dtype, dtype.name) for dtype in all_kinds()],
            autograph=False,
        )
        def kinds(self, *tensors):
            """Returns inputs of every dtype as they are."""
            return {tensor.dtype.name: tf.identity(tensor) for tensor in tensors}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "anything")], autograph=False)
        def total(self, anything):
            return {"total": tf.reduce_sum(anything) + self.bias}

        @tf.function(input_signature=[rows, rows], autograph=False)
        def add(self, a, b):
            return {"sum": a + b}

    model = Model()
    signatures = {
        "serving_default": model.score,
        "spin": model.spin,
        "kinds": model.kinds,
        "total": model.total,
        "add": model.add,
    }
    tf.saved_model.save(
        model,
        str(directory),
        signatures={name: each.get_concrete_function() for name, each in signatures.items()},
    )
    return directory


def all_kinds() -> list[Any]:
    import tensorflow as tf

    return [
        *(tf.float32, tf.float64, tf.half, tf.bfloat16, tf.bool, tf.string, tf.complex64),
        *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
    ]


def write_conformance_models(directory: Path) -> Path:
    """Versions 1 and 2 (bias 1 and 2) and their ``models.config``; returns the config's path."""
    for version in (1, 2):
        save_model(directory / MODEL / str(version), float(version))
    config = directory / "models.config"
    config.write_text(MODELS_CONFIG.format(base=directory.absolute() / MODEL), encoding="utf-8")
    return config


if __name__ == "__main__":
    sys.stdout.write(f"{write_conformance_models(Path(sys.argv[1]))}\n")
