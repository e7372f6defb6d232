"""The stand-in as teacher, for requests about a row of the code table: clean rows in many wordings, and rows with a planted flaw."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from curation.simulation import vocabulary
from curation.simulation.code_table import Codes, Row
from curation.simulation.paraphrase import Reworder, fill_frame, sentence_case, slip
from curation.simulation.request_parser import Asked, answer_fields

_WOMEN = re.compile(
    r"uter|vagin|ovar|vulv|cervix|menstru|menopaus|pregnan|puerper|labor|delivery|maternal|abortion|gestation|menorrh|lactat", re.I
)
_MEN = re.compile(r"prostat|testi|penis|penile|scrot|sperm|balan", re.I)
_NEWBORN = re.compile(r"newborn|neonat|perinatal|prematur|immaturity|birth weight|fetus|fetal", re.I)
_OLD = re.compile(r"senile|age-related|menopaus|dementia|alzheimer", re.I)
_YOUNG = re.compile(r"pediatric|child|juvenile|adolescent|infant", re.I)


@dataclass(frozen=True)
class Written:
    """One example as the teacher gives it, and what is true about it."""

    fields: dict[str, str]
    source: dict[str, Any]
    flaw: str | None = None


@dataclass(frozen=True)
class Writer:
    """Writes about rows of a code table. What it writes depends on the seed and the request alone."""

    codes: Codes
    reworder: Reworder
    seed: int

    def instruction(self, asked: Asked, flaw: str | None) -> Written:
        """One instruction example with the flaw asked for, or with another where that one cannot be had (named in the result)."""
        random_ = random.Random(f"{self.seed}:{asked.sha}")
        row = asked.part("row")
        if flaw in ("exact_copy", "light_edit", "paraphrase"):
            if copied := self._copy_seed(asked, flaw, random_):
                return copied
            flaw = None
        if flaw in ("leak_verbatim", "leak_reworded"):
            return self._leak(asked, row, flaw, random_)
        if flaw == "off_brief":
            return self._off_brief(asked, row, random_)
        name = self._name(row, asked, random_)
        text = self._text(name, row, asked, random_)
        answer = self._wrong_answer(row, name, random_) if flaw == "wrong_code" else self.answer(row, name, random_)
        return Written(self._fields(asked, text, answer), {"code": row["code"], "name": name}, flaw)

    def pair(self, asked: Asked, flaw: str | None) -> Written:
        """One pair: the row's answer against a sibling's, of like length; with `wrong_sibling` the two change places."""
        random_ = random.Random(f"{self.seed}:{asked.sha}")
        row, siblings = asked.part("row"), asked.part("siblings", [])
        name = self._name(row, asked, random_)
        text = self._text(name, row, asked, random_)
        better = self.answer(row, name, random_)
        near = sorted(siblings, key=lambda other: abs(len(other["description"]) - len(row["description"])))[:2]
        sibling = random_.choice(near or [row])
        worse = min((self.answer(sibling, name, random_) for _ in range(8)), key=lambda a: abs(len(a) - len(better)) + (a == better) * 999)
        if flaw == "wrong_sibling":
            better, worse = worse, better
        source = {"code": row["code"], "name": name, "sibling": sibling["code"]}
        return Written({"input": text, "better": better, "worse": worse}, source, flaw)

    def answer(self, row: Row, name: str, random_: random.Random) -> str:
        """The four lines."""
        reason = _reason(name, random_)
        return f"Code: {row['code']}\nDescription: {row['description']}\nChapter: {row['chapter']}\nReason: {reason}"

    def _name(self, row: Row, asked: Asked, random_: random.Random) -> str:
        """A wording for the row from the names it shows; plainer or further from the official one as the difficulty says."""
        names = [row["description"], *(term for term in row.get("terms", ()) if not term.startswith("Conditions classifiable"))]
        name = _plain(random_.choice(names if len(names) < 2 or asked.number % 3 else names[1:]), random_)
        if asked.part("attributes", {}).get("difficulty") != "basic":
            name = self.reworder.soften(name, random_)
        return name

    def _text(self, name: str, row: Row, asked: Asked, random_: random.Random, *, exact: bool = False) -> str:
        """The user's text around a name, as the attributes ask; with `exact` the name itself is never abbreviated."""
        attributes = asked.part("attributes", {})
        words = " ".join(map(str, attributes.values()))
        persona = next((p for p in vocabulary.BARE if p in words), random_.choice(list(vocabulary.BARE)))
        values = {
            "name": sentence_case(name, self.codes),
            "Name": name,
            "who": self._who(row, name, random_),
            "place": random_.choice(vocabulary.PLACES),
        }
        if "note" in words:
            parts = [random_.choice(vocabulary.OPENERS[persona])] if random_.random() < 0.8 else []
            parts.append(random_.choice(vocabulary.STATEMENTS[persona]))
            parts += [random_.choice(vocabulary.DISTRACTORS)] if "advanced" in words else []
            parts += [random_.choice(vocabulary.CLOSERS[persona])] if random_.random() < 0.5 or len(parts) < 2 else []
            text = " ".join(fill_frame(part, values) for part in parts)
        else:
            text = fill_frame(random_.choice(vocabulary.BARE[persona]), values)
        return _abbreviated(text, keep=values["name"] if exact else "") if "abbreviated" in words else text

    def _who(self, row: Row, name: str, random_: random.Random) -> str:
        told = f"{name} {row.get('description', '')}"
        if _NEWBORN.search(told) or str(row.get("code", "")).startswith("P"):
            return random_.choice(("newborn girl", "newborn boy", f"{random_.randint(2, 20)}-day-old baby"))
        woman = bool(_WOMEN.search(told)) or str(row.get("code", "")).startswith("O") or (not _MEN.search(told) and random_.random() < 0.5)
        low, high = (66, 91) if _OLD.search(told) else (4, 15) if _YOUNG.search(told) else (23, 41) if _WOMEN.search(told) else (24, 83)
        age = random_.randint(low, high)
        if age < 16:
            return f"{age}-year-old {'girl' if woman else 'boy'}"
        return f"{age}-year-old {'woman' if woman else 'man'}"

    def _fields(self, asked: Asked, text: str, answer: str) -> dict[str, str]:
        return {"instruction": asked.standing or "Assign the ICD-10-CM code.", "input": text, "output": answer}

    def _copy_seed(self, asked: Asked, flaw: str, random_: random.Random) -> Written | None:
        """A seed example given back: as it is, with a slip of the hand, or in other words. Its own code stays."""
        seeds = [s for s in asked.part("worked_examples", []) if s.get("input") and s.get("output")]
        turns = random_.sample(seeds, len(seeds))
        if flaw == "light_edit":
            # A slip in a phrase of two words is no light edit, so the longest of the seeds shown is taken.
            turns.sort(key=lambda seed: len(seed["input"]), reverse=True)
        for seed in turns:
            text, output = seed["input"], seed["output"]
            code = answer_fields(output).get("code", "")
            if flaw == "light_edit":
                text = slip(text, random_)
            elif flaw == "paraphrase":
                reworded = self.reworder.reword(text, random_=random_, avoid=self.codes.names(code))
                if reworded is None:
                    continue
                text, output = reworded, f"{output.split('Reason:')[0]}Reason: {_reason(reworded, random_)}"
            fields = {"instruction": seed.get("instruction") or self._fields(asked, "", "")["instruction"], "input": text, "output": output}
            return Written(fields, {"code": code, "seed": seed["input"]}, flaw)
        return None

    def _leak(self, asked: Asked, row: Row, flaw: str, random_: random.Random) -> Written:
        """A name that the request does not show, remembered: as it stands, in a note, or in other words."""
        hidden = random_.choice(self.codes.hidden_names(row))
        said = hidden
        if flaw == "leak_reworded":
            reworded = self.reworder.reword(hidden, random_=random_, avoid=self.codes.names(row["code"]))
            said, flaw = (hidden, "leak_verbatim") if reworded is None else (reworded, flaw)
        text = said if random_.random() < 0.4 else self._text(said, row, asked, random_, exact=True)
        return Written(self._fields(asked, text, self.answer(row, said, random_)), {"code": row["code"], "phrase": hidden}, flaw)

    def _off_brief(self, asked: Asked, row: Row, random_: random.Random) -> Written:
        """An answer to something else, or the right matter in another form."""
        if random_.random() < 0.65:
            question, answer = random_.choice(vocabulary.OFF_BRIEF)
            return Written(self._fields(asked, question, answer), {"code": row["code"], "how": "another subject"}, "off_brief")
        name = self._name(row, asked, random_)
        answer = random_.choice(
            (
                f"Thanks for your question! {name} is quite common; please talk to your doctor about what to do next.",
                f"- This sounds like {sentence_case(name, self.codes)}.\n- I would look under {row['chapter']}.\n- Good luck with it!",
                f"You could use {row['code']}, although I am not sure. Let me know if you need a table of all the options.",
            )
        )
        text = self._text(name, row, asked, random_)
        return Written(self._fields(asked, text, answer), {"code": row["code"], "how": "another format"}, "off_brief")

    def _wrong_answer(self, row: Row, name: str, random_: random.Random) -> str:
        """Four well-formed lines that are wrong: another code, its category, a code that does not exist, another description."""
        siblings = self.codes.siblings(row["code"])
        other = random_.choice(siblings if siblings and random_.random() < 0.6 else self.codes.billable)
        parent = self.codes.rows.get(self.codes.rows.get(row["code"], row).get("parent", ""))
        invented = next(
            c for i in range(99) if (c := f"{row['code'][:3]}.{(int(row['code'][1:2]) + i * 7) % 10}{i}Q") not in self.codes.rows
        )
        wrong: list[Row] = [
            other,
            other,
            {**row, "code": invented},
            {**row, "description": other["description"]},
        ]
        if parent is not None:
            wrong.append({**row, "code": parent["code"], "description": parent["description"]})
        return self.answer(random_.choice(wrong), name, random_)


