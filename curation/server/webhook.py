"""Argilla's calls when somebody answers, so that the service pulls at once instead of at the next poll.

Argilla 2.4 and later signs its calls as https://www.standardwebhooks.com describes. A call only causes a pull: what it says is not used, so
a lost, repeated or late one changes nothing. Argilla's worker must run; without it polling remains.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request

from curation.config.project import load_project
from curation.review.changes import register_webhook
from curation.server.api import Serving
from curation.snapshot.write import replace_file
from curation.store.service import service_folder

PATH = "/api/answered"
LARGEST = 2 * 2**20
"""Bytes of a call: it quotes the record and the form."""
router = APIRouter(prefix="/api")


def prepare(folder: Path, address: str) -> None:
    """Register the service with the project's Argilla; the secret of the signatures is stored in PROJECT/serve/webhook.secret.

    Args:
        folder: of the project.
        address: of the project's page, as Argilla reaches it.

    Raises:
        UserError: Argilla cannot be reached, or has no webhooks.
    """
    file = _secret_file(folder)
    known = file.read_text().strip() if file.is_file() else None
    secret = register_webhook(folder, argilla=load_project(folder).review.argilla, url=f"{address.rstrip('/')}{PATH}", known=known)
    if secret != known:
        replace_file(file, f"{secret}\n".encode(), mode=0o600)


def _secret_file(folder: Path) -> Path:
    return service_folder(folder) / "webhook.secret"


@router.post("/answered", status_code=204, include_in_schema=False)
async def answered(request: Request, service: Serving) -> None:
    """Pull soon, because Argilla says that somebody has answered."""
    from standardwebhooks.webhooks import Webhook, WebhookVerificationError

    file = _secret_file(service.folder)
    if not file.is_file():
        raise HTTPException(404)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            raise HTTPException(413)
    try:
        Webhook(file.read_text().strip()).verify(bytes(body), dict(request.headers), json_parse=False)
    except (WebhookVerificationError, ValueError, OverflowError) as error:  # it splits and decodes the header unchecked
        raise HTTPException(401, "The signature is missing, wrong or too old.") from error
    service.poll.wake.set()
