"""Access to private APIs of libraries.

One module per library and package uses them: `tfrec_limaml.keras_internals`,
`tfrec_limaml.tensorflow_internals`, `limaml_beam.io.beam_internals`,
`limaml_beam.io.tfx_bsl_internals` and `limaml_serving.server.tensorflow_internals`.
"""

from __future__ import annotations

from typing import Any

from tfrec_limaml.errors import LimamlError


def internal(library: Any, owner: Any, name: str) -> Any:
    """An attribute of a library's module or object.

    Args:
        library: The library's top module, for its version.
        owner: The module or object with the attribute.
        name: The attribute.

    Raises:
        LimamlError: The attribute does not exist: the installed version is not a tested one.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        holder = getattr(owner, "__name__", type(owner).__name__)
        raise LimamlError(
            f"{library.__name__} {library.__version__} has no {holder}.{name}; install a version "
            "that this package was tested with, see constraints.txt"
        ) from error
