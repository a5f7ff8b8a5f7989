"""What errors about a store address leave out: values that may be secrets."""

from __future__ import annotations

import pytest

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("redis://h:1/0?token=s3cret", "'redis://h:1/0' has unknown options ['token']"),
        ("redis://u:pw@h:1/0?ttl=9&token=s3cret", "'redis://***@h:1/0' has unknown options"),
        ("redis-sentinel://h:1/m?PREFIX=s3cret", "'redis-sentinel://h:1/m' has unknown options"),
        ("lmdb:/tmp/x?token=s3cret", "'lmdb:/tmp/x' has unknown options ['token']"),
        ("lmdb:?token=s3cret", "'lmdb:' names no folder"),
        ("redsi://h:1/0?token=s3cret", "'redsi://h:1/0' has an unknown backend"),
    ],
)
def test_the_value_of_an_unknown_option_is_not_shown(address, named):
    with pytest.raises(StoreError) as caught:
        open_store(address)
    assert named in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("redis://:my secret@h:1/0", "has a space .* percent-encode it, %20"),
        ("redis://:my#secret@h:1/0", "has a # .* percent-encode it, %23"),
    ],
)
def test_a_character_that_must_be_encoded_is_named_without_the_address(address, remedy):
    with pytest.raises(StoreError, match=remedy) as caught:
        open_store(address)
    assert "secret" not in str(caught.value)
