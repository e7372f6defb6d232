"""What a text says, apart from how it is written: for code its purpose in words and the values in it.

A function that is rewritten in another language under other names keeps what its documentation says and often its
example values; its syntax says little. Prose is taken as it is. No parser: a fragment, or two languages in one text, must do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain

_FENCE = re.compile(r"```[^\n`]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_NOTE = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'|/\*(.*?)\*/|(?:#(?!include|define|if|endif|else)|//)([^\n]*)', re.DOTALL)
_STATEMENT = re.compile(
    r"(?m)^\s*(?:def |class |import |from \w+ import|return\b|function |const |let |var |#include|int |char |float |double |void |bool "
    r"|for\b[^\n]*[({:]|while\b[^\n]*[({:]|if\b[^\n]*[({:])|[;{}]\s*$"
)
_DEFINITION = re.compile(r"(?m)^\s*(?:def|function|async function|fn|func)\s+\w+\s*\(|^\s*#include\b")
_NAME = re.compile(
    r"(?m)^\s*(?:def|fn|func|function|async function)\s+(\w+)|^[ \t]*(?:[A-Za-z_][\w<>,]*[ \t*&]+){1,4}(\w+)\s*\([^;{}]*\)\s*\{"
    r"|(?:const|let|var)\s+(\w+)\s*=\s*(?:async\s*)?(?:function|\([^)\n]*\)\s*=>)"
)
_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_|(?<=[A-Z])(?=[A-Z][a-z])")
_EXAMPLE = re.compile(
    r"^\s*(?:>>>|\*?\s*(?:input|output|example|for\b.*==|sample|print|console|assert|returns?:))|==|=>|➞|->|\w\([^)\n]*\d", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
_QUOTED = re.compile(r"'([^'\n]{1,60})'|\"([^\"\n]{1,60})\"")
_DIGIT = re.compile(r"\d")
_ONLY_LETTERS = bytes(code if 97 <= code <= 122 else 32 for code in range(256))
_KEYWORDS = {"main", "if", "for", "while", "switch", "return"}
_NUMERALS = {
    b"zero": "0", b"one": "1", b"two": "2", b"three": "3", b"four": "4", b"five": "5", b"six": "6", b"seven": "7", b"eight": "8",
    b"nine": "9", b"ten": "10", b"eleven": "11", b"twelve": "12", b"dozen": "12", b"twenty": "20", b"thirty": "30", b"forty": "40",
    b"fifty": "50", b"sixty": "60", b"hundred": "100", b"twice": "2", b"double": "2", b"thrice": "3", b"triple": "3", b"half": "1/2",
    b"quarter": "1/4",
}  # fmt: skip
_LINES = 2_000


def is_code(text: str) -> bool:
    """Whether a text is source code or holds some."""
    if "```" in text or _DEFINITION.search(text):
        return True
    found = len(_STATEMENT.findall(text))
    return found >= 2 and found / max(1, sum(1 for line in text.splitlines() if line.strip())) >= 0.15


def plain(text: str) -> str:
    """The text with the words inside its identifiers apart, so that `hasClose` and `has_close` read alike."""
    return _JOINT.sub(" ", text)


def gist(text: str) -> str:
    """What code is for, in words: its function names and what its comments say, without examples. Prose is its own gist."""
    if not is_code(text):
        return text
    blocks = _FENCE.findall(text)
    code, outside = ("\n".join(blocks), _FENCE.sub("\n", text)) if blocks else (text, "")
    names = [name for groups in _NAME.findall(code) for name in groups if name and name not in _KEYWORDS]
    notes = "\n".join(re.sub(r'(?m)^[\s"*]+', "", part) for groups in _NOTE.findall(code) for part in groups if part)
    said = [line.strip() for line in f"{notes}\n{outside}".splitlines()[:_LINES] if _is_said(line)]
    found = ". ".join(dict.fromkeys(plain(name) for name in names))
    return "\n".join([f"{found}.", *said]) if names or said else text


def values(text: str) -> Counter[str]:
    """The numbers of a text however they are written, and the quoted strings of code."""
    code = is_code(text)
    return Counter(chain(_numbers(text, spelt=not code), _strings(text) if code else ()))


def _is_said(line: str) -> bool:
    return len(re.findall(r"[^\W\d_]{2,}", line)) >= 3 and not _EXAMPLE.search(line)


def _numbers(text: str, *, spelt: bool) -> Iterator[str]:
    for found in _NUMBER.findall(text) if _DIGIT.search(text) else ():
        digits = found.replace(",", "").lstrip("-")
        yield f"{float(digits):g}" if digits.count(".") <= 1 and len(digits) < 300 else digits
    if spelt:
        letters = text.lower().encode("ascii", "replace").translate(_ONLY_LETTERS)
        yield from (_NUMERALS[word] for word in letters.split() if word in _NUMERALS)


def _strings(text: str) -> Iterator[str]:
    for groups in _QUOTED.findall(text):
        if found := "".join(groups).strip():
            yield f"'{found.lower()}'"
