"""Messages survive their trip, and their bytes do not change unnoticed."""

import msgspec
import pytest

from bros.brosd.protocol import wire
from bros.brosd.protocol.sockets import MessageTooLargeError, encode
from bros.kv import Klass

SAMPLING = wire.Sampling(temperature=0.5, seed=3)
GOLDEN: list[tuple[wire.Message, object, str]] = [
    (
        wire.Admit(
            rid=2**62,
            klass=Klass.BE,
            arrived_s=1.5,
            prompt=wire.pack_ids([1, 2]),
            max_tokens=9,
            sampling=SAMPLING,
            stop_ids=[2],
            slo=wire.Slo(ttft_s=0.5, tpot_s=0.08),
        ),
        wire.ToDaemon,
        "99a561646d6974cf400000000000000001cb3ff8000000000000c4080100000002000000"
        "099acb3fe000000000000000cb3ff0000000000000cb0000000000000000cb3ff0000000"
        "000000cb0000000000000000cb000000000000000003c0a0910292cb3fe0000000000000"
        "cb3fb47ae147ae147b",
    ),
    (wire.Abort(rid=5), wire.ToDaemon, "92a561626f727405"),
    (
        wire.StepDone(worker=0, generation=1, step=2, tokens=wire.pack_ids([-1]), elapsed_s=0.5),
        wire.ToDaemon,
        "9aa4646f6e65000102c404ffffffffcb3fe0000000000000cb0000000000000000009090",
    ),
    (
        wire.Emit(rids=[1], tokens=wire.pack_ids([300]), finish=[wire.FinishReason.LENGTH]),
        wire.ToTokenizer,
        "95a4656d69749101c4042c010000910290",
    ),
]


@pytest.mark.parametrize(("message", "union", "golden"), GOLDEN)
def test_bytes_are_pinned(message: wire.Message, union: object, golden: str) -> None:
    data = encode(message)
    assert msgspec.msgpack.decode(data, type=union) == message
    assert data.hex() == golden, "a changed layout needs a new WIRE_VERSION and a new golden value"


def test_ids_pack_to_little_endian_words() -> None:
    assert wire.pack_ids([1, -2]) == b"\x01\0\0\0\xfe\xff\xff\xff"
    assert wire.unpack_ids(wire.pack_ids([1, -2])).tolist() == [1, -2]


def test_a_message_of_another_inbox_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(encode(wire.Abort(rid=1)), type=wire.ToWorker)


def test_a_message_that_its_reader_would_not_take_is_not_sent() -> None:
    with pytest.raises(MessageTooLargeError, match=r"StepPlan of \d+ bytes, more than 67108864"):
        encode(wire.StepPlan(1, bytes(wire.MAX_MESSAGE_BYTES), b"", b""))
