"""The paper's tables as setups, with the paper's figures and the orderings that it reports.

Source: Wang et al., "LiMAML: Personalization of Deep Recommender Models via Meta Learning",
KDD 2024. Figures are per cent of test AUC over the reference, and per cent of training time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tfrec_limaml.reproduction.ablation_table import ablation
from tfrec_limaml.reproduction.lines import LIMAML, VANILLA, line, vanilla
from tfrec_limaml.reproduction.setting_tables import inner_rates, table9, table10, table13, table14
from tfrec_limaml.reproduction.setups import Form, Setup
from tfrec_limaml.reproduction.table import Line, Ordering, Table
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.wording import counted


def _table3(quick: bool) -> Table:
    forms: tuple[tuple[str, TrainOptions, Form, tuple[float, float, float]], ...] = (
        ("vanilla", VANILLA, "unadapted", (0.0, 0.0, 0.0)),
        ("vanilla, fine-tuned", VANILLA, "in_place", (0.75, 1.09, 1.63)),
        ("MAML", TrainOptions.paper("maml"), "unadapted", (-0.18, -0.29, -0.26)),
        ("MAML, fine-tuned", TrainOptions.paper("maml"), "in_place", (1.68, 1.84, 2.83)),
        ("LiMAML", LIMAML, "unadapted", (-0.43, -0.36, -0.40)),
        ("LiMAML, fine-tuned", LIMAML, "served", (1.47, 1.38, 1.64)),
    )
    slices = ("all", "under 25 rows", "25 rows or more")
    return Table(
        name="table3",
        title="Algorithms with and without fine-tuning",
        text="Fine-tuned LiMAML is scored as served; fine-tuned vanilla and MAML adapt their "
        "whole network, which cannot be stored.",
        reference="vanilla",
        lines=[
            Line(
                label=label,
                setup=Setup(options=options, form=form),
                paper=dict(zip(slices, gains, strict=True)),
            )
            for label, options, form, gains in forms
        ],
        orderings=[
            Ordering("vanilla, fine-tuned", "vanilla", robust=True),
            Ordering("MAML, fine-tuned", "vanilla, fine-tuned"),
            Ordering("LiMAML, fine-tuned", "vanilla"),
            Ordering("LiMAML, fine-tuned", "LiMAML", robust=True),
            Ordering("LiMAML, fine-tuned", "vanilla, fine-tuned"),
            Ordering("vanilla", "LiMAML"),
        ],
        slices="paper",
    )


def _table4(quick: bool) -> Table:
    wide = VANILLA.replace(global_block="wide_and_deep", id_embeddings=True)
    transformer = line("LiMAML, transformer", LIMAML.replace(meta_block="transformer"))
    return Table(
        name="table4",
        title="Meta blocks against an embedding per ID",
        text="The reference is a wide-and-deep network with an embedding per ID. The transformer "
        "is the paper's future work; its figure is not known.",
        reference="wide and deep",
        lines=[
            line("wide and deep", wide, 0.0, form="unadapted"),
            line("LiMAML, ID meta block", LIMAML.replace(meta_block="id"), 1.30),
            line("LiMAML, MLP meta block", LIMAML, 1.36),
            *([] if quick else [transformer]),
        ],
        orderings=[
            Ordering("LiMAML, ID meta block", "wide and deep"),
            Ordering("LiMAML, MLP meta block", "wide and deep", robust=True),
            Ordering("LiMAML, MLP meta block", "LiMAML, ID meta block"),
        ],
        records="id",
    )


def _table5(definitions: Sequence[str]) -> Table:
    lines = []
    for number, definition in enumerate(definitions):
        label = f"vanilla per {definition}"
        unadapted_line = line(label, VANILLA, form="unadapted", task=definition)
        unadapted_line = dataclasses.replace(unadapted_line, reference=label)
        paper = {"all": (0.01, 0.47)[number]} if number < 2 else {}
        setup = Setup(options=LIMAML, task=definition)
        label = f"LiMAML per {definition}"
        lines += [
            unadapted_line,
            Line(label=label, setup=setup, paper=paper, reference=unadapted_line.label),
        ]
    finer = (
        [Ordering(f"LiMAML per {definitions[1]}", f"LiMAML per {definitions[0]}")]
        if len(definitions) > 1
        else []
    )
    return Table(
        name="table5",
        title="Task definitions",
        text="The paper's figures are those of in-app clicks per user, and per user and type of "
        "notification.",
        reference=lines[0].label,
        lines=lines,
        orderings=finer,
        records="definitions",
    )


def _table6(quick: bool) -> Table:
    small_batches = LIMAML.replace(batch_size=32, inner_steps=5)
    large_batches = small_batches.replace(
        batch_size=128, learning_rate=4e-3, warmup_steps=50, decay=True
    )
    replicas = Line(
        label="batches of 128 tasks, n = 5, two replicas",
        setup=Setup(options=large_batches, replicas=2),
        paper_time=-64.28,
    )
    return Table(
        name="table6",
        title="Training time",
        text="Larger batches with a linearly scaled learning rate, warm-up, decay and clipping; "
        "then one inner step instead of five. The paper's figures of the last two lines include "
        "data-parallel training on several GPUs. Without two GPUs, two replicas share the cores "
        "of one processor: they show that the AUC is the same, not how much faster two devices "
        "are.",
        reference="LiMAML, batches of 32 tasks, n = 5",
        lines=[
            line("LiMAML, batches of 32 tasks, n = 5", small_batches, 0.0, 0.0),
            line("batches of 128 tasks", large_batches, None, -46.85),
            line("and n = 1", large_batches.replace(inner_steps=1), None, -77.19),
            *([] if quick else [replicas]),
        ],
        orderings=[
            Ordering("LiMAML, batches of 32 tasks, n = 5", "batches of 128 tasks", time=True),
            Ordering("batches of 128 tasks", "and n = 1", time=True),
        ],
    )


def _table8(quick: bool) -> Table:
    return Table(
        name="table8",
        title="Cohorts",
        text="The paper reports click-through rates of an online test: up to 11.2 per cent more "
        "for infrequent members. Here it is the AUC of the test rows of each cohort.",
        reference="vanilla",
        lines=[vanilla(), line("LiMAML", LIMAML)],
        orderings=[Ordering("LiMAML", "vanilla", slice="frequent")],
        slices="cohorts",
    )


def _refresh(quick: bool) -> Table:
    return Table(
        name="refresh",
        title="Old embeddings",
        text="Embeddings without the last days before the test rows. The paper refreshes "
        "weekly instead of daily and loses 0.5 per cent.",
        reference="fresh",
        lines=[
            Line(
                label=f"{counted(days, 'day')} old" if days else "fresh",
                setup=Setup(options=LIMAML, days_old=days),
                paper={} if days != 7 else {"all": -0.5},
            )
            for days in ((0, 14) if quick else (0, 1, 3, 7, 14))
        ],
        orderings=[Ordering("fresh", "14 days old")],
    )


def all_tables(definitions: Sequence[str], quick: bool = False) -> dict[str, Table]:
    """Every table by name.

    Args:
        definitions: Task definitions of the data set, the default one first.
        quick: Whether the tables have fewer lines.
    """
    finest = definitions[1] if len(definitions) > 1 else None
    few = (1.0,)
    make: list[Callable[[], Table]] = [
        lambda: _table3(quick),
        lambda: _table4(quick),
        lambda: _table5(definitions),
        lambda: _table6(quick),
        lambda: _table8(quick),
        lambda: table9(quick),
        lambda: table10(quick),
        lambda: inner_rates(
            "table11",
            "Inner learning rate, finer tasks",
            finest,
            few if quick else (0.001, 0.01, 0.1, 1.0, 10.0, 50.0),
            0.47,
        ),
        lambda: inner_rates(
            "table12",
            "Inner learning rate",
            None,
            few if quick else (0.005, 0.05, 0.5, 5.0, 10.0),
            1.47,
        ),
        lambda: table13(quick),
        lambda: table14(quick),
        lambda: _refresh(quick),
        lambda: ablation(quick),
    ]
    tables = [build() for build in make]
    return {table.name: table for table in tables}
