"""What all messages are made of: their base classes, and columns of numbers as bytes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

WIRE_VERSION = 6  # raise it when a message changes
MAX_MESSAGE_BYTES = 64 * 2**20


class Message(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """Base of all messages; the tag of a subclass is the first element of its array."""


class Part(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """A piece of a message. It has no tag, since it is never sent alone."""


def pack_ids(ids: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
    """Return integers as little-endian int32 bytes."""
    return np.asarray(ids, dtype="<i4").tobytes()


def unpack_ids(data: bytes) -> npt.NDArray[np.int32]:
    """Invert `pack_ids`: return a read-only int32 array that shares `data`."""
    return np.frombuffer(data, dtype="<i4")


def pack_floats(values: Sequence[float] | npt.NDArray[np.floating]) -> bytes:
    """Return numbers as little-endian float32 bytes."""
    return np.asarray(values, dtype="<f4").tobytes()


def unpack_floats(data: bytes) -> npt.NDArray[np.float32]:
    """Invert `pack_floats`: return a read-only float32 array that shares `data`."""
    return np.frombuffer(data, dtype="<f4")
