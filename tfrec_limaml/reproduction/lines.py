"""Lines of tables: the paper's recipe and its references."""

from __future__ import annotations

from tfrec_limaml.reproduction.setups import Form, Setup
from tfrec_limaml.reproduction.table import Line
from tfrec_limaml.training.options import TrainOptions

LIMAML = TrainOptions.paper()
VANILLA = TrainOptions.paper("vanilla")


def line(
    label: str,
    options: TrainOptions,
    gain: float | None = None,
    time: float | None = None,
    form: Form = "served",
    task: str | None = None,
) -> Line:
    """A line with the paper's gain (per cent of AUC) and training time (per cent), if known."""
    paper = {} if gain is None else {"all": gain}
    setup = Setup(options=options, form=form, task=task)
    return Line(label=label, setup=setup, paper=paper, paper_time=time)


def vanilla(task: str | None = None) -> Line:
    """Vanilla, the reference of most tables."""
    return line("vanilla", VANILLA, 0.0, form="unadapted", task=task)
