"""Find PII and secrets in texts, each with its position. The value itself is never returned, only a mask.

Candidates are confirmed by maintained libraries: phone numbers by phonenumbers (Google's libphonenumber), card numbers, IBANs and
US social security numbers by python-stdnum, secrets by detect-secrets and a list of provider prefixes. Names, postal addresses and
dates of birth are not found: that needs a model (Presidio needs spaCy and a download).
"""

from __future__ import annotations

import bisect
import ipaddress
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

# Long lines are read in overlapping pieces, so that no regular expression meets a line of megabytes.
_WINDOW, _OVERLAP = 4_000, 300

EMAIL = re.compile(r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
CARD = re.compile(r"(?<![\w.-])(?:[2-6]\d{13,18}|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}|3\d{3}([ -])\d{6}\2\d{5})(?![\w-])")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
# Seven digits with little between them, the least a phone number needs. Checked first because the library is slow.
DIALLED = re.compile(r"\+?\d(?:[ ().+/\u2010-\u2015-]{0,3}\d){6}")
# The notation of phone numbers: with + and a country code, or in groups. Ten consecutive digits, or digits in a sum, are a number.
WRITTEN = re.compile(r"\+\d|[^/+]*\d[ ().\u2010-\u2015-]+\d[^/]*$")
# Placeholders in documentation, which are no secrets.
PLACEHOLDER = re.compile(r"your|example|change_?me|placeholder|x{3}|[<>{}$*]", re.IGNORECASE)
# Domains that RFC 2606 reserves for examples; an address there belongs to nobody.
RESERVED = re.compile(r"(?:^|[@.])(?:example\.(?:com|org|net)|[\w-]+\.(?:example|test|invalid|localhost))$", re.IGNORECASE)
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:.{0,20000}?-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----|.{0,200})", re.DOTALL
)
_SHORTEST_SECRET = 6
# Words without which the keyword detector of detect-secrets, the slowest one, finds nothing.
KEY_WORDS = ("pass", "pwd", "key", "secret", "token", "contrase")
# A line without a match holds no secret: all but passwords in URLs and the tokens of Slack and Artifactory are 16 characters or more.
MAY_HOLD_SECRET = re.compile(r"\S{16}|://|xox|AKC|AP[\dA-F]|pass|pwd|key|secret|token|contrase", re.IGNORECASE)
# Of two overlapping findings the more serious one is kept.
GRAVITY = ("secret", "iban", "card number", "social security number", "email", "ip address", "phone number")


class Found(NamedTuple):
    """PII or a secret in one text."""

    start: int
    end: int
    kind: str
    masked: str
    found_by: str


def find_pii(texts: Sequence[str] | pa.Array, *, region: str | None = "US") -> pa.Table:
    """Find PII and secrets.

    Nothing leaves the machine: the detectors' online verification is not used. Time grows with the characters.

    Args:
        texts: the texts.
        region: country (ISO 3166) whose phone numbers need no country code; None finds numbers with + only.

    Returns:
        One line per finding: row, kind, start, end (in characters), masked, found_by.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    found = [(row, *one) for row, text in enumerate(plain) for one in spans_of(text, region=region)]
    columns = list(zip(*found, strict=True)) or [()] * 6
    names = {"row": pa.int64(), "start": pa.int64(), "end": pa.int64(), "kind": pa.string(), "masked": pa.string(), "found_by": pa.string()}
    return pa.table({name: pa.array(column, kind) for (name, kind), column in zip(names.items(), columns, strict=True)})


def mask_pii(text: str, *, region: str | None = "US") -> str:
    """Return the text with every value that `find_pii` finds replaced by its mask."""
    return replace_spans(text, spans_of(text, region=region))


def replace_spans(text: str, spans: Sequence[Found]) -> str:
    """Return the text with these spans, which do not overlap, replaced by their masks."""
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], span.masked]
        at = span.end
    return "".join([*parts, text[at:]])


def spans_of(text: str, *, region: str | None) -> list[Found]:
    """Return the findings in one text, in order and without overlaps (see `GRAVITY`)."""
    kept: list[Found] = []
    every = {found for offset, piece in _pieces(text) for found in _find(piece, offset, region)}
    # A private key spans lines, so it is searched in the whole text.
    if "PRIVATE KEY" in text:
        every |= {Found(*match.span(), "secret: Private Key", "-----BEGIN ***", "pattern") for match in PRIVATE_KEY.finditer(text)}
    # The gravest kind first, then the longest: of overlapping findings the one that masks more is kept.
    for found in sorted(every, key=lambda f: (GRAVITY.index(f.kind.partition(":")[0]), f.start - f.end, f)):
        place = bisect.bisect(kept, found)
        before, after = kept[max(0, place - 1) : place], kept[place : place + 1]
        if all(found.end <= other.start or found.start >= other.end for other in (*before, *after)):
            kept.insert(place, found)
    return kept


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines with their offsets; a long line in overlapping windows."""
    at = 0
    for line in text.splitlines(keepends=True):
        for start in range(0, max(1, len(line) - _OVERLAP), _WINDOW - _OVERLAP):
            yield at + start, line[start : start + _WINDOW]
        at += len(line)


