"""What a worker process meant to say reaches the user as one line."""

import apache_beam as beam
import pytest
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

from limaml_beam.io import runner_errors
from limaml_beam.io.pipeline_options import local_by_default
from tfrec_limaml.errors import LimamlError

TRACEBACK = """Traceback (most recent call last):
  File "worker.py", line 1, in process
{0}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "common.py", line 2, in process
{0} [while running 'ReadBatches-ptransform-7']
"""


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("tfrec_limaml.errors.LimamlError: no good, give another", "no good, give another"),
        ("limaml_beam.sources.SourceError: a.parquet is cut", "a.parquet is cut"),
        (
            "OSError: [Errno 28] No space left on device",
            r"cannot write below out: \[Errno 28\] No space left on device",
        ),
        (
            "apache_beam.io.filesystem.BeamIOError: Rename failed",
            "cannot write below out: Rename failed",
        ),
        (
            "apache_beam.io.aws.clients.s3.messages.S3ClientError: ('An error occurred "
            "(AccessDenied) when calling the GetObject operation: Access Denied', 403)",
            r"cannot write below out: .*GetObject operation: Access Denied; check what the .*",
        ),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [RuntimeError, lambda text: DataflowRuntimeException(text, None)],
    ids=["portable", "dataflow"],
)
def test_a_workers_exception_as_text_becomes_its_message(raised, message, kind):
    with pytest.raises(LimamlError, match=f"^{message}$"), runner_errors.readable("out"):
        raise kind(f"Pipeline failed in state FAILED: {TRACEBACK.format(raised)}")


def test_what_no_user_can_mend_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="KeyError: 'x'"), runner_errors.readable("out"):
        raise RuntimeError(TRACEBACK.format("KeyError: 'x'"))


@pytest.mark.parametrize(
    "flags",
    [[], ["--direct_running_mode=multi_processing"]],
    ids=["in process", "a process"],
)
def test_a_real_runner_is_understood(flags):
    def refuse(number):
        from tfrec_limaml.errors import SchemaError

        raise SchemaError(f"received {number}; give another")

    pipeline = beam.Pipeline(options=local_by_default(flags))
    pipeline | beam.Create([3]) | beam.Map(refuse)
    with (
        pytest.raises(LimamlError, match=r"^received 3; give another$"),
        runner_errors.readable("out"),
    ):
        pipeline.run().wait_until_finish()


@pytest.mark.parametrize(
    "flags",
    [[], ["--direct_running_mode=multi_processing"]],
    ids=["in process", "a process"],
)
def test_an_interrupt_while_a_step_runs_stays_an_interrupt(flags):
    def interrupt(number):
        raise KeyboardInterrupt

    pipeline = beam.Pipeline(options=local_by_default(flags))
    pipeline | beam.Create([3]) | beam.Map(interrupt)
    with pytest.raises(KeyboardInterrupt), runner_errors.readable("out"):
        pipeline.run().wait_until_finish()
