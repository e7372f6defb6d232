"""Regular expressions of a project, searched with a time limit.

A pattern such as `(a|aa)+$` takes time that doubles with every character. The package `regex` reads the syntax of `re` and can stop;
`re` cannot.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NoReturn

from curation.errors import ProjectError, RowError

SECONDS = 1.0
"""How long one search may take."""
MOST_TIMEOUTS = 5
"""Searches of one pattern that may take too long, as failures of their rows; after that the pattern is refused."""


class Pattern:
    """A compiled pattern; `groups` are its groups' number, `names` those that have a name."""

    def __init__(self, text: str, flags: int) -> None:
        import regex

        self.text, self.timeouts = text, 0
        self._compiled = regex.compile(text, flags)
        self.groups: int = self._compiled.groups
        self.names: tuple[str, ...] = tuple(self._compiled.groupindex)

    def search(self, text: str) -> Any:
        """Return the first match as `re.Match` has it, or None.

        Raises:
            RowError: the search took too long on this text.
            ProjectError: it did so on several texts.
        """
        try:
            return self._compiled.search(text, timeout=SECONDS)
        except TimeoutError:
            self._count_timeout(text)

    def find_last(self, text: str) -> str | None:
        """Return the last match, of a pattern with groups its first group; None where there is none.

        Raises:
            RowError: the search took too long on this text.
            ProjectError: it did so on several texts.
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
    """Compile a pattern; the same text gives the same object, which counts its timeouts.

    Args:
        multiline: `^` and `$` match at each line, not only at the ends of the text.
        where: what the error names.

    Raises:
        ProjectError: it is no regular expression.
    """
    import regex

    try:
        return Pattern(text, regex.MULTILINE if multiline else 0)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise ProjectError(where, f"{text[:200]!r} is not a regular expression ({error})", "correct the pattern") from error
