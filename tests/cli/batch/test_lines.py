"""Batch files of all kinds, read line by line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bros.brosd.protocol.batch_lines import MAX_LINE_BYTES, read_lines
from bros.cli.batch.lines import open_lines

line = st.binary(min_size=1, max_size=40).filter(
    lambda b: b.strip() and not set(b) & set(b"\r\n") and not b.startswith(b"\xef\xbb\xbf")
)


@given(st.lists(line), st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n  \n"]), st.booleans())
def test_nonblank_lines_pass_as_they_are(lines: list[bytes], end: bytes, ended: bool) -> None:
    content = end.join(lines) + (end if ended else b"")
    assert list(read_lines(io.BytesIO(content), print)) == lines


def test_a_byte_order_mark_is_removed() -> None:
    assert list(read_lines(io.BytesIO(b"\xef\xbb\xbf{}\n{}"), print)) == [b"{}", b"{}"]


@pytest.mark.parametrize("num_bytes", [MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES])
def test_a_line_too_large_leaves_a_stand_in(
    num_bytes: int,
) -> None:
    head = b'{"custom_id": "say \\"hi\\"", "body": "'
    large = head + b"x" * (num_bytes - len(head))
    warnings: list[str] = []
    content = io.BytesIO(b"{}\n" + large + b"\n{}")
    small, stand_in, after = read_lines(content, warnings.append)
    assert (small, after) == (b"{}", b"{}")
    assert json.loads(stand_in)["custom_id"] == 'say "hi"'
    assert "line 2 is too large" in warnings[0]


def test_a_large_line_that_fits_passes() -> None:
    large = b"x" * (MAX_LINE_BYTES - 1)
    assert list(read_lines(io.BytesIO(large + b"\n{}"), print)) == [large, b"{}"]


def test_a_large_line_without_custom_id_is_named_by_its_number() -> None:
    (stand_in,) = read_lines(io.BytesIO(b"x" * MAX_LINE_BYTES), print)
    assert json.loads(stand_in)["custom_id"] == "line-1"


def test_a_blank_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl").write_bytes(b"\n \n")
    with (
        pytest.raises(ValueError, match=r"blank\.jsonl has no lines"),
        open_lines(str(tmp_path / "blank.jsonl")),
    ):
        pass
