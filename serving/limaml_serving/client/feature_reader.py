"""Checks the values of one feature, fills missing ones, and writes the bytes of a request."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from limaml_serving.client import wire
from limaml_serving.errors import RequestError, quote
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.schema.task_keys import key_text

#: A checked column: its number of rows (1 or N), and their bytes as in the request. Numbers are
#: little-endian, row after row; texts are the fields ``string_val`` of a `TensorProto`. Either way,
#: concatenating the bytes concatenates the columns.
Column = tuple[int, bytes]
# The encoding of numbers: their type in arrays, the types of a single number that need no
# conversion, and the encoding of a single number.
_NUMBERS: dict[str, tuple[np.dtype[Any], frozenset[type], Callable[[Any], bytes]]] = {
    "int64": (np.dtype("<i8"), frozenset({int, bool, np.int64}), struct.Struct("<q").pack),
    "float32": (
        np.dtype("<f4"),
        frozenset({float, int, np.float32, np.float64}),
        struct.Struct("<f").pack,
    ),
}


class FeatureReader:
    """Reads one feature's values; common values take the fast path of each method.

    The names of features with filled values are added to `filled`.
    """

    def __init__(self, feature: Feature) -> None:
        self.name = feature.name
        self.feature = feature
        self._tail = () if feature.width == 1 else (feature.width,)
        if feature.dtype == "string":
            self._dtype = None
            self._default = _texts([str(feature.default_value)])
            return
        self._dtype, types, self._pack = _NUMBERS[feature.dtype]
        self._types = frozenset() if self._tail else types
        self._default = np.full(feature.width, feature.default_value, self._dtype).tobytes()

    def example(self) -> Any:
        """An invented value of the feature's type."""
        if self._dtype is None:
            return "text"
        value = 1 if self.feature.dtype == "int64" else 1.0
        return [value] * self.feature.width if self._tail else value

    def of_candidates(self, values: Any, count: int, filled: list[str]) -> Column:
        """The column of N values; floats need not be finite yet."""
        if self._dtype is None:
            return count, _strings(self.feature, values, filled)
        shape = (count, *self._tail)
        if type(values) is np.ndarray and values.dtype == self._dtype and values.shape == shape:
            return count, values.tobytes()
        return count, _numbers(self.feature, values, shape, filled)

    def of_member(self, value: Any, filled: list[str]) -> Column:
        """The column of one value, which need not be finite yet."""
        if self._dtype is None:
            return 1, _strings(self.feature, (value,), filled)
        if type(value) in self._types:
            try:
                return 1, self._pack(value)
            except (struct.error, OverflowError):
                # too large for its type: an integer is refused below, a float becomes infinite
                pass
        return 1, _numbers(self.feature, (value,), (1, *self._tail), filled)

    def with_default(self, column: Column, filled: list[str]) -> Column:
        """A column of floats whose missing and infinite values are replaced by the default."""
        rows, content = column
        values = np.frombuffer(content, "<f4")
        invalid = ~np.isfinite(values)
        if not invalid.any():
            return column
        values = np.where(
            invalid, np.float32(_default(self.feature, "a missing, NaN or infinite value")), values
        )
        filled.append(self.name)
        return rows, values.tobytes()

    def absent(self, filled: list[str]) -> Column:
        """A column of one row with the default value, for a feature that is not given."""
        if self.feature.on_invalid != "fill":
            raise RequestError(
                f"feature {self.name!r} is missing: give it for the member or for the candidates"
            )
        filled.append(self.name)
        return 1, self._default


def all_finite(floats: Sequence[bytes]) -> bool:
    """Whether all values are finite; False as well if the square of one overflows."""
    values = np.frombuffer(b"".join(floats), "<f4")
    return math.isfinite(np.vdot(values, values))


def _numbers(feature: Feature, values: Any, shape: tuple[int, ...], filled: list[str]) -> bytes:
    if feature.dtype == "float32":
        return _of_shape(feature, _floats(feature, values), shape).tobytes()
    array, invalid = _integers(feature, values)
    array = _of_shape(feature, array, shape)
    if invalid.any():
        array[invalid] = _default(feature, "a missing, NaN or infinite value")
        filled.append(feature.name)
    return array.tobytes()


