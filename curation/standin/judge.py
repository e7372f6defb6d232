"""The stand-in as judge. It sees the request's text and the table, compares, and is sometimes wrong: it overlooks, is harsh for no reason,
and on a share of pairs prefers whichever answer stands first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from curation.standin.flaws import chance, fraction
from curation.standin.reading import Asked, answer_fields, format_fields
from curation.standin.tables import Codes, squeezed

OVERLOOKS, HARSH, FLIPS, MISTAKEN = 0.06, 0.003, 0.012, 0.004
"""How often the judge misses a defect, marks down a sound row, follows the order of a pair, or prefers the wrong answer in both orders."""
RECKLESS = re.compile(r"for good|so that you save|no need to|twice as much|never differs|only confuses|skip the", re.IGNORECASE)
"""Turns of phrase by which careless advice is told where there is no table to hold an answer against."""


@dataclass(frozen=True)
class Judge:
    """Scores examples and compares pairs by seed and request alone."""

    codes: Codes
    seed: int

    def scores(self, asked: Asked) -> dict[str, Any]:
        """A score and a rationale for each criterion of the rubric, and an overall score."""
        example = asked.part("example", {})
        prompt, answer = _prompt(example), str(example.get("answer", ""))
        truth = self._accuracy(prompt, answer, asked)
        form, said = self._form(answer, asked)
        if form < 3 and chance(OVERLOOKS, self.seed, asked.sha, "form"):
            form, said, truth = 5, "It looks as the brief asks.", (4, truth[1])
        scores = {name: self._criterion(name, truth, (form, said), answer, asked) for name in asked.part("rubric", {})}
        mean = sum(s["score"] for s in scores.values()) / max(1, len(scores))
        overall = round(mean) if not chance(0.04, self.seed, asked.sha, "overall") else 5 if mean < 3 else 2
        more = {"difficulty": self._difficulty(prompt, asked)} if "difficulty" in (asked.schema or {}).get("properties", {}) else {}
        return {"scores": scores, "overall": min(5, max(1, overall)), **more}

    def _difficulty(self, prompt: str, asked: Asked) -> int:
        """1 to 5: longer prompts are taken for harder ones, with some noise; no opinion worth anything."""
        return min(5, max(1, round(len(prompt.split()) / 8 + 2.5 * fraction(self.seed, asked.sha, "difficulty"))))

    def choice(self, asked: Asked) -> dict[str, str]:
        """Which of two answers is better."""
        prompt = "\n".join(t.get("content", "") for t in asked.part("prompt", []) if t.get("role") == "user")
        a, b = str(asked.part("answer_a", "")), str(asked.part("answer_b", ""))
        both = sorted((a, b))
        if chance(FLIPS, self.seed, prompt, *both, "flips"):
            return {"rationale": "The first answer reads more convincingly.", "winner": "A"}
        worth = {text: self._accuracy(prompt, text, asked, noisy=False)[0] + min(2, len(answer_fields(text)) / 2) for text in both}
        if worth[both[0]] == worth[both[1]]:
            worth[both[int(chance(0.5, self.seed, prompt, *both))]] += 0.1
        winner = max(both, key=lambda text: worth[text])
        if chance(MISTAKEN, self.seed, prompt, *both, "mistaken"):
            winner = min(both, key=lambda text: worth[text])
        letter = "A" if winner == a else "B"
        code = answer_fields(winner).get("code")
        return {
            "rationale": f"Answer {letter} {f'gives {code}, which fits the wording' if code else 'answers the question better'}.",
            "winner": letter,
        }

    def _criterion(self, name: str, truth: tuple[int, str], form: tuple[int, str], answer: str, asked: Asked) -> dict[str, Any]:
        """One criterion, told apart by its name: what is true, what fits the form, and the rest from both."""
        if re.search(r"accura|correct|true|fact", name):
            score, why = truth
        elif re.search(r"brief|format|follow|fit", name):
            score, why = form
        elif re.search(r"clar|style|read|fluen", name):
            score = 5 if len(answer) < 600 and form[0] > 2 else 3
            why = "It is short and easy to read." if score == 5 else "It does not read like the answers asked for."
        else:
            score = min(truth[0], form[0]) if min(truth[0], form[0]) > 2 else min(2, truth[0])
            why = "A learner gains from it." if score > 3 else "It would teach something wrong."
        noise = fraction(self.seed, asked.sha, name)
        score += (noise > 0.96) - (noise < 0.22)
        if chance(HARSH, self.seed, asked.sha, "harsh"):
            score -= 2
        return {"rationale": why, "score": min(5, max(1, score))}

    def _accuracy(self, prompt: str, answer: str, asked: Asked, *, noisy: bool = True) -> tuple[int, str]:
        """1 to 5 for what is true, by the reference and the table."""
        fields, reference = answer_fields(answer), asked.part("reference") or {}
        if noisy and chance(OVERLOOKS, self.seed, asked.sha, "truth"):
            return 5, "Everything stated seems right."
        code = fields.get("code")
        if code is None:
            return (
                (1, "It names no code.")
                if reference.get("code") or "code" in format_fields(asked.output_format)
                else self._open(prompt, answer)
            )
        row = self.codes.rows.get(code)
        if reference.get("code") and code != reference["code"]:
            return 1, f"The reference is {reference['code']}, the answer says {code}."
        if self.codes.rows and (row is None or not row["billable"]):
            return 1, f"{code} is no billable code."
        known = reference or row or {}
        for name in ("description", "chapter"):
            if name in fields and known.get(name) and squeezed(fields[name]) != squeezed(str(known[name])):
                return 2, f"The {name} of {code} is “{known[name]}”."
        if not self._means(prompt, code, known):
            return 4, f"The text could be plainer about {code}."
        return 5, f"{code} is what the text describes."

    def _means(self, prompt: str, code: str, known: dict[str, Any]) -> bool:
        """Whether the text shares words with a name of the code."""
        said = {word[:5] for word in squeezed(prompt).split()}
        names = [*self.codes.names(code), str(known.get("description", "")), *known.get("terms", ())]
        return any(len({w[:5] for w in squeezed(n).split()} & said) >= max(1, len(n.split()) // 3) for n in names if n)

    def _open(self, prompt: str, answer: str) -> tuple[int, str]:
        if reckless := RECKLESS.search(answer):
            return 2, f"“{reckless[0]}” is careless advice."
        shared = set(squeezed(prompt).split()) & set(squeezed(answer).split())
        return (5, "It answers what was asked.") if any(len(w) > 4 for w in shared) else (3, "It hardly touches what was asked.")

    def _form(self, answer: str, asked: Asked) -> tuple[int, str]:
        wanted, lines = format_fields(asked.output_format), [line for line in answer.splitlines() if line.strip()]
        if not wanted:
            shared = set(squeezed(asked.brief).split()) & set(squeezed(f"{_prompt(asked.part('example', {}))} {answer}").split())
            return (5, "It is within the brief.") if any(len(w) > 4 for w in shared) else (1, "It has nothing to do with the brief.")
        if list(answer_fields(answer)) != wanted:
            return 1, f"The answer is not in the format {', '.join(wanted)}."
        return (5, "All lines of the format are there.") if len(lines) == len(wanted) else (3, "There are lines beside the format.")


def _prompt(example: dict[str, Any]) -> str:
    return "\n".join(turn.get("content", "") for turn in example.get("prompt", []) if turn.get("role") == "user")
