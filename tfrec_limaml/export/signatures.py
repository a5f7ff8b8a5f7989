"""Exports functions as SavedModel signatures with any input names."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfrec_limaml.keras_internals import layers_within
from tfrec_limaml.models import LiMAML


class Exported(NamedTuple):
    """A module to save.

    Attributes:
        module: Contains the variables of the signatures.
        signatures: Traced functions by name.
        arguments: Replacements for input names that are not plain argument names.
    """

    module: tf.Module
    signatures: dict[str, Any]
    arguments: dict[str, str]


#: Weights with at most this many numbers become constants of a graph that is no longer trained:
#: TensorFlow then arranges a kernel for the processor once, not in every call.
_LARGEST_CONSTANT = 2**20


def trace_functions(
    model: LiMAML,
    functions: Mapping[str, tuple[Callable[..., Any], Mapping[str, tf.TensorSpec]]],
    constants: bool = False,
) -> Exported:
    """Traces functions as signatures of a module that contains their variables.

    Args:
        model: The model.
        functions: Function and inputs of each signature.
        constants: Whether small weights other than embedding tables become constants.
    """
    module = tf.Module()
    module.encoder = model.encoder
    # The TensorFlow variables inside those of Keras: if they were tracked through their layers, a
    # graph session (TensorFlow Serving) would restore copies that no signature reads.
    scalars = model.rates if model.learn_inner_rates else []
    if model.support_reduction == "shrunk":
        scalars = [*scalars, model.scaled_log_kappa]
    if model.adaptation == "gauss-newton":
        scalars = [*scalars, model.scaled_log_precision]
    module.weights = [variable.value for variable in (*model.network.weights, *scalars)]
    module.tables = _tables(model)
    arguments = _arguments({name for _, specs in functions.values() for name in specs})
    signatures: dict[str, Any] = {}
    for name, (function, specs) in functions.items():
        argument_of = {key: arguments.get(key, key) for key in specs}
        argument_specs = {
            argument_of[key]: tf.TensorSpec(spec.shape, spec.dtype, name=argument_of[key])
            for key, spec in specs.items()
        }
        signature_function = _rename_arguments(function, argument_of)
        if constants:
            signature_function = _with_constants(signature_function, model)
        signatures[name] = tf.function(signature_function, autograph=False).get_concrete_function(
            **argument_specs
        )
    return Exported(module, signatures, arguments)


def _tables(model: LiMAML) -> list[Any]:
    """The look-up tables of the blocks' layers."""
    kind = tf.saved_model.experimental.TrackableResource
    values = [v for layer in layers_within(model.network) for v in vars(layer).values()]
    return [value for value in tf.nest.flatten(values) if isinstance(value, kind)]


def _rename_arguments(
    function: Callable[..., Any], arguments: Mapping[str, str]
) -> Callable[..., Any]:
    return lambda **inputs: function(
        **{key: inputs[argument] for key, argument in arguments.items()}
    )


def _with_constants(function: Callable[..., Any], model: LiMAML) -> Callable[..., Any]:
    """The function with the values of small weights in place of their variables."""
    values = [(v, v.numpy()) for v in model.network.adaptable_variables]
    small = [(v, value) for v, value in values if value.size <= _LARGEST_CONSTANT]

    def function_with_constants(**inputs: Any) -> Any:
        constants = [(v, tf.constant(value)) for v, value in small]
        with keras.StatelessScope(state_mapping=constants):
            return function(**inputs)

    return function_with_constants


def _arguments(inputs: Collection[str]) -> dict[str, str]:
    """Replacements for input names that are not plain argument names.

    `tf.saved_model.save` refuses or changes such names.
    """
    allowed = re.compile(r"[a-zA-Z]\w*", re.ASCII)
    unusual = sorted(
        name for name in inputs if not allowed.fullmatch(name) or keyword.iskeyword(name)
    )
    return {name: f"limaml_input_{i}" for i, name in enumerate(unusual)}


def write_saved_model(exported: Exported, directory: Path) -> None:
    """Writes a SavedModel for inference.

    Its inputs have the names of their columns, in its signatures (TensorFlow Serving) and its
    functions (`tf.saved_model.load`). It has no gradient functions: nothing differentiates it, and
    loading would warn of each custom gradient inside another one.
    """
    no_gradients = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(
        exported.module, str(directory), signatures=exported.signatures, options=no_gradients
    )
    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (graph,) = saved.meta_graphs
    _rename_inputs(graph, {argument: column for column, argument in exported.arguments.items()})
    for nodes in (graph.graph_def.node, *(f.node_def for f in graph.graph_def.library.function)):
        for node in nodes:
            node.attr.pop("_gradient_op_type", None)  # names a gradient that is not there
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _rename_inputs(graph: meta_graph_pb2.MetaGraphDef, columns: Mapping[str, str]) -> None:
    for signature in graph.signature_def.values():
        for argument in columns.keys() & signature.inputs.keys():
            signature.inputs[columns[argument]].CopyFrom(signature.inputs.pop(argument))
    for node in graph.object_graph_def.nodes:
        if node.WhichOneof("kind") == "bare_concrete_function":
            keywords = node.bare_concrete_function.argument_keywords
            keywords[:] = [columns.get(argument, argument) for argument in keywords]
