"""Sets of digests."""

import hashlib
import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from limaml_beam.generate_embeddings.digests import (
    DIGEST_BYTES,
    DigestSet,
    as_array,
    digest,
)
from tfrec_limaml.store.erasure import key_digest

# Few distinct bytes, zeros among them, so that digests share prefixes and end in zeros.
values = st.lists(
    st.sampled_from([b"\0", b"\1", b"\xff"]), min_size=DIGEST_BYTES, max_size=DIGEST_BYTES
).map(b"".join)


@given(st.lists(st.lists(values, max_size=20), max_size=4), st.lists(values, max_size=40))
def test_a_set_of_digests_answers_as_a_set_of_bytes(parts, others):
    expected = {value for part in parts for value in part}
    asked = [*others, *expected]
    found = DigestSet(map(b"".join, parts)).contains(as_array(b"".join(asked)))
    assert found.tolist() == [value in expected for value in asked]


def test_one_task_takes_16_bytes():
    digests = DigestSet([np.random.default_rng(0).bytes(16 * 1000)])
    assert len(digests) == 1000
    assert 16_000 <= len(pickle.dumps(digests)) < 17_000


def test_digests_are_those_of_the_library():
    assert digest(b"record") == hashlib.sha256(b"record").digest()[:16]
    assert key_digest("u1") == hashlib.blake2b(b"u1", digest_size=16).digest()
    assert as_array(digest(b"a") + key_digest("b")).tolist() == [
        digest(b"a").rstrip(b"\0"),
        key_digest("b").rstrip(b"\0"),
    ]
