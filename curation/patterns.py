"""Search a project's regular expressions with a time limit.

A pattern such as `(a|aa)+$` takes time that doubles with every character. The package `regex` has the syntax of `re` and a timeout,
which `re` has not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NoReturn

from curation.errors import ProjectError, RowError

# Time limit of one search.
SECONDS = 1.0
# Timeouts of one pattern that count as failures of their rows; after that the pattern is refused.
MOST_TIMEOUTS = 5


class Pattern:
    """A compiled pattern; `groups` is the number of groups, `names` are the named ones."""

    def __init__(self, text: str, flags: int) -> None:
        import regex

        self.text, self.timeouts = text, 0
        self._compiled = regex.compile(text, flags)
        self.groups: int = self._compiled.groups
        self.names: tuple[str, ...] = tuple(self._compiled.groupindex)

    def search(self, text: str) -> Any:
        """Return the first match (like `re.Match`), or None.

        Raises:
            RowError: the search timed out on this text.
            ProjectError: it timed out on several texts.
        """
        try:
            return self._compiled.search(text, timeout=SECONDS)
        except TimeoutError:
            self._count_timeout(text)

    def find_last(self, text: str) -> str | None:
        """Return the last match, or its first group if the pattern has groups; None without a match.

        Raises:
            RowError: the search timed out on this text.
            ProjectError: it timed out on several texts.
        """
        try:
            found = list(self._compiled.finditer(text, timeout=SECONDS))
        except TimeoutError:
            self._count_timeout(text)
        return str(found[-1][1 if self.groups else 0] or "") if found else None

    def _count_timeout(self, text: str) -> NoReturn:
        self.timeouts += 1
        fact = f"the pattern {self.text!r} takes more than {SECONDS:g} s on a text of {len(text):,} characters"
        if self.timeouts > MOST_TIMEOUTS:
            raise ProjectError("pattern", fact, "rewrite it without nested repetitions such as (a+)+")
        raise RowError("pattern", fact)


@lru_cache(maxsize=256)
def compile_pattern(text: str, *, multiline: bool = True, where: str = "pattern") -> Pattern:
    """Compile a pattern; the same text returns the same object, which counts its timeouts.

    Args:
        text: the pattern.
        multiline: `^` and `$` match at each line, not only at the ends of the text.
        where: subject of the error.

    Raises:
        ProjectError: the text is not a regular expression.
    """
    import regex

    try:
        return Pattern(text, regex.MULTILINE if multiline else 0)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise ProjectError(where, f"{text[:200]!r} is not a regular expression ({error})", "correct the pattern") from error
