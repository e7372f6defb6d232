"""Who may do what over HTTP: tokens in files of the project, sessions for the page, and protection against forged requests.

A token gives a role, and a token of one person also a name. Scripts send it as `Authorization: Bearer TOKEN`. The page exchanges it, or a
code that works once, for a session: a cookie that scripts cannot read and that other sites' requests do not carry. A request that changes
something must also send the session's CSRF token in a header. Sessions end with the process.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from curation.errors import ProjectError
from curation.snapshot.write import replace_file

Role = Literal["viewer", "curator", "owner"]
ROLES: tuple[Role, ...] = ("viewer", "curator", "owner")
"""From the least to the most rights: a viewer reads, a curator decides on rows, an owner also runs stages."""
TOKEN_FILES: dict[Role, str] = {"owner": "serve.token", "curator": "serve.curator.token", "viewer": "serve.viewer.token"}
PERSONAL_FILE = re.compile(r"serve\.(viewer|curator|owner)\.([A-Za-z0-9][A-Za-z0-9_-]{0,39})\.token")
"""Token of one person, such as serve.curator.ana.token."""
SHORTEST_TOKEN = 32
SESSION_S = 12 * 3600.0
"""Longest life of a session."""
CODE_S = 300.0
"""Life of the code in the link that `curate serve` prints."""
TRIES, TRIES_S = 10, 60.0
"""Failed log-ins of one address within so many seconds, after which further ones are refused unread."""
MOST_ADDRESSES = 10_000
"""Addresses whose failures are remembered; the one that failed longest ago is forgotten."""


@dataclass(frozen=True)
class Session:
    """A log-in of the page, or a request with a token."""

    role: Role
    csrf: str
    ends: float
    name: str = ""
    """Of the person, or the role where the token is a shared one."""
    id: str = ""
    """Short name for the audit log; it opens nothing."""
    way: Literal["page", "API"] = "page"

    @property
    def actor(self) -> str:
        """The name that is stored with changes, such as "ana (page)"."""
        return f"{self.name or self.role} ({self.way})"


def make_session(role: Role, name: str, cookie: str) -> Session:
    """Return a new session.

    Args:
        role: of the token.
        name: of the token's person; empty for a shared token.
        cookie: that opens it.
    """
    return Session(role, secrets.token_urlsafe(32), time.monotonic() + SESSION_S, name, _short(cookie))


@dataclass
class Access:
    """Tokens of a project and the sessions that they opened."""

    tokens: dict[Role, str]
    people: dict[str, tuple[Role, str]] = field(default_factory=dict)
    """Name of a person to role and token."""
    sessions: dict[str, Session] = field(default_factory=dict)
    codes: dict[str, float] = field(default_factory=dict)
    """One-time code to the time when it ends."""
    failures: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    """Address to the times of its failed log-ins."""

    def role_of(self, token: str) -> Role | None:
        """Return the role that a token gives, or None."""
        found = self.holder_of(token)
        return found[0] if found else None

    def holder_of(self, token: str) -> tuple[Role, str] | None:
        """Return role and name of a token's holder."""
        known = [*((role, "", one) for role, one in self.tokens.items()), *((role, name, one) for name, (role, one) in self.people.items())]
        # Every token is compared, so that the time says nothing.
        found = [(role, name) for role, name, one in known if hmac.compare_digest(token.encode(), one.encode())]
        return found[0] if found else None

    def make_code(self) -> str:
        """Return a code that logs the owner in once."""
        code = secrets.token_urlsafe(24)
        self.codes[code] = time.monotonic() + CODE_S
        return code

    def log_in(self, given: str, address: str = "") -> tuple[str, Session] | None:
        """Open a session for a token or a one-time code; None if it is neither.

        Args:
            given: the token or the code.
            address: of the client, whose failures are counted.
        """
        now = time.monotonic()
        found: tuple[Role, str] | None = ("owner", "") if self.codes.pop(given, 0.0) > now else self.holder_of(given)
        if found is None:
            place = _network(address)
            self.failures.setdefault(place, deque(maxlen=TRIES)).append(now)
            self.failures.move_to_end(place)
            while len(self.failures) > MOST_ADDRESSES:
                self.failures.popitem(last=False)
            return None
        self.sessions = {name: session for name, session in self.sessions.items() if session.ends > now}
        cookie = secrets.token_urlsafe(32)
        session = make_session(*found, cookie)
        self.sessions[cookie] = session
        return cookie, session

    def is_blocked(self, given: str = "", address: str = "") -> bool:
        """Return whether a log-in is refused unread, because too many of its address failed lately. A valid link is never refused."""
        if self.codes.get(given, 0.0) > time.monotonic():
            return False
        failed = self.failures.get(_network(address))
        return failed is not None and len(failed) >= TRIES and failed[0] > time.monotonic() - TRIES_S

    def session(self, name: str | None) -> Session | None:
        """Return the open session of a cookie."""
        found = self.sessions.get(name or "")
        return found if found and found.ends > time.monotonic() else None

    def identify(self, authorization: str, cookies: Mapping[str, str], cookie: str) -> Session | None:
        """Return the session of a request by its bearer token, or else by its cookie.

        Args:
            authorization: the header.
            cookies: of the request.
            cookie: name of the session's cookie.
        """
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "bearer" and (found := self.holder_of(given.strip())):
            return Session(found[0], "", 0.0, found[1], _short(given.strip()), "API")
        return self.session(cookies.get(cookie))


def _short(secret: str) -> str:
    return hashlib.sha256(f"audit:{secret}".encode()).hexdigest()[:8]


def _network(address: str) -> str:
    """Return the address whose failures count together: of IPv6 the network of 64 bits, which one client may use freely."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


def load_access(folder: Path) -> Access:
    """Read the tokens of a project; create missing ones. A file serve.ROLE.NAME.token, which may be empty at first, is a person's token.

    Raises:
        ProjectError: a file cannot be written, or two files name one person.
    """
    people = dict[str, tuple[Role, str]]()
    for file in sorted(folder.glob("serve.*.*.token")):
        if found := PERSONAL_FILE.fullmatch(file.name):
            role: Role = next(role for role in ROLES if role == found[1])
            if found[2] in people:
                raise ProjectError(str(file), f"{found[2]} has a token of another role too", "delete one of the files and start again")
            people[found[2]] = (role, keep_token(folder, file.name))
    return Access({role: keep_token(folder, name) for role, name in TOKEN_FILES.items()}, people)


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