def _of_shape(
    feature: Feature, array: npt.NDArray[Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    if array.shape != shape:
        raise RequestError(
            f"feature {feature.name!r} needs the shape {list(shape)}, received {list(array.shape)}"
        )
    return array


def _strings(feature: Feature, values: Any, filled: list[str]) -> bytes:
    items = values.tolist() if hasattr(values, "tolist") else values
    try:
        return _texts(items)
    except (TypeError, UnicodeDecodeError):
        pass  # some are not text: check each
    except UnicodeEncodeError as error:
        raise RequestError(
            f"feature {feature.name!r} holds text that is not valid Unicode: {error}"
        ) from error
    if feature.separator is not None:
        items = [_joined(item, feature.separator) for item in items]
    unreadable = [
        item
        for item in items
        if not isinstance(item, str | bytes | int | float | np.generic) and not is_missing(item)
    ]
    if unreadable:
        raise RequestError(
            f"feature {feature.name!r} needs text (string), received {quote(unreadable[0])}"
        )
    texts = [_text(item) for item in items]
    if None in texts:
        default = str(_default(feature, "a missing value"))
        texts = [default if text is None else text for text in texts]
        filled.append(feature.name)
    contents = [text.encode() if isinstance(text, str) else text for text in texts]
    content: bytes = wire.TensorProto(string_val=contents).SerializeToString()
    return content


def _joined(item: Any, separator: str) -> Any:
    """A list as text, as `limaml prepare` joins it; other values as they are.

    Missing and empty values are left out. A list with a value that contains the separator is
    missing: it would be split into other values.
    """
    simple = str | bytes | int | float | np.generic
    if not isinstance(item, list | tuple | np.ndarray):
        return item
    if not all(isinstance(value, simple) or is_missing(value) for value in item):
        return item
    texts = [text.decode() if isinstance(text, bytes) else text for text in map(_text, item)]
    nonempty = [text for text in texts if text]
    return None if any(separator in text for text in nonempty) else separator.join(nonempty)


def _text(item: Any) -> str | bytes | None:
    """The text that `limaml prepare` makes of a value; None if it is missing."""
    if isinstance(item, str | bytes):
        return item
    return None if is_missing(item) else key_text(item)


def _texts(items: Sequence[str]) -> bytes:
    content: bytes = wire.Texts(string_val=items).SerializeToString()
    return content


def _floats(feature: Feature, values: Any) -> npt.NDArray[Any]:
    array = _array(feature, values)
    if array.dtype.kind == "O":
        array = _array(feature, np.where(_missing(array), np.nan, array).tolist())
    if array.dtype.kind not in "fiub":
        raise RequestError(
            f"feature {feature.name!r} needs numbers (float32), received {quote(values)}"
        )
    with np.errstate(over="ignore"):
        return array.astype("<f4")


def _integers(feature: Feature, values: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    array = _array(feature, values)
    invalid = np.zeros(array.shape, np.bool_)
    if array.dtype.kind == "O":
        invalid = _missing(array)
    elif array.dtype.kind == "f":
        invalid = ~np.isfinite(array)
    if invalid.any():
        array = _array(feature, np.where(invalid, 0, array).tolist())
    with np.errstate(invalid="ignore"):
        integers = array.astype("<i8") if array.dtype.kind in "fiub" else None
    if integers is None or np.any(array != integers):
        raise RequestError(
            f"feature {feature.name!r} needs whole numbers (int64), received {quote(values)}"
        )
    return integers, invalid


def is_missing(value: Any) -> bool:
    """Whether a value is None, or what pandas has instead (``NA``, ``NaT``)."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _missing(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.fromiter(map(is_missing, array.flat), np.bool_, array.size).reshape(array.shape)


def _array(feature: Feature, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise RequestError(
            f"feature {feature.name!r} needs values of one length, received {quote(values)}"
        ) from error


def _default(feature: Feature, defect: str) -> float | int | str:
    if feature.on_invalid != "fill":
        raise RequestError(
            f"feature {feature.name!r} has {defect}, and the schema (on_invalid: "
            f"{feature.on_invalid}) gives no default value for it"
        )
    return feature.default_value
