"""A multipart form with one file, written away as it comes: memory does not grow with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bros.brosd.tokenizer.openai.errors import OpenAIError, invalid

BUFFER_BYTES = 2**20
MAX_FIELDS = 16
MAX_FIELD_BYTES = 1024


class UploadForm:
    """The fields of a form. The content of its `file` goes to `write`, piece by piece."""

    def __init__(
        self, content_type: str, write: Callable[[bytes], Awaitable[None]], max_bytes: int
    ) -> None:
        """Raise OpenAIError if the content type is not that of a form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise invalid("body", "send multipart/form-data with 'purpose' and 'file'")
        self._write_piece = write
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._num_bytes = 0
        self._num_parts = 0
        self._header = b""
        self._disposition = b""
        self._value = b""
        self._name = ""
        self._ended = False
        self._field: bytearray | None = None  # None within the file
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part,
                "on_header_field": self._on_header_name,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    async def read(self, body: AsyncIterator[bytes]) -> None:
        """Read the whole body. Raise OpenAIError if it is not a form, or too large."""
        try:
            async for chunk in body:
                self._parser.write(chunk)
                if len(self._buffer) >= BUFFER_BYTES:
                    await self._write()
        except FormParserError as error:
            raise invalid("body", f"not a multipart form: {error}") from None
        if not self._ended:
            raise invalid("body", "the multipart form has no end")
        if self.filename is None:
            raise invalid("file", "is required", "missing_field")
        await self._write()

    async def _write(self) -> None:
        piece, self._buffer = bytes(self._buffer), bytearray()
        await self._write_piece(piece)

    # -- the parser's callbacks ------------------------------------------------------------------

    def _on_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_FIELDS:
            raise invalid("body", f"more than {MAX_FIELDS} fields")
        self._header = self._disposition = self._value = b""

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        is_file = self._name == "file" and b"filename" in options
        self._field = None if is_file else bytearray()
        if is_file:
            if self.filename is not None:
                raise invalid("file", "more than one file")
            self.filename = options[b"filename"].decode(errors="replace")[:255]

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._num_bytes += end - start
            if self._num_bytes > self._max_bytes:
                problem = f"The file is larger than {self._max_bytes} bytes (batch.max_file_bytes)"
                raise OpenAIError(413, problem, param="file", code="file_too_large")
            self._buffer += data[start:end]
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD_BYTES:
            raise invalid(self._name or "body", f"more than {MAX_FIELD_BYTES} bytes")

    def _on_part_end(self) -> None:
        if self._field is not None:
            self.fields[self._name] = self._field.decode(errors="replace")

    def _on_end(self) -> None:
        self._ended = True
