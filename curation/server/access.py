"""Who may do what over HTTP: tokens in files of the project, sessions for the page, and protection against forged requests.

A token gives a role. Scripts send it as `Authorization: Bearer TOKEN`. The page exchanges it, or a code that works once, for a session: a
cookie that scripts cannot read and that other sites' requests do not carry. A request that changes something must also send the session's
CSRF token in a header. Sessions end with the process.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from curation.errors import ProjectError
from curation.snapshot.write import replace_file

Role = Literal["viewer", "curator", "owner"]
ROLES: tuple[Role, ...] = ("viewer", "curator", "owner")
"""From the least to the most rights: a viewer reads, a curator decides on rows, an owner also runs stages."""
TOKEN_FILES: dict[Role, str] = {"owner": "serve.token", "curator": "serve.curator.token", "viewer": "serve.viewer.token"}
SHORTEST_TOKEN = 32
SESSION_S = 12 * 3600.0
"""Longest life of a session."""
CODE_S = 300.0
"""Life of the code in the link that `curate serve` prints."""
TRIES, TRIES_S = 10, 60.0
"""Failed log-ins within so many seconds, after which further ones are refused unread."""


@dataclass(frozen=True)
class Session:
    """A log-in of the page."""

    role: Role
    csrf: str
    ends: float


def make_session(role: Role) -> Session:
    """Return a new session."""
    return Session(role, secrets.token_urlsafe(32), time.monotonic() + SESSION_S)


@dataclass
class Access:
    """Tokens of a project and the sessions that they opened."""

    tokens: dict[Role, str]
    sessions: dict[str, Session] = field(default_factory=dict)
    codes: dict[str, float] = field(default_factory=dict)
    """One-time code to the time when it ends."""
    failures: deque[float] = field(default_factory=deque)

    def role_of(self, token: str) -> Role | None:
        """Return the role that a token gives, or None."""
        found = [role for role, known in self.tokens.items() if hmac.compare_digest(token.encode(), known.encode())]
        return found[0] if found else None

    def make_code(self) -> str:
        """Return a code that logs the owner in once."""
        code = secrets.token_urlsafe(24)
        self.codes[code] = time.monotonic() + CODE_S
        return code

    def log_in(self, given: str) -> tuple[str, Session] | None:
        """Open a session for a token or a one-time code; None if it is neither."""
        now = time.monotonic()
        role = "owner" if self.codes.pop(given, 0.0) > now else self.role_of(given)
        if role is None:
            self.failures.append(now)
            return None
        self.sessions = {name: session for name, session in self.sessions.items() if session.ends > now}
        name, session = secrets.token_urlsafe(32), make_session(role)
        self.sessions[name] = session
        return name, session

    def is_blocked(self) -> bool:
        """Return whether too many log-ins have failed lately."""
        while self.failures and self.failures[0] < time.monotonic() - TRIES_S:
            self.failures.popleft()
        return len(self.failures) >= TRIES

    def session(self, name: str | None) -> Session | None:
        """Return the open session of a cookie."""
        found = self.sessions.get(name or "")
        return found if found and found.ends > time.monotonic() else None


def load_access(folder: Path) -> Access:
    """Read the tokens of a project; create missing ones.

    Raises:
        ProjectError: a file cannot be written.
    """
    return Access({role: keep_token(folder, name) for role, name in TOKEN_FILES.items()})


def keep_token(folder: Path, name: str = TOKEN_FILES["owner"]) -> str:
    """Return the token in FOLDER/NAME; create it, or replace one that is short or readable by others.

    Raises:
        ProjectError: the file cannot be written.
    """
    file = folder / name
    try:
        if file.is_file() and not file.is_symlink() and not file.stat().st_mode & 0o077:
            found = file.read_text(encoding="utf-8", errors="replace").strip()
            if len(found) >= SHORTEST_TOKEN and found.isascii():
                return found
        token = secrets.token_urlsafe(32)
        replace_file(file, f"{token}\n".encode(), mode=0o600)
    except OSError as error:
        raise ProjectError(
            str(file), f"cannot be written ({error.strerror})", "check the permissions of the folder and run again"
        ) from error
    return token
