"""New passwords and keys, set in Argilla's database.

Its HTTP interface cannot change a key, and when it deletes a person it deletes their answers.
"""

from __future__ import annotations

import os
import sys

from argilla_server.contexts import accounts
from argilla_server.database import AsyncSessionLocal
from argilla_server.models import UserRole, WorkspaceUser
from sqlalchemy import delete


async def set_credentials(name: str, *, lock_out: bool) -> None:
    """Give a person the password and the key in SEEDCORN_NEW_PASSWORD and SEEDCORN_NEW_API_KEY; prints nothing of them.

    Args:
        lock_out: also take them out of every workspace and make them an annotator. Their answers stay, under their name.
    """
    async with AsyncSessionLocal() as session:
        user = await accounts.get_user_by_username(session, name)
        if user is None:
            sys.exit(f"there is no user {name}")
        if lock_out:
            await session.execute(delete(WorkspaceUser).where(WorkspaceUser.user_id == user.id))
            user.role = UserRole.annotator
        user.password_hash = accounts.hash_password(os.environ["SEEDCORN_NEW_PASSWORD"])
        user.api_key = os.environ["SEEDCORN_NEW_API_KEY"]
        session.add(user)
        await session.commit()
    print(f"{name}: {'locked out' if lock_out else 'new password and key'}", flush=True)
