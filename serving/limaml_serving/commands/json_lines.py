"""The lines that ``limaml rank`` reads and writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limaml_serving.client.steps import Ranked


def parse(line: bytes) -> tuple[dict[str, Any], Any]:
    """Member and candidates of an input line; raises `RequestError` if it holds none."""
    from limaml_serving.errors import RequestError

    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not a JSON object: {error}") from error
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("member"), dict)
        or not isinstance(content.get("candidates"), list | dict)
    ):
        raise RequestError('expected {"member": {...}, "candidates": [{...}, ...]}')
    if b"\\ud" in line.lower():  # a lone surrogate is not a character
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"holds text that is not valid Unicode: {error}") from error
    return content["member"], content["candidates"]


def as_json(ranked: Ranked) -> dict[str, Any]:
    """A ranked request, best candidate first, as JSON types."""
    scores = (
        {"probability": ranked.probability, "logit": ranked.logit}
        if ranked.is_probability
        else {"prediction": ranked.prediction}
    )
    columns: dict[str, Any] = {
        "candidate": ranked.order,
        **scores,
        "used_embedding": ranked.used_embedding,
    }
    rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
    return {
        "model_version": ranked.model_version,
        "ranked": rows,
        **({"filled": list(ranked.filled)} if ranked.filled else {}),
    }
