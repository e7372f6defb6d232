"""The decisions on many rows as columns: of a million rows a few hundred are decided differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

import numpy as np

from curation.decide import Decision
from curation.store.rows import Numbers


class Decisions(Sequence[Decision]):
    """The decisions on many rows, in order of kind and seq. Rows that are decided alike share one."""

    def __init__(self, seqs: Numbers, codes: Numbers, few: Sequence[Decision]) -> None:
        """Hold decisions.

        Args:
            seqs: of the rows.
            codes: for each row the place of its decision.
            few: the decisions, of any seq.
        """
        self.seqs = seqs
        self.codes = codes
        self.few = few

    @classmethod
    def joined(cls, parts: Sequence[Decisions]) -> Decisions:
        """Return the decisions of all parts."""
        starts = np.cumsum([0, *(len(part.few) for part in parts)]).tolist()
        codes = [part.codes + start for part, start in zip(parts, starts, strict=False)]
        return cls(np.concatenate([part.seqs for part in parts]), np.concatenate(codes), [one for part in parts for one in part.few])

    def changed(self, changes: Mapping[int, Decision]) -> Decisions:
        """Return the decisions with others for some rows, by place."""
        if not changes:
            return self
        codes = self.codes.copy()
        codes[list(changes)] = np.arange(len(changes)) + len(self.few)
        return Decisions(self.seqs, codes, [*self.few, *changes.values()])

    def better_of_approved(self, seqs: Numbers) -> Numbers:
        """Return of each of some rows the index of the better response; -1 where it has none, -2 where the row is not approved."""
        order = np.argsort(self.seqs, kind="stable")
        places = order[np.searchsorted(self.seqs, seqs, sorter=order)]
        said = [-2 if one.verdict != "approved" else -1 if one.better is None else one.better for one in self.few]
        return np.array(said, np.int64)[self.codes[places]]

    def __len__(self) -> int:
        return len(self.seqs)

    @overload
    def __getitem__(self, place: int) -> Decision: ...
    @overload
    def __getitem__(self, place: slice) -> Decisions: ...
    def __getitem__(self, place: int | slice) -> Decision | Decisions:
        if isinstance(place, slice):
            return Decisions(self.seqs[place], self.codes[place], self.few)
        return Decision(self.seqs.item(place), *self.few[self.codes.item(place)][1:])

    def __iter__(self) -> Iterator[Decision]:
        few = self.few
        return (Decision(seq, *few[code][1:]) for seq, code in zip(self.seqs.tolist(), self.codes.tolist(), strict=True))
