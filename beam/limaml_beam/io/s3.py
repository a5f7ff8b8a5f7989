"""One look at an S3 bucket before a job uses it, and S3's errors with their remedy.

Beam repeats requests that have no answer for many minutes, in silence, and takes a bucket that does
not exist for an empty one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import S3Options

from limaml_beam.io.beam_internals import filesystem_options
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store.secrets import masked

_SCHEME = "s3://"
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 10, 15, 3
# An account may lack the right to list, and a server may be busy: the job's own requests tell.
_PASSING = ("AccessDenied", "RequestTimeout", "TooManyRequests")
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or give Beam's options "
    "(--beam=--s3_access_key_id=ID and so on)"
)
#: Patterns of reasons, whatever their case, and what the user can do.
_REMEDIES = (
    ("NoSuchBucket", "create the bucket, or check its name"),
    (
        "AccessDenied|Access Denied|Forbidden",
        f"check what the account may do with the bucket, or use another account: {_CREDENTIALS}",
    ),
    ("credentials|InvalidAccessKeyId|SignatureDoesNotMatch|token|profile", _CREDENTIALS),
    (
        "endpoint|connect|SSL|region|Not Found",
        "check the network and Beam's options (--beam=--s3_endpoint_url=URL, "
        "--beam=--s3_region_name=NAME)",
    ),
)
#: Accounts and buckets that have been looked at.
_seen: set[tuple[str, ...]] = set()


def check_bucket(path: str) -> None:
    """Sends one request to the bucket of an ``s3://`` path, if this process has not done so.

    Raises:
        LimamlError: There is no such bucket, S3 cannot be reached, or it refuses the credentials.
    """
    if not path.startswith(_SCHEME):
        return
    try:
        import boto3  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import botocore.config  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import botocore.exceptions  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise LimamlError(f"{path} needs boto3: pip install 'tfrec-limaml[aws]'") from error
    bucket, _, key = path.removeprefix(_SCHEME).partition("/")
    options = _client_options()
    account = (options["endpoint_url"], options["region_name"], options["aws_access_key_id"])
    if (seen := (bucket, *map(str, account))) in _seen:
        return
    try:
        config = botocore.config.Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"total_max_attempts": _ATTEMPTS},
        )
        client = boto3.session.Session().client("s3", config=config, **options)
        client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except botocore.exceptions.ClientError as error:
        answer = error.response
        code = answer["Error"].get("Code", "")
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code not in _PASSING and 400 <= status < 500:
            reason = f"{code}: {answer['Error'].get('Message', '')}"
            raise _cannot_use(path, reason, options) from error
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise _cannot_use(path, str(error), options) from error
    _seen.add(seen)


def _client_options() -> dict[str, Any]:
    """The arguments of boto3's client; the same as those of Beam's."""
    options = filesystem_options().view_as(S3Options)
    return {
        "region_name": options.s3_region_name,
        "api_version": options.s3_api_version,
        "use_ssl": not options.s3_disable_ssl,
        "verify": options.s3_verify,
        "endpoint_url": options.s3_endpoint_url,
        "aws_access_key_id": options.s3_access_key_id,
        "aws_secret_access_key": options.s3_secret_access_key,
        "aws_session_token": options.s3_session_token,
    }


def _cannot_use(path: str, reason: str, options: dict[str, Any]) -> LimamlError:
    for name in ("aws_secret_access_key", "aws_session_token"):
        reason = reason.replace(options[name] or "\n", "***")
    return LimamlError(f"cannot use {path}: {with_remedy(reason)}")


def with_remedy(reason: str) -> str:
    """A reason that S3 or its client gives, in one line, and what the user can do."""
    reason = " ".join(masked(reason).split())
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, reason, re.IGNORECASE):
            return f"{reason.rstrip('.')}; {remedy}"
    return reason


def reason_of(error: BaseException) -> str:
    """The message of an error of a filesystem; with the remedy if it is one of S3."""
    if isinstance(error, BeamIOError) and error.exception_details:
        details = list(error.exception_details.values())
        if isinstance(details[0], BaseException):
            return reason_of(details[0])
    if isinstance(error, S3ClientError):
        return with_remedy(str(error.args[0] if error.args else error))
    return str(error)


@contextlib.contextmanager
def errors_as_os_errors() -> Iterator[None]:
    """Turns S3's errors into `OSError`, as those of all other filesystems are."""
    try:
        yield
    except S3ClientError as error:
        raise OSError(reason_of(error)) from error
