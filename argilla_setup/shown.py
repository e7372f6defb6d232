"""Text as the command lines may show it: no character acts on the terminal, and no address gives a password away.

Rows, file names, answers of servers and error messages are other people's text. A terminal obeys escape sequences in it: they
recolor, overwrite and delete what was printed before, set the window's title, and on some terminals type. Such characters are
shown as Python writes them (`\\x1b`, `\\u202e`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Controls but tab and newline, the marks that turn the direction of text, invisible spaces and tags, and lone surrogates.
FORMATS = "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff"
_ACTS = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{FORMATS}]")
_ACTS_OR_BREAKS = re.compile(f"[\x00-\x08\x0a-\x1f\x7f-\x9f{FORMATS}]")
# User and password of an address. A password may hold any sign but spaces and quotes; lengths are bounded, so a scan stays linear.
_USERINFO = re.compile(
    r"""(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{1,20}://)"""
    r"""(?:[^\s'"<>@/:]{0,256}:(?!\d{1,5}[/?#])[^\s'"<>]{0,512}@|[^\s'"<>/?#@]{0,512}@)"""
)
_NAMES = "[a-z0-9_.-]{0,40}(?:password|passwd|pwd|token|secret|api[_-]?key|access[_-]?key|signature)|key|auth|sig"
_IN_QUERY = re.compile(rf"""([?&](?:{_NAMES})=)[^&\s'"<>#]+""", re.IGNORECASE)
_STARTS_BLOCK = re.compile(r"^(\s*)(?:([>=]|#{1,6}(?=\s|$)|[+-](?=[\s-]|$))|(\d{1,9})([.)])(?=\s|$))")


def visible(text: str, *, lines: bool = True) -> str:
    """Return the text with every character that would act on a terminal written out.

    Args:
        lines: keep line breaks; without, they are written out too, so that a text cannot pass for several lines of output.
    """
    return (_ACTS if lines else _ACTS_OR_BREAKS).sub(lambda found: _written(found[0]), text)


def mask_secrets(text: str) -> str:
    """Return the text with the user and password of every address, and secrets in its query, replaced by ***."""
    return _IN_QUERY.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def plain_markdown(text: object) -> str:
    """Return one sentence or table cell of Markdown that shows the text as it is: no HTML, link, emphasis, heading or line break."""
    line = visible(" ".join(str(text).split()), lines=False)
    line = re.sub(r"([\\`*_\[\]|~!])", r"\\\1", line)  # the backslash too: one in the text would free what follows it
    line = _STARTS_BLOCK.sub(lambda found: found[1] + (f"\\{found[2]}" if found[2] else f"{found[3]}\\{found[4]}"), line)
    return line.replace("&", "&amp;").replace("<", "&lt;")


def mask_values(value: Any) -> Any:
    """Return plain values (mappings, lists, texts) with the secrets of all their texts masked."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, Mapping):
        return {name: mask_values(inner) for name, inner in value.items()}
    return [mask_values(inner) for inner in value] if isinstance(value, list | tuple) else value


def _written(character: str) -> str:
    known = {"\n": "\\n", "\r": "\\r"}
    code = ord(character)
    return known.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
