"""Steps whose intermediate results are computed again in the backward pass instead of being kept:
gradient checkpointing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfrec_limaml.adaptation.inner_weights import FORMS


def recomputed(step: Callable[[Any], Any], state: Any) -> Any:
    """``step(state)``; of what it computes an outer tape keeps the result alone, and computes the
    rest again when it needs it.

    Args:
        step: A function of all that it reads and an outer tape differentiates, variables excepted.
        state: Nest of tensors, numbers and forms of `tfrec_limaml.adaptation.inner_weights`.
    """
    given: dict[int, tf.Tensor] = {}
    _map_tensors(lambda tensor: given.setdefault(id(tensor), tensor), state)
    traced: list[Any] = []

    def flat(*copies: tf.Tensor) -> list[tf.Tensor]:
        inside = dict(zip(given, copies, strict=True))
        result = step(_map_tensors(lambda tensor: inside[id(tensor)], state))
        # What is handed on as it came stays the tensor outside: forms know their rows by identity.
        outside = {id(c): t for c, t in zip(copies, given.values(), strict=True)}
        made: dict[int, tf.Tensor] = {}

        def note(tensor: tf.Tensor) -> tf.Tensor:
            return tensor if id(tensor) in outside else made.setdefault(id(tensor), tensor)

        _map_tensors(note, result)
        if not traced:  # the forward pass comes first
            traced.extend((result, copies, outside, made))
        return list(made.values())

    outputs = _kept_alone(flat)(*given.values())
    result, _, outside, made = traced
    outside |= dict(zip(made, outputs, strict=True))
    return _map_tensors(lambda tensor: outside[id(tensor)], result)


def _kept_alone(function: Callable[..., list[tf.Tensor]]) -> Callable[..., list[tf.Tensor]]:
    """`function` without its intermediate results. (`tf.recompute_grad` stops all tapes meanwhile,
    also those within the function.)
    """

    @tf.custom_gradient
    def called(*inputs: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., Any]]:
        def backward(*upstream: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> Any:
            with tf.GradientTape() as tape:
                with tf.control_dependencies(upstream):  # not before it is needed
                    again = [tf.identity(value) for value in inputs]
                tape.watch(again)
                results = function(*again)
            gradients = tape.gradient(results, [*again, *variables], output_gradients=upstream)
            of_inputs, of_variables = gradients[: len(inputs)], gradients[len(inputs) :]
            return (of_inputs, of_variables) if variables else of_inputs

        return function(*inputs), backward

    return called


def _map_tensors(function: Callable[[tf.Tensor], tf.Tensor], nest: Any) -> Any:
    """The nest with `function` of each tensor of floating-point numbers, also of those within forms
    of weights, zero placeholders excepted.
    """

    def leaf(value: Any) -> Any:
        if isinstance(value, FORMS):
            mapped = copy.copy(value)
            kept = {"zero_placeholder": value.zero_placeholder}
            mapped.__dict__.update(
                {n: _map_tensors(function, v) for n, v in vars(value).items() if n not in kept}
            )
            return mapped
        return function(value) if tf.is_tensor(value) and value.dtype.is_floating else value

    return tf.nest.map_structure(leaf, nest)
