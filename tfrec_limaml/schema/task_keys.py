"""Task keys: one canonical text for each value.

The same member must have the same key in a CSV file, a Parquet file, a task record and a request,
or the stored embedding is not found. The rules:

- text is unchanged; bytes are UTF-8;
- integers are decimal digits; a whole float is the integer that it equals (``7.0`` is ``"7"``);
- ``True`` and ``False`` are ``"true"`` and ``"false"``;
- a UUID is its 36 characters, and any other value its ``str``;
- missing values are ``None``, NaN, ``NA``, infinity, empty text, and text that UTF-8 cannot encode;
  and floats from 2**53 on, each of which stands for several integers.

`tfrec_limaml.schema.arrow_keys` has the same rules for whole columns.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence
from typing import Any

from tfrec_limaml.errors import LimamlError

#: LMDB's limit on a key; it also applies to Redis, so that a store can be moved between backends.
MAX_KEY_BYTES = 511
#: From here on, neighbouring integers are the same float.
EXACT_FLOATS = 2**53


def key_text(value: Any) -> str | None:
    """Canonical text of one key value; None if the value is missing.

    Raises:
        LimamlError: The value is not a single value, but a list, a mapping or an array.
    """
    if type(value) is str:
        return value if value and (value.isascii() or _encodes(value)) else None
    if type(value) is int:
        return str(value)
    if isinstance(value, bytes | bytearray):
        try:
            return bytes(value).decode() or None
        except UnicodeDecodeError:
            return None
    if value is None:
        return None
    if type(value).__module__ == "numpy":
        return _numpy_text(value)
    return _other_text(value)


def task_key(values: Sequence[Any]) -> str | None:
    """The task key of one row's values in the key columns.

    Returns:
        The values' texts, joined by ``|``, with ``%`` and ``|`` percent-escaped. None if a value is
        missing, or if the key has more than `MAX_KEY_BYTES` bytes.
    """
    parts = []
    for value in values:
        text = key_text(value)
        if text is None:
            return None
        parts.append(escape(text))
    key = "|".join(parts)
    return key if fits(key) else None


def encode_task_key(values: Sequence[Any]) -> str:
    """`task_key`, for values that must have one.

    Raises:
        LimamlError: A value is missing, or the key is too long.
    """
    key = task_key(values)
    if key is None:
        raise LimamlError(
            f"no task key can be built from {list(values)!r}: every key column needs a value, and "
            f"the key may have at most {MAX_KEY_BYTES} bytes"
        )
    return key


def joint_key_prefix(definition: str) -> str:
    """Prefix of the keys of a model's second definition where keys of both are stored together.

    No other task key begins with it: in keys, ``%`` is always escaped.
    """
    return f"%|{escape(definition)}|"


def decode_task_key(key: str) -> tuple[str, ...]:
    """The parts of a task key as strings; inverse of `encode_task_key` for strings."""
    return tuple(part.replace("%7C", "|").replace("%25", "%") for part in key.split("|"))


def escape(text: str) -> str:
    """One part of a key, as between the ``|``."""
    return text.replace("%", "%25").replace("|", "%7C")


def fits(key: str) -> bool:
    """Whether a store can hold the key: 1 to `MAX_KEY_BYTES` bytes of UTF-8."""
    try:
        return 0 < len(key.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _numpy_text(value: Any) -> str | None:
    if getattr(value, "ndim", 0):
        raise LimamlError(f"a task key needs single values, received an array: {value!r}")
    python_value = value.item()
    if type(value).__name__ in ("datetime64", "timedelta64"):
        return None if python_value is None else str(value)
    return key_text(python_value)


def _other_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return key_text(str(value))
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float | decimal.Decimal):
        return _number_text(value)
    if isinstance(value, Sequence | dict | set | frozenset):
        raise LimamlError(f"a task key needs text or numbers, received {value!r}")
    text = str(value)
    return None if text in ("<NA>", "NaT") else text


def _number_text(value: float | decimal.Decimal) -> str | None:
    if not math.isfinite(value):
        return None
    if isinstance(value, float):
        if abs(value) >= EXACT_FLOATS:
            return None
        return str(int(value)) if value.is_integer() else repr(float(value))
    return str(int(value)) if value == int(value) else format(value.normalize(), "f")
