"""Hostile Predict requests: every one gets a status, and the server is as well afterwards as
before.

``LIMAML_FUZZ_REQUESTS=100000 pytest tests/serving/test_fuzz.py`` sends more of them.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import grpc
import pytest
import tensorflow as tf
from serving_helpers import sample
from tensorflow.core.framework import tensor_pb2, types_pb2
from waiting import wait_for

REQUESTS = int(os.environ.get("LIMAML_FUZZ_REQUESTS", "2000"))
PREDICT = "/tensorflow.serving.PredictionService/Predict"
IN_FLIGHT = 64

#: Statuses that a hostile request may get. UNKNOWN and UNAVAILABLE would be a crash; INTERNAL is
#: what gRPC answers to bytes that are not a PredictRequest at all.
EXPECTED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
}

SIZES = (-1, -(2**63), 0, 1, 2, 3, 4, 7, 1000, 2**31, 2**40, 2**62, 2**63 - 1)
NAMES = (
    "conformance",
    "",
    "nobody",
    "../../etc/passwd",
    "a\0b",
    "\U0001f600",
    "x" * 10_000,
    "%s%n",
    "conformance/1",
)
SIGNATURES = (
    "",
    "serving_default",
    "kinds",
    "total",
    "add",
    "__saved_model_init_op",
    "NoOp",
    "\0",
    "y" * 5000,
)
INPUTS = (
    "country",
    "meta_embedding",
    "has_meta_embedding",
    "anything",
    "a",
    "b",
    "float32",
    "",
    "\n",
    "z" * 3000,
)
FIELDS = (
    "float_val",
    "double_val",
    "int_val",
    "int64_val",
    "uint32_val",
    "uint64_val",
    "bool_val",
    "half_val",
    "scomplex_val",
)


def random_tensor(dice: random.Random) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(
        dtype=dice.choice([1, 7, 10, *types_pb2.DataType.values(), 4096])
    )
    for _ in range(dice.choice([0, 1, 1, 2, 2, 3, 40])):
        proto.tensor_shape.dim.add().size = dice.choice(SIZES)
    proto.tensor_shape.unknown_rank = dice.random() < 0.05
    if dice.random() < 0.4:
        proto.tensor_content = dice.randbytes(dice.choice([0, 1, 3, 4, 8, 32, 1000]))
    if dice.random() < 0.5:
        getattr(proto, dice.choice(FIELDS)).extend(
            dice.choice([0, 1]) for _ in range(dice.choice([0, 1, 2, 8, 500]))
        )
    if dice.random() < 0.3:
        proto.string_val.extend(
            dice.randbytes(dice.choice([0, 1, 100])) for _ in range(dice.choice([1, 2, 8]))
        )
    if dice.random() < 0.05:
        proto.variant_val.add(type_name="x", metadata=b"y")
        proto.resource_handle_val.add(device="d", container="c", name="n")
    return proto


def random_change(dice: random.Random, request) -> None:
    """Spoils one thing of a good request."""
    kind = dice.randrange(7)
    if kind == 0:
        request.model_spec.name = dice.choice(NAMES)
    elif kind == 1:
        request.model_spec.version.value = dice.choice(SIZES)
    elif kind == 2:
        request.model_spec.version_label = dice.choice(NAMES)
    elif kind == 3:
        request.model_spec.signature_name = dice.choice(SIGNATURES)
    elif kind == 4:
        request.output_filter.append(dice.choice([*INPUTS, "logit"]))
    else:
        name = dice.choice([*INPUTS, *request.inputs])
        request.inputs[name].CopyFrom(random_tensor(dice))
        if dice.random() < 0.5 and len(request.inputs) > 3:
            del request.inputs[name]


def random_dims(dice: random.Random, request) -> None:
    """Keeps names and dtypes, so that the content meets the deeper checks."""
    name = dice.choice(list(request.inputs))
    for dim in request.inputs[name].tensor_shape.dim:
        if dice.random() < 0.7:
            dim.size = dice.choice(SIZES)
    if dice.random() < 0.5:
        request.inputs[name].tensor_content = dice.randbytes(dice.choice([0, 2, 8, 32, 64]))


def spoil_bytes(dice: random.Random, content: bytes) -> bytes:
    """The wire format itself: flipped bytes (also inside names, which then are not UTF-8), cuts and
    noise.
    """
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(200))
    spoilt = bytearray(content)
    for _ in range(dice.randint(1, 8)):
        spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
    return bytes(spoilt[: dice.randrange(len(spoilt))] if dice.random() < 0.2 else spoilt)


def hostile_request(number: int, good: bytes, make) -> bytes:
    dice = random.Random(number)
    request = make()
    request.ParseFromString(good)
    way = dice.randrange(4)
    if way == 0:
        return spoil_bytes(dice, good)
    for _ in range(dice.randint(1, 3)):
        (random_dims if way == 1 and request.inputs else random_change)(dice, request)
    if dice.random() < 0.05:
        request.ClearField("model_spec")
    return request.SerializeToString()


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture
def fuzzed(request, serve, connect, conformance_config):
    """A client of the server to be fuzzed, and the embedded server itself (None for another)."""
    given = request.config.getoption("--serving-target", None)
    if given:
        return connect(given), None
    models = {"conformance": conformance_config.parent / "conformance"}
    server = serve(models, max_queue=2 * IN_FLIGHT)
    return connect(server.target), server


def test_every_hostile_request_gets_a_status_and_the_server_stays_well(fuzzed, rows):
    client, server = fuzzed
    send = client.channel.unary_unary(PREDICT)  # bytes in, bytes out
    good = client.request(rows)
    answers: Counter[str] = Counter()
    waiting: list[grpc.Future] = []

    def collect(down_to: int) -> None:
        while len(waiting) > down_to:
            code = waiting.pop(0).code().name
            answers[code] += 1
            assert code in EXPECTED, code

    settled = 0.0
    for number in range(REQUESTS):
        content = hostile_request(number, good.SerializeToString(), type(good))
        waiting.append(send.future(content, timeout=60))
        collect(IN_FLIGHT)
        if number == REQUESTS // 2:
            collect(0)
            settled = resident_mib()
    collect(0)
    print(
        f"{sum(answers.values())} requests: {dict(answers)}; {settled:.0f} MiB half way, "
        f"{resident_mib():.0f} MiB at the end"
    )
    assert sum(answers.values()) == REQUESTS
    assert len(answers) >= 4  # the requests do reach different checks
    assert client.logits() == [112.0, 2.0]
    if server is not None:  # in this process
        assert resident_mib() - settled < 40
        wait_for(lambda: sample(server, "pending") == 0)


@pytest.mark.parametrize(
    "method",
    [
        PREDICT,
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        "/tensorflow.serving.ModelService/GetModelStatus",
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
        "/grpc.health.v1.Health/Check",
    ],
)
def test_bytes_that_are_no_message_are_refused_without_a_stack_trace_in_the_log(
    client, refusal, caplog, method, is_other
):
    code, _ = refusal(client.channel.unary_unary(method), b"\xff" * 20, timeout=20)
    # TensorFlow Serving may be started without its health service.
    assert code == "INTERNAL" or (code == "UNIMPLEMENTED" and "Health" in method and is_other)
    assert not caplog.records


@pytest.mark.parametrize("name", [b"\xff\xfe", b"ok\x80"])
def test_a_name_that_is_not_utf8_is_refused(client, rows, refusal, name):
    good = client.request(rows, name="A" * len(name)).SerializeToString()
    spoilt = good.replace(b"A" * len(name), name)
    assert spoilt != good
    assert refusal(client.channel.unary_unary(PREDICT), spoilt, timeout=20)[0] in (
        "INTERNAL",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
    )
    assert client.logits(version=1) == [111.0, 1.0]


def test_a_string_scalar_is_answered_or_refused(client, refusal):
    assert (
        refusal(client.predict, {"anything": tf.make_tensor_proto("text")}, signature="total")[0]
        == "INVALID_ARGUMENT"
    )
