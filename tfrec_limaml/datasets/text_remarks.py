"""Remarks on text columns whose values are not what they seem to be."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.datasets import columns
from tfrec_limaml.datasets.column_shapes import is_text, is_vector
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.wording import shown

#: Words for a missing value in files of other tools; they are read as text by default.
_NULL_WORDS = ("NA", "N/A", "n/a", "#N/A", "NaN", "nan", "<NA>", "None", r"\N", "-", "?")
#: Signs that people write in numbers: currencies, percent, separators of thousands.
_SIGNS = r"[\s$€£¥%,'_]"
#: Number of values that are inspected if a sample is enough.
_SAMPLE = 1000


def missing_words(frame: pd.DataFrame, in_force: Sequence[str]) -> str:
    """A remark on words that probably mean a missing value, or "".

    The option it names has the words `in_force` too, because it replaces them.
    """
    found: dict[str, list[str]] = {}
    for name in frame:
        if is_text(frame[name]) and not is_vector(frame[name]):
            column = arrow_keys.as_text(columns.arrow(frame[name]))
            words = pc.unique(column.filter(pc.is_in(column, pa.array(_NULL_WORDS)))).to_pylist()
            for word in words:
                found.setdefault(word, []).append(str(name))
    if not found:
        return ""
    words = "; ".join(f"{word!r} in {', '.join(names)}" for word, names in found.items())
    option = " ".join(f"--null-word='{word}'" for word in dict.fromkeys([*in_force, *found]))
    return f"these words are read as text: {words}; if they mean a missing value, pass {option}"


def lists_as_text(series: pd.Series) -> str:
    """A remark on a column of lists that are written as text, or ""."""
    text = _sample(series)
    if not len(text) or not text.str.fullmatch(r"\s*\[.*\]\s*").mean() > 0.9:
        return ""
    return (
        f"holds lists that are written as text, such as {shown(text.iloc[0])}; write their values "
        "with a separator such as |, or as lists in a Parquet file"
    )


def json_width(series: pd.Series) -> int | None:
    """The width of a column of vectors that are written as JSON; None for other columns."""
    try:
        vectors = [json.loads(value) for value in _sample(series)]
    except ValueError:
        return None
    kinds = {(type(v), len(v) if isinstance(v, list) else 0) for v in vectors}
    numbers = len(kinds) == 1 and all(
        isinstance(v, list) and v and all(isinstance(n, int | float) for n in v) for v in vectors
    )
    return len(vectors[0]) if numbers else None


def written_numbers(series: pd.Series) -> str:
    """A remark on a text column that looks like numbers, or ""."""
    text = series.dropna().astype(str)
    text = text[~text.isin(_NULL_WORDS)]
    unread = columns.to_float32(text)[0].isna().to_numpy()
    if not unread.any():
        return ""
    plain = columns.to_float32(text.str.replace(_SIGNS, "", regex=True))[0]
    if not np.mean(plain.notna()) > 0.5:
        return ""
    return (
        f"{series.name} is read as text, because values such as {shown(text[unread].iloc[0])} are "
        "not numbers; if they should be, write them with digits and a decimal point only"
    )


def has_decimal_commas(series: pd.Series) -> bool:
    """Whether the values of a text column are numbers, some with a comma before the decimals."""
    text = _sample(series)
    numbers = text.str.fullmatch(r"\s*[+-]?\d+(,\d+)?\s*")
    return bool(len(text) and numbers.mean() > 0.9 and text.str.contains(",").any())


def separated_thousands(frame: pd.DataFrame) -> list[str]:
    """Remarks on columns such as ``9.098`` beside ``347`` in a file with decimal commas.

    They would be read as 9.098 and 347.
    """
    texts = {str(name): _sample(frame[name]) for name in frame if is_text(frame[name])}
    if not any(has_decimal_commas(text) for text in texts.values()):
        return []
    remarks = []
    for name, text in texts.items():
        has_point = text.str.contains(".", regex=False)
        if has_point.any() and text.str.fullmatch(r"[+-]?(\d{1,3}|[1-9]\d{0,2}(\.\d{3})+)").all():
            remarks.append(
                f"{name} has values such as {shown(text[has_point].iloc[0])}; if the points "
                "separate thousands, write the numbers without them"
            )
    return remarks


def _sample(series: pd.Series) -> pd.Series:
    return series.dropna().head(_SAMPLE).astype(str)


def whole_floats(series: pd.Series) -> str:
    """A remark on texts such as ``1.0``, which a missing value makes of whole numbers; or ""."""
    texts = _sample(series)
    if not is_text(series) or not len(texts) or not texts.str.fullmatch(r"\d+\.0").all():
        return ""
    return (
        f"is text such as {texts.iloc[0]!r}, and so must be the keys of requests: write whole "
        "numbers without '.0'"
    )
