"""All private APIs of Keras that this package uses.

``setup.py`` allows the tested minor version of Keras; ``tests/core/test_keras_internals.py`` names
missing APIs of a new one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.models import functional

from tfrec_limaml.internals import internal

#: The class of functional models. ``keras.Model`` has subclasses with another `call`.
Functional = internal(keras, functional, "Functional")


def takes_training(operation: Any) -> bool:
    """Whether a call of a layer, or another operation of Keras, takes ``training``."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    return bool(internal(keras, operation, "_call_has_training_arg"))


def training_argument(operation: Any, training: bool) -> dict[str, bool]:
    """``training`` as a keyword argument, if the operation takes it."""
    return {"training": training} if takes_training(operation) else {}


def is_seed(variable: keras.Variable) -> bool:
    """Whether a variable is the state of a seed generator."""
    return str(variable.path).endswith("seed_generator_state")


def layers_within(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer and all layers in it, at any depth."""
    return list(internal(keras, layer, "_flatten_layers")())


def operations_within(layer: keras.layers.Layer) -> list[Any]:
    """The layer, all layers in it and all other operations of its functional models."""
    layers = layers_within(layer)
    operations = {
        id(operation): operation
        for model in layers
        if isinstance(model, Functional)
        for operation in model.operations
        if not isinstance(operation, keras.layers.Layer)
    }
    return [*layers, *operations.values()]


class FitsUnderStrategies(keras.Model):
    """Adapts Keras' loops to models of task batches under a `tf.distribute.Strategy`."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds the optimizer; Keras would run a forward pass over a batch of rows."""
        if self.optimizer is not None and not self.optimizer.built and self.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def _make_function(self, step_function: Callable[[Any], Any]) -> Any:
        """Under a strategy, replaces Keras' function by one that differs in two points.

        Keras sums the results of steps over all workers, with one all-reduce per number. Here a
        step returns the result of its first replica. Keras takes a batch inside the graph of the
        step, which may begin before it is known that there is a batch: the optimizer then counts
        one step too many at the end of an epoch. Here the batch is taken before the graph runs.
        """
        strategy = self.distribute_strategy
        default_function = internal(keras, super(), "_make_function")(step_function)
        multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if strategy.num_replicas_in_sync == 1 and not multi_worker:
            return default_function

        def on_replicas(data: Any) -> Any:
            logs = strategy.run(step_function, args=(data,))
            return tf.nest.map_structure(lambda v: strategy.experimental_local_results(v)[0], logs)

        # Traced once for each kind of batch: otherwise workers would trace at different times.
        traced: dict[str, Callable[..., Any]] = {}
        last_spec: Any = None
        on_batch: Callable[..., Any] = on_replicas

        def function(iterator: Any) -> Any:
            nonlocal last_spec, on_batch
            if not isinstance(iterator, tf.distribute.DistributedIterator):
                return default_function(iterator)
            spec = iterator.element_spec
            if spec is not last_spec:
                if str(spec) not in traced:
                    traced[str(spec)] = _on_flat_batches(on_replicas, spec, self.jit_compile)
                last_spec, on_batch = spec, traced[str(spec)]
            for _ in range(self.steps_per_execution):
                batch = iterator.get_next()
                logs = on_batch(*tf.nest.flatten(batch, expand_composites=True))
            return logs

        return function


def _on_flat_batches(
    function: Callable[[Any], Any], spec: Any, jit_compile: Any
) -> Callable[..., Any]:
    """Traces a function of distributed batches; the graph is called with the tensors of a batch.

    If it were called with the batch itself, TensorFlow would inspect the batch's structure in each
    call, which takes milliseconds.
    """

    def on_tensors(*tensors: tf.Tensor) -> Any:
        return function(tf.nest.pack_sequence_as(spec, tensors, expand_composites=True))

    specs = tf.nest.flatten(spec, expand_composites=True)
    graph = tf.function(on_tensors, specs, autograph=False, jit_compile=jit_compile)
    return graph.get_concrete_function()


def take_gradients_as_summed(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer apply gradients unchanged.

    Keras would sum them over all replicas after each replica has clipped its share.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    internal(keras, inner, "_all_reduce_sum_gradients")
    inner._all_reduce_sum_gradients = list


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """The metric ``loss`` of a compiled model."""
    return internal(keras, model, "_loss_tracker")


def build_compiled(model: keras.Model, label: tf.Tensor, prediction: tf.Tensor) -> None:
    """Builds the losses and metrics of a compiled model, as Keras does on its first batch."""
    for part in (internal(keras, model, name) for name in ("_compile_loss", "_compile_metrics")):
        if part is not None and not part.built:
            part.build(label, prediction)


def run_graph(
    model: Functional,  # type: ignore[valid-type]
    inputs: Sequence[Any],
    operation_fn: Callable[[Any], Callable[..., Any]],
) -> Any:
    """Runs a functional model with ``operation_fn(operation)`` in place of each operation."""
    run = internal(keras, model, "_run_through_graph")
    return run(inputs, operation_fn=operation_fn)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation in a functional model.

    Attributes:
        inputs, outputs: Symbolic tensors.
        node: Keras' record of the call.
    """

    inputs: list[Any]
    outputs: list[Any]
    node: Any

    @property
    def operation(self) -> Any:
        """The layer, or other operation of Keras, that is called."""
        return internal(keras, self.node, "operation")

    def run(self, values: Mapping[int, tf.Tensor], training: bool) -> dict[int, tf.Tensor]:
        """Makes the call.

        Args:
            values: Values of symbolic tensors, by their `id`.
            training: Passed on to an operation that takes it.

        Returns:
            Values of the outputs, by their `id`.
        """
        operation = self.operation
        args, kwargs = internal(keras, self.node, "arguments").fill_in(values)
        arguments = {**kwargs, **training_argument(operation, training)}
        results = tf.nest.flatten(operation(*args, **arguments))
        return {id(tensor): v for tensor, v in zip(self.outputs, results, strict=True)}


def calls_of(model: Functional) -> list[Call]:  # type: ignore[valid-type]
    """The calls of a functional model, in an order in which they can run."""
    by_depth = internal(keras, model, "_nodes_by_depth")
    return [
        Call(internal(keras, node, "input_tensors"), internal(keras, node, "outputs"), node)
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not internal(keras, node, "is_input")
    ]


def input_ranks(layer: keras.layers.Layer) -> dict[int, int]:
    """The smallest rank of the inputs of each operation, by `id`.

    Operations of functional and sequential models within the layer are known, and no others.
    """
    ranks: dict[int, int] = {}
    for model in layers_within(layer):
        if isinstance(model, keras.Sequential):
            model = internal(keras, model, "_functional")
        for call in calls_of(model) if isinstance(model, Functional) else []:
            received = [len(tensor.shape) for tensor in call.inputs]
            ranks[id(call.operation)] = min([*received, ranks.get(id(call.operation), 99)])
    return ranks


#: Names of functions and operations that are the sigmoid, in Keras and TensorFlow.
_SIGMOIDS = {"sigmoid", "Sigmoid"}
#: Operations that change the form of their input, but none of its values.
_SAME_VALUES = {
    *("Cast", "Flatten", "Identity", "Ravel", "Reshape", "Squeeze", "ExpandDims", "GetItem"),
    *("Dropout", "InputLayer"),
}


def ends_in_sigmoid(model: Functional) -> bool:  # type: ignore[valid-type]
    """Whether a functional model's output is the result of a sigmoid.

    Nested models are looked into, and operations behind the sigmoid that change no value are looked
    through.
    """
    return _is_sigmoid(model.outputs[0], calls_of(model))  # type: ignore[attr-defined]


def _is_sigmoid(output: Any, calls: Sequence[Call]) -> bool:
    made_by = [call for call in calls if any(output is tensor for tensor in call.outputs)]
    if not made_by:  # an input of the model
        return False
    (call,) = made_by
    operation = call.operation
    name, activation = type(operation).__name__, getattr(operation, "activation", None)
    if name in _SIGMOIDS or getattr(activation, "__name__", None) in _SIGMOIDS:
        return True
    if isinstance(operation, keras.Sequential):
        operation = internal(keras, operation, "_functional")
    if isinstance(operation, Functional) and len(operation.outputs) == 1:
        return ends_in_sigmoid(operation)
    passes_on = name in _SAME_VALUES or (name == "Activation" and _is_linear(activation))
    return passes_on and len(call.inputs) == 1 and _is_sigmoid(call.inputs[0], calls)


def _is_linear(activation: Any) -> bool:
    return getattr(activation, "__name__", None) == "linear"
