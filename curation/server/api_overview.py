"""Routes of the overview besides `api.py`: where the project is, with the stage that resolves each notice."""

from __future__ import annotations

from fastapi import APIRouter

from curation.server.api import Serving, needs
from curation.views.progress import ProjectProgress, load_progress
from curation.workspace import open_workspace

router = APIRouter(prefix="/api")


@router.get("/progress", dependencies=[needs("viewer")])
def progress(service: Serving) -> ProjectProgress:
    """Return funnel, answers by person, the queue, coverage of the plan, and what to do next."""
    with open_workspace(service.folder) as workspace:
        return load_progress(workspace)
