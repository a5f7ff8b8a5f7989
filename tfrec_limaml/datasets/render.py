"""The results of ``limaml datasets`` as text."""

from __future__ import annotations

from typing import Any

from tfrec_limaml.tasks.folder import PARTS
from tfrec_limaml.wording import counted


def render(result: dict[str, Any]) -> str:
    """Text for a list of data sets, the facts of one, or a data card."""
    if "datasets" in result:
        return "\n".join(
            f"{name:<24} {facts['summary']}" for name, facts in result["datasets"].items()
        )
    if "rows" not in result:
        return "\n".join(f"{name}: {value}" for name, value in result.items())
    return render_card(result)


def render_card(card: dict[str, Any]) -> str:
    """A data card as text, one line per number."""
    rate = card.get("label_rate", card.get("label_mean"))
    lines = [
        f"{card['name']}: {counted(card['rows'], 'row', spec=',')}, {card['time_span'][0]} to "
        f"{card['time_span'][1]}",
        f"  label {card['label']}: mean {rate:.4f}",
    ]
    for name, facts in card["definitions"].items():
        lines += _definition_lines(name, facts)
    split = card["split"]
    if "per_task" in split:
        shares = zip(PARTS, split["per_task"], strict=True)
        lines.append(
            "  split: within tasks, " + ", ".join(f"{share:g} {name}" for name, share in shares)
        )
    elif not split["rows"]:
        lines.append("  split: none in the schema; `limaml prepare` takes its dates")
    else:
        lines.append(
            "  split: " + ", ".join(f"{count:,} {name}" for name, count in split["rows"].items())
        )
    for reason, count in card["dropped"].items():
        lines.append(f"  dropped: {counted(count, 'row', spec=',')} ({reason})")
    for column, counts in card["invalid"].items():
        lines.append(
            f"  {column}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        )
    for field in ("licence", "citation"):
        if field in card["source"]:
            lines.append(f"  {field}: {card['source'][field]}")
    for warning in card.get("warnings", ()):
        lines.append(f"  check: {warning}")
    return "\n".join([*lines, *_schema_lines(card), *_written_lines(card)])


def _schema_lines(card: dict[str, Any]) -> list[str]:
    """The suggested schema, where it was written, and the next command."""
    if "schema_yaml" not in card:
        return []
    lines = [
        "",
        "# the suggested schema; the lines marked 'check' above say what to verify",
        card["schema_yaml"].rstrip(),
    ]
    if "schema_written" in card:
        lines += [
            "",
            f"# written to {card['schema_written']}; check and edit it, then: {card['next']}",
        ]
    return lines


def _written_lines(card: dict[str, Any]) -> list[str]:
    if "written" not in card:
        return []
    folder = card["written"]
    return [f"  written to {folder}; next: limaml prepare {folder} --output TASKS"]


def _definition_lines(name: str, facts: dict[str, Any]) -> list[str]:
    """The card's lines about one task definition."""
    sizes = "  ".join(f"{label} {value}" for label, value in facts["samples_per_task"].items())
    lines = [f"  tasks by {name}: {facts['tasks']:,}; rows per task: {sizes}"]
    if "test_tasks" in facts:
        lines.append(
            f"    {counted(facts['test_tasks'], 'task is', 'tasks are', ',')} tested, "
            f"{facts['share_of_test_tasks_with_history']:.1%} of them have a history"
        )
    return lines
