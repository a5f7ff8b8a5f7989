"""What a user can fix on S3 is told in one line, before the work."""

from __future__ import annotations

import sys

import apache_beam as beam
import pytest
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.utils import retry

from limaml_beam.io import read_errors, runner_errors, staged_output
from limaml_beam.io import s3 as s3_io
from limaml_beam.io.pipeline_options import new_pipeline, use_options
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError


@pytest.fixture
def refused(capsys):
    """``refused("prepare", ...)``: the error of a command, in one line."""

    def run(*arguments):
        capsys.readouterr()
        assert main(list(arguments)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run


def test_a_missing_bucket_is_named_before_the_work(
    s3, flags, upload, raw, export, tmp_path, refused
):
    missing = "NoSuchBucket: The specified bucket does not exist; create the bucket, or check"
    assert missing in refused("prepare", "s3://nobucket/raw", "--output", f"{tmp_path}/t", *flags)
    window = ["--recent-only", "--window-end", "2022-06-01"]
    prepare = ["prepare", str(raw), *window, *flags]
    said = refused(*prepare, "--output", "s3://nobucket/tasks")
    assert f"cannot use s3://nobucket/tasks: {missing}" in said
    said = refused(*prepare, "--output", f"{tmp_path}/t", "--report", "s3://nobucket/report.json")
    assert f"cannot use s3://nobucket/report.json: {missing}" in said
    assert not (tmp_path / "t").exists()
    said = refused(
        *("embed", "s3://bucket/tasks", "--export", str(export), *flags),
        *("--output", "s3://nobucket/emb"),
    )
    assert f"cannot use s3://nobucket/emb: {missing}" in said


def test_refused_credentials_are_one_line_with_the_remedy(s3, flags, refused, monkeypatch):
    import moto.settings

    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # asks for accounts
    monkeypatch.setattr(s3_io, "_seen", set())
    said = refused("prepare", "s3://bucket/raw", "--output", "s3://bucket/t", *flags)
    assert "cannot use s3://bucket/raw: InvalidAccessKeyId: " in said
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment" in said
    # A job's own requests say the same: what they may do can change, or differ by folder.
    monkeypatch.setattr(s3_io, "check_bucket", lambda path: None)
    said = refused("prepare", "s3://bucket/raw", "--output", "s3://bucket/t", *flags)
    assert "cannot look for s3://bucket/raw: " in said
    assert "check what the account may do with the bucket" in said


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ("--beam=--s3_endpoint_url=http://127.0.0.1:1", "Could not connect to the endpoint URL: "),
        ("--beam=--s3_endpoint_url=http://me:s3cret@127.0.0.1:1", "Could not connect to the "),
        ("--beam=--s3_endpoint_url=nowhere", "Invalid endpoint: nowhere; check the network and "),
        ("--beam=--s3_access_key_id=", "Unable to locate credentials; set AWS_ACCESS_KEY_ID and "),
        ("--beam=--s3_secret_access_key=", "Partial credentials found in explicit"),
    ],
)
def test_what_beam_would_repeat_for_minutes_is_told_at_once(
    flags, replaced, reason, refused, monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)

    def never(*_):
        raise AssertionError("Beam repeats a request")

    monkeypatch.setattr(retry.Clock, "sleep", never)
    name, _, value = replaced.rpartition("=")
    kept = [flag for flag in flags if not flag.startswith(name)]
    if name.endswith("access_key_id"):
        kept = [flag for flag in kept if "secret_access_key" not in flag]
    given = [replaced] if value else []
    said = refused("prepare", "s3://bucket/raw", "--output", "s3://bucket/t", *kept, *given)
    assert f"cannot use s3://bucket/raw: {reason}" in said
    assert "s3cret" not in said


def test_a_bucket_is_looked_at_once(s3, flags, monkeypatch):
    use_options([flag.removeprefix("--beam=") for flag in flags])
    monkeypatch.setattr(s3_io, "_seen", set())
    s3_io.check_bucket("s3://bucket/a")
    monkeypatch.setattr("boto3.session.Session", None)
    s3_io.check_bucket("s3://bucket/b")


@pytest.mark.parametrize(
    ("code", "status", "refused_with"),
    [
        ("AccessDenied", 403, ""),  # an account may write and not list
        ("TooManyRequests", 429, ""),
        ("InternalError", 500, ""),
        ("InvalidToken", 400, "InvalidToken: not with ***; set AWS_ACCESS_KEY_ID and"),
    ],
)
def test_only_an_answer_that_a_job_cannot_get_past_stops_it_and_shows_no_secret(
    monkeypatch, code, status, refused_with
):
    exceptions = pytest.importorskip("botocore.exceptions", reason="needs boto3: the extra dev")
    answer = {
        "Error": {"Code": code, "Message": "not with s3cret"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }

    class Session:
        def client(self, *_, **__):
            return self

        def list_objects_v2(self, **_):
            raise exceptions.ClientError(answer, "ListObjectsV2")

    use_options(["--s3_access_key_id=key", "--s3_secret_access_key=s3cret"])
    monkeypatch.setattr(s3_io, "_seen", set())
    monkeypatch.setattr("boto3.session.Session", Session)
    if refused_with:
        with pytest.raises(LimamlError) as caught:
            s3_io.check_bucket("s3://bucket/a")
        assert f"cannot use s3://bucket/a: {refused_with}" in str(caught.value)
    else:
        s3_io.check_bucket("s3://bucket/a")


def test_a_missing_client_of_s3_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(LimamlError, match=r"^s3://other/a needs boto3: pip install "):
        s3_io.check_bucket("s3://other/a")


@pytest.mark.parametrize("flag", ["", "--direct_running_mode=multi_processing"])
def test_a_bucket_that_goes_while_a_job_runs_is_one_line(s3, flags, flag):
    options = use_options([*(f.removeprefix("--beam=") for f in flags), *filter(None, [flag])])
    pipeline = new_pipeline(options)
    written = pipeline | beam.Create(["s3://nobucket/x/y"])
    _ = written | beam.Map(lambda path: staged_output.write_file(path, b"text"))
    with (
        pytest.raises(LimamlError, match=r"^cannot write below OUT: .*NoSuchBucket.*; create the"),
        runner_errors.readable("OUT"),
    ):
        pipeline.run().wait_until_finish()


def test_an_error_of_s3_while_a_file_is_read_is_not_called_damage_of_the_file():
    error = S3ClientError("An error occurred (403): Forbidden", 403)
    said = str(read_errors.unreadable("s3://bucket/a.csv", 7, error))
    assert isinstance(error, read_errors.READ_ERRORS)
    assert said.startswith("cannot read s3://bucket/a.csv after 7 rows: An error occurred (403): ")
    assert "check what the account may do with the bucket" in said
    assert "is the file complete" not in said
