"""What a text says, apart from how it is written: for code its purpose in words and the values in it.

A function that is rewritten in another language under other names keeps what its documentation says and often its
example values; its syntax says little. Prose is taken as it is. No parser: a fragment, or two languages in one text, must do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

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
_KEYWORDS = {"main", "if", "for", "while", "switch", "return"}
_NUMERALS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "dozen": "12", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50",
    "sixty": "60", "hundred": "100", "twice": "2", "double": "2", "thrice": "3", "triple": "3", "half": "1/2", "quarter": "1/4",
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
    return Counter(_numbers(text, spelt=not code)) + Counter(_strings(text) if code else ())


def _is_said(line: str) -> bool:
    return len(re.findall(r"[^\W\d_]{2,}", line)) >= 3 and not _EXAMPLE.search(line)


def _numbers(text: str, *, spelt: bool) -> Iterator[str]:
    for found in _NUMBER.findall(text):
        digits = found.replace(",", "").lstrip("-")
        yield f"{float(digits):g}" if digits.count(".") <= 1 and len(digits) < 300 else digits
    if spelt:
        yield from (_NUMERALS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _NUMERALS)


def _strings(text: str) -> Iterator[str]:
    for groups in _QUOTED.findall(text):
        if found := "".join(groups).strip():
            yield f"'{found.lower()}'"
