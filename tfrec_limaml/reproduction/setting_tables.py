"""The paper's tables of one setting each: inner steps, dropout, learning rates, pooling."""

from __future__ import annotations

from collections.abc import Sequence

from tfrec_limaml.choices import Pooling
from tfrec_limaml.reproduction.lines import LIMAML, line, vanilla
from tfrec_limaml.reproduction.setups import Setup
from tfrec_limaml.reproduction.table import Line, Ordering, Records, Table


def table9(quick: bool) -> Table:
    """The number of inner steps."""
    figures = {1: (1.47, 105), 2: (1.50, 130), 3: (1.50, 162), 4: (1.50, 186), 5: (1.51, 221)}
    return Table(
        name="table9",
        title="Inner steps",
        text="Gain and training time by the number of inner steps.",
        reference="vanilla",
        lines=[
            vanilla(),
            *(
                line(f"n = {n}", LIMAML.replace(inner_steps=n), *figures[n])
                for n in ((1, 5) if quick else figures)
            ),
        ],
        orderings=[
            Ordering("n = 5", "n = 1", time=True),
            Ordering("n = 1", "vanilla"),
            Ordering("n = 5", "n = 1"),
        ],
    )


def table10(quick: bool) -> Table:
    """Dropout in the global block."""
    figures = {0.0: 1.47, 0.1: 1.44, 0.2: 1.40, 0.4: 1.26, 0.6: 0.88}
    rates = (0.0, 0.6) if quick else tuple(figures)
    return Table(
        name="table10",
        title="Dropout",
        text="Dropout after the hidden layers of the global block.",
        reference="vanilla",
        lines=[
            vanilla(),
            *(line(f"dropout {r:g}", LIMAML.replace(dropout=r), figures[r]) for r in rates),
        ],
        orderings=[Ordering("dropout 0", "dropout 0.6", robust=True)],
    )


def inner_rates(
    name: str, title: str, task: str | None, rates: Sequence[float], gain: float
) -> Table:
    """Inner learning rates, for the default task definition or `task`; the paper gains `gain`."""
    records: Records = "plain" if task is None else "definitions"
    return Table(
        name=name,
        title=title,
        text="In the paper the gain is constant over four orders of magnitude.",
        reference="vanilla",
        lines=[
            vanilla(task),
            *(
                line(
                    f"inner learning rate {r:g}",
                    LIMAML.replace(inner_learning_rate=r),
                    gain,
                    task=task,
                )
                for r in rates
            ),
        ],
        records=records,
    )


def table13(quick: bool) -> Table:
    """The learning rate of the outer loop."""
    figures = {0.0009: 1.47, 0.003: None, 0.006: 1.37}
    rates = (0.0009, 0.006) if quick else tuple(figures)
    return Table(
        name="table13",
        title="Global learning rate",
        text="The learning rate of the outer loop; the paper's gain decreases slowly with it.",
        reference="vanilla",
        lines=[
            vanilla(),
            *(
                line(f"learning rate {r:g}", LIMAML.replace(learning_rate=r), figures[r])
                for r in rates
            ),
        ],
        orderings=[Ordering("learning rate 0.0009", "learning rate 0.006")],
    )


def table14(quick: bool) -> Table:
    """The pooling of a task's embeddings."""
    figures: dict[Pooling, float] = {"latest": 0.0, "max": -0.06, "mean": -0.12, "cosine": -0.10}
    return Table(
        name="table14",
        title="Pooling of a task's embeddings",
        text="If all meta features are constant within a task, all poolings give the same vector, "
        "and the table shows no difference.",
        reference="latest",
        lines=[
            Line(
                label=pooling,
                setup=Setup(options=LIMAML, pooling=pooling),
                paper={"all": gain},
            )
            for pooling, gain in figures.items()
        ],
        orderings=[Ordering("latest", other) for other in ("max", "mean", "cosine")],
    )
