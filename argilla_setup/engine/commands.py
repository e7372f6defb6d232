"""What the server's environment is asked to do: prepare the database, serve, work, rebuild the index."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from argilla_server.contexts import accounts
from argilla_server.database import ALEMBIC_CONFIG_FILE, AsyncSessionLocal, async_engine
from argilla_server.models import User, UserRole, WorkspaceUser
from argilla_server.search_engine import SearchEngine
from argilla_server.settings import settings
from sqlalchemy import delete

from argilla_setup.engine import adapter
from argilla_setup.engine.consistency import is_damage
from argilla_setup.engine.index import Contradiction
from argilla_setup.engine.page import PageChanged


def prepare() -> None:
    """Bring the database to the newest schema and see that the owner exists; safe to repeat."""
    import alembic.config

    if settings.database_is_sqlite:
        database = Path(settings.home_path) / "argilla.db"
        with contextlib.closing(sqlite3.connect(database)) as db:
            db.execute("PRAGMA journal_mode = WAL")  # kept in the file; readers and the writer no longer block each other
        database.chmod(0o600)
    alembic.config.main(argv=["-c", ALEMBIC_CONFIG_FILE, "upgrade", "head"])
    asyncio.run(_create_owner())


def serve(*, host: str, port: int) -> None:
    """The web page and the API, over an index that is whole."""
    import uvicorn

    from argilla_setup.engine.app import make_app

    asyncio.run(_make_index_whole())
    try:
        app = make_app()
    except PageChanged as error:
        sys.exit(str(error))
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False, timeout_graceful_shutdown=5, log_config=_timed_logs())


def work() -> None:
    """Background jobs: statuses after a change of `min_submitted`, webhooks.

    One worker in this process, not argilla-server's pool: the pool starts fresh interpreters on some systems, which would not
    know our search engine.
    """
    from argilla_server.jobs.queues import DEFAULT_QUEUE, HIGH_QUEUE, REDIS_CONNECTION
    from rq import Worker

    Worker([HIGH_QUEUE, DEFAULT_QUEUE], connection=REDIS_CONNECTION).work(logging_level="WARNING")


async def reindex() -> None:
    """Build the index again from the database."""
    await _begin_anew_if_damaged(_reindex_everything)


async def _reindex_everything() -> None:
    from argilla_server.cli.search_engine.reindex import Reindexer

    async with SearchEngine.get_by_name(settings.search_engine) as engine, AsyncSessionLocal() as session:
        async for dataset in Reindexer.reindex_datasets(session, engine):
            async for records in Reindexer.reindex_dataset_records(session, engine, dataset):
                print(f"{dataset.name}: {len(records)} records", flush=True)


async def _make_index_whole() -> None:
    try:
        await _begin_anew_if_damaged(_mend_index)
    finally:
        await async_engine.dispose()  # its connections belong to this event loop; the web server has another


async def _begin_anew_if_damaged(mend: Callable[[], Awaitable[None]]) -> None:
    try:
        await mend()
    except (sqlite3.DatabaseError, Contradiction) as error:
        if isinstance(error, sqlite3.DatabaseError) and not is_damage(error):  # whole: in use, on a full disk, or not to be written
            raise
        # Everything in it can be made from the database; a damaged file must not keep the web server down.
        print(f"the index is damaged ({error}); building it anew from the database", flush=True)
        adapter.forget_index()
        await mend()


async def _mend_index() -> None:
    differing = await _find_differing()
    gaps = [name for name, datasets in differing.items() if datasets]
    if gaps:
        print(f"the index and the database differ in {', '.join(gaps)}; building the index again", flush=True)
        await _reindex(set().union(*differing.values()))


def _timed_logs() -> dict[str, Any]:
    from uvicorn.config import LOGGING_CONFIG

    default = LOGGING_CONFIG["formatters"]["default"] | {"fmt": "%(asctime)s %(levelname)s %(message)s", "use_colors": False}
    return LOGGING_CONFIG | {"formatters": LOGGING_CONFIG["formatters"] | {"default": default}}


async def _find_differing() -> dict[str, set[str]]:
    from argilla_setup.engine.consistency import find_differing, find_differing_in

    if settings.search_engine != adapter.NAME:
        return {}
    if settings.database_is_sqlite:
        return find_differing(Path(settings.home_path) / "argilla.db", adapter.shared_index().path)
    async with AsyncSessionLocal() as session:
        return await find_differing_in(session, adapter.shared_index().path)


async def _reindex(datasets: set[str]) -> None:
    """Build the parts of the index anew that belong to these datasets; those that the database no longer has are forgotten."""
    from argilla_server.cli.search_engine.reindex import Reindexer
    from argilla_server.models import Dataset

    async with SearchEngine.get_by_name(settings.search_engine) as engine, AsyncSessionLocal() as session:
        for number in map(UUID, sorted(datasets)):
            if await Dataset.get(session, number) is None:
                adapter.shared_index().delete_dataset(str(number))
                continue
            dataset = await Reindexer.reindex_dataset(session, engine, number)
            count = 0
            async for records in Reindexer.reindex_dataset_records(session, engine, dataset):
                count += len(records)
            print(f"{dataset.name}: {count} records", flush=True)


async def _create_owner() -> None:
    async with AsyncSessionLocal() as session:
        name = os.environ["SEEDCORN_OWNER_USERNAME"]
        if await accounts.get_user_by_username(session, name) is None:
            await User.create(
                session,
                first_name=name,
                username=name,
                role=UserRole.owner,
                password_hash=accounts.hash_password(os.environ["SEEDCORN_OWNER_PASSWORD"]),
                api_key=os.environ["SEEDCORN_OWNER_API_KEY"],
            )


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