def _find(text: str, offset: int, region: str | None) -> Iterator[Found]:
    if any(c.isdigit() for c in text):
        yield from _numbers(text, offset, region)
    if "@" in text:
        for match in EMAIL.finditer(text):
            if not RESERVED.search(match[0]):
                name, _, domain = match[0].partition("@")
                yield Found(offset + match.start(), offset + match.end(), "email", f"{name[0]}***@{domain[0]}***", "pattern")
    for start, end, kind, found_by in _secrets(text):
        shown = text[start : start + 4] if end - start > 12 else ""
        yield Found(offset + start, offset + end, f"secret: {kind}", f"{shown}***", found_by)


def _numbers(text: str, offset: int, region: str | None) -> Iterator[Found]:
    from phonenumbers import PhoneNumberMatcher
    from stdnum import iban, luhn
    from stdnum.us import ssn

    for pattern, kind, is_valid in (
        (CARD, "card number", lambda v: luhn.is_valid(re.sub(r"[ -]", "", v))),
        (IBAN, "iban", iban.is_valid),
        (SSN, "social security number", ssn.is_valid),
    ):
        for match in pattern.finditer(text):
            if is_valid(match[0]):
                yield Found(offset + match.start(), offset + match.end(), kind, f"***{match[0][-2:]}", "python-stdnum")
    for match in ADDRESS.finditer(text):
        if _is_public(match[0]):
            yield Found(offset + match.start(), offset + match.end(), "ip address", f"{match[0].partition('.')[0]}.***", "ipaddress")
    if DIALLED.search(text):
        for phone in PhoneNumberMatcher(text, region):
            if not WRITTEN.match(phone.raw_string):
                continue
            yield Found(offset + phone.start, offset + phone.end, "phone number", f"***{phone.raw_string[-2:]}", "phonenumbers")


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # 999.1.2.3, or leading zeros
        return False


def _secrets(text: str) -> Iterator[tuple[int, int, str, str]]:
    if not MAY_HOLD_SECRET.search(text):
        return
    for name, pattern in _listed():
        for match in pattern.finditer(text):
            yield *match.span(), name, "list of prefixes"
    low = text.lower()
    from detect_secrets.plugins.base import RegexBasedDetector

    for detector in _detectors():
        name = detector.secret_type
        # Detectors that are only a list of expressions are searched here, which keeps the position of each match.
        if type(detector).analyze_string is RegexBasedDetector.analyze_string:
            spans = [_secret_span(match) for pattern in detector.denylist for match in pattern.finditer(text)]
        elif any(word in low for word in KEY_WORDS) or name == "JSON Web Token":
            spans = [
                match.span()
                for value in detector.analyze_string(text)
                for match in re.finditer(re.escape(value), text)
                if not PLACEHOLDER.search(value)
            ]
        else:
            spans = []
        yield from ((start, end, name, "detect-secrets") for start, end in spans if end - start >= _SHORTEST_SECRET)


def _secret_span(match: re.Match[str]) -> tuple[int, int]:
    """Return the span of the group that holds the secret (a password in a URL), else of the match: a group may hold only a prefix."""
    spans = [match.span(n) for n in range(1, (match.re.groups or 0) + 1)]
    longest = max(spans, key=lambda span: span[1] - span[0], default=match.span())
    return longest if longest[1] - longest[0] >= _SHORTEST_SECRET else match.span()


@cache
def _listed() -> list[tuple[str, re.Pattern[str]]]:
    listed = yaml.safe_load(Path(__file__).with_name("secrets.yaml").read_text(encoding="utf-8"))
    return [(entry["name"], re.compile(rf"(?<![\w-])(?:{entry['pattern']})(?![\w-])")) for entry in listed]


@cache
def _detectors() -> list[Any]:
    """Return all detectors of detect-secrets but the two entropy detectors: on answers in prose their 1,263 findings held no secret."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    kinds = get_mapping_from_secret_type_to_class()
    return [kinds[name]() for name in sorted(kinds) if "Entropy" not in name and name != "Private Key"]
