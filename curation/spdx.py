"""License names: SPDX expressions, checked against the list in `packaging`."""

from __future__ import annotations

import difflib
import re

from curation.errors import ProjectError

USUAL = (
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0",
    "GFDL-1.3-only", "GPL-3.0-only", "ISC", "MIT", "ODC-By-1.0", "ODbL-1.0", "OGL-UK-3.0", "PDDL-1.0", "Unlicense", "WTFPL",
)  # fmt: skip
"""Usual licenses of data sets, for suggestions."""
_LONGEST = 500


def read_license(text: str, *, where: str = "--license") -> str:
    """Return a license as a canonical SPDX expression; "unknown" is returned unchanged.

    Args:
        text: an SPDX identifier or expression in any case ("mit", "Apache-2.0 OR MIT"), or LicenseRef-NAME for terms without one.
        where: name of the option or key, for the error.

    Raises:
        ProjectError: the text is not an SPDX expression; the error suggests similar identifiers.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if text.strip().lower() == "unknown":
        return "unknown"
    try:
        if len(text) > _LONGEST:
            raise InvalidLicenseExpression
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        near = _similar(text)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        step = f"{hint}Use an identifier of spdx.org/licenses, or LicenseRef-NAME for terms of your own"
        raise ProjectError(f"{where} {shown!r}", "is not an SPDX license", step) from None


def _similar(text: str) -> list[str]:
    """Return up to three usual identifiers similar to TEXT, the most similar first."""
    wanted = re.sub(r"[^a-z0-9]+", "-", text[:_LONGEST].lower()).strip("-")
    if not wanted:
        return []
    lower = {name.lower(): name for name in USUAL}
    first = [lower[name] for name in difflib.get_close_matches(wanted, lower, n=3, cutoff=0.75)]
    longer = [name for low, name in lower.items() if low.startswith(wanted) or wanted.startswith(low)]
    return list(dict.fromkeys([*first, *longer]))[:3]
