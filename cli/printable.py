"""Text from models, files and other users, made harmless for a terminal."""

from __future__ import annotations

_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_CONTROLS[0x7F] = "\u2421"
_CONTROLS |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
# These change the direction of a line or begin a new one, so that it reads as something else.
_UNSEEN = (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_CONTROLS |= {code: f"\\u{code:04x}" for code in _UNSEEN}


def printable(text: str) -> str:
    """Return the text with control characters shown, as `␛` or `\\x9b`; newlines and tabs stay."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)