def _plain(name: str, random_: random.Random) -> str:
    """An official name as people write it: brackets, NOS and empty specifications are mostly left away."""
    name = re.sub(r"\s*\[[^\]]*\]", "", name)
    if random_.random() < 0.6:
        name = re.sub(r"\s*\([^)]*\)(?=\s|,|$)", "", name)
    if random_.random() < 0.7:
        name = re.sub(r",? (unspecified|not elsewhere classified|NOS|NEC)$", "", name)
    return re.sub(r"\s+", " ", name).strip(" ,")


def _reason(name: str, random_: random.Random) -> str:
    return random_.choice(vocabulary.REASONS).format(cite=_cite(name))


def _cite(name: str) -> str:
    """The words of a name that a reason quotes: at most five, and none left hanging."""
    words = name.split()
    kept = words if len(words) <= 5 else words[:5]
    while len(kept) > 1 and len(kept) < len(words) and kept[-1].lower().strip(",") in _HANGING:
        kept = kept[:-1]
    return " ".join(kept).rstrip(",;:")


_HANGING = frozenset(
    [
        "of",
        "with",
        "without",
        "due",
        "to",
        "in",
        "and",
        "or",
        "for",
        "by",
        "from",
        "following",
        "on",
        "after",
        "the",
        "a",
        "an",
        "other",
        "unspecified",
        "requiring",
        "through",
        "involving",
    ]
)


def _abbreviated(text: str, *, keep: str = "") -> str:
    before, kept, after = text.partition(keep) if keep else (text, "", "")
    for long, short in vocabulary.ABBREVIATIONS:
        before, after = (re.sub(rf"\b{long}\b", short, part) for part in (before, after))
    return before + kept + after
