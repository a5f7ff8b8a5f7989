"""Loads both exported models where this project's packages and Keras cannot be imported.

Takes the folders of the ranker and of the adapter, and a JSON file of inputs by name, each a dtype
and values, with the task records in base64 as ``records``. Prints, as one line of JSON, what both
models answer, loaded once as TensorFlow 2 does (``logit``, ``embeddings``) and once in a graph
session (``graph``).
"""

import importlib.abc
import json
import sys
from pathlib import Path

import tensorflow as tf

REFUSED = ("tfrec_limaml", "limaml_serving", "limaml_beam", "keras", "tf_keras")


class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in REFUSED:
            raise ImportError(name)


for name in [n for n in sys.modules if n.split(".")[0] == "keras"]:
    del sys.modules[name]  # TensorFlow imports it
sys.meta_path.insert(0, Refuse())

ranker, adapter, asked = sys.argv[1:]
inputs = {n: tf.constant(v, d) for n, (d, v) in json.loads(Path(asked).read_text()).items()}
records = tf.io.decode_base64(inputs.pop("records"))
embed = tf.saved_model.load(adapter).signatures["serving_default"]
score = tf.saved_model.load(ranker).signatures["serving_default"]
answer = {
    "embeddings": embed(task_records=records)["meta_embedding"].numpy().tolist(),
    "logit": score(**inputs)["logit"].numpy().tolist(),
    "graph": [],
}
for path, feed, output in (
    (ranker, inputs, "logit"),
    (adapter, {"task_records": records}, "meta_embedding"),
):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def
        signature = signatures["serving_default"]
        fed = {signature.inputs[n].name: v.numpy() for n, v in feed.items()}
        answer["graph"].append(session.run(signature.outputs[output].name, fed).tolist())
assert "tfrec_limaml" not in sys.modules
assert "keras" not in sys.modules
print(json.dumps(answer))
