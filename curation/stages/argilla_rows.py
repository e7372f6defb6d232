"""Take rows out of Argilla that must not be there any more; `withdraw` and `erase` share it."""

from __future__ import annotations

from collections.abc import Collection

from curation import review as argilla
from curation.errors import UserError
from curation.review import ArgillaReview, read_records, withdraw_records
from curation.store import records, reviews
from curation.store.reviews import Place
from curation.views.annotations import connect
from curation.workspace import Workspace


def leave_queue(workspace: Workspace, seqs: Collection[int]) -> tuple[int, list[str]]:
    """Take rows out of the queue of everybody who has not answered; answers are kept.

    Returns:
        The number of rows, and a sentence if Argilla was not reached.
    """
    return _in_each_dataset(workspace, seqs, delete=False)


def delete_rows(workspace: Workspace, seqs: Collection[int]) -> tuple[int, list[str]]:
    """Delete rows from every dataset they were sent to, with all responses.

    Returns:
        The number of rows, and a sentence if Argilla was not reached.
    """
    return _in_each_dataset(workspace, seqs, delete=True)


def _in_each_dataset(workspace: Workspace, seqs: Collection[int], *, delete: bool) -> tuple[int, list[str]]:
    places, done = reviews.places_of(workspace.db, seqs), set[int]()
    if not places:
        return 0, []
    try:
        review = connect(workspace)
        for place, held in places.items():
            if place.server != review.url:
                where = place.server or "the one of an earlier version"
                return len(done), [f"{len(held):,} rows were sent to another Argilla ({where}). Delete them there."]
            done |= _delete(workspace, review, place, held) if delete else _withdraw(workspace, review, place, held)
    except (UserError, OSError) as error:
        return len(done), [f"Argilla was not reached ({' '.join(str(error).split())}), so it still shows rows. Run the same command again."]
    return len(done), []


def _delete(workspace: Workspace, review: ArgillaReview, place: Place, held: Collection[int]) -> set[int]:
    ids = records.ids_of(workspace.db)
    seq_of = {ids[seq]: seq for seq in held}
    gone = {seq_of[identity] for identity in argilla.delete_records(review, place.dataset, seq_of.keys())}
    reviews.mark_state(workspace.db, place, held, "missing")
    return gone


def _withdraw(workspace: Workspace, review: ArgillaReview, place: Place, held: Collection[int]) -> set[int]:
    dataset = argilla.find_dataset(review, place.name)
    if dataset is None or dataset.id != place.dataset:  # closed, so nobody is asked
        return set()
    ids = records.ids_of(workspace.db)
    seq_of = {ids[seq]: seq for seq in held}
    there = [record for record in read_records(review, dataset, responses=True) if record.id in seq_of]
    done = set[int]()
    for record in withdraw_records(review, dataset, there, argilla.list_members(review)):
        reviews.mark_state(workspace.db, place, [seq_of[record.id]], "withdrawn")
        done.add(seq_of[record.id])
    return done
