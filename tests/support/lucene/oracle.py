"""Lucene itself as the judge of our tokens and queries: Debian's jar, a Java that can read it, and Oracle.java, compiled at first use."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("Oracle.java")
JARS = "lucene9-9.*.jar"
JAVA_NEEDED = 21
"""Debian's jar is compiled for it."""

# Debian's jar comes without the lists by which Lucene finds its own codecs.
SERVICES = {
    "Codec": "lucene99.Lucene99Codec",
    "PostingsFormat": "lucene99.Lucene99PostingsFormat",
    "DocValuesFormat": "lucene90.Lucene90DocValuesFormat",
}


@dataclass
class Oracle:
    """A running Lucene that answers line for line."""

    process: subprocess.Popen[str]

    def tokens(self, texts: Sequence[str]) -> list[list[str]]:
        """The standard analyzer's terms of each text."""
        answers = self._ask(f"tokens {_coded(text)}" for text in texts)
        return [[base64.b64decode(word).decode() for word in answer.split()] for answer in answers]

    def add(self, documents: Iterable[Sequence[tuple[str, str]]]) -> None:
        """Index documents, numbered from 0 in the order of their coming; each is pairs of a field and a text."""
        self._ask(" ".join(["add", *(_coded(part) for pair in document for part in pair)]) for document in documents)

    def find(self, questions: Sequence[tuple[str, Sequence[str]]]) -> list[set[int]]:
        """The documents that each query finds in the fields given with it."""
        answers = self._ask(" ".join(["find", _coded(query), *map(_coded, fields)]) for query, fields in questions)
        return [set(map(int, answer.split())) for answer in answers]

    def _ask(self, lines: Iterable[str]) -> list[str]:
        asked = list(lines)
        assert self.process.stdin is not None and self.process.stdout is not None
        stdin = self.process.stdin

        def send() -> None:
            stdin.write("".join(f"{line}\n" for line in asked))
            stdin.flush()

        # Both pipes are finite: writing all before reading any would stand still.
        sender = threading.Thread(target=send)
        sender.start()
        answers = [self.process.stdout.readline() for _ in asked]
        sender.join()
        assert all(answer.endswith("\n") for answer in answers), "Lucene ended early"
        return [answer.rstrip("\n") for answer in answers]


def start_oracle(folder: Path) -> Oracle:
    """A fresh Lucene with an empty index; what it needs is written into the folder."""
    jar = next(iter(sorted(Path("/usr/share/java").glob(JARS))), None)
    java = _find_java()
    lacking = [name for name, found in (("liblucene9-java", jar), (f"a JDK of {JAVA_NEEDED} or newer", java)) if found is None]
    if lacking:
        reason = f"no {' and no '.join(lacking)} here; on Debian: apt-get install liblucene9-java openjdk-21-jdk-headless"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    services = folder / "META-INF" / "services"
    services.mkdir(parents=True)
    for kind, name in SERVICES.items():
        (services / f"org.apache.lucene.codecs.{kind}").write_text(f"org.apache.lucene.codecs.{name}\n")
    command = [str(java), "-XX:TieredStopAtLevel=1", "-cp", f"{folder}:{jar}", str(SOURCE)]
    return Oracle(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"))


def _find_java() -> Path | None:
    found = [shutil.which("java"), *sorted(Path("/usr/lib/jvm").glob("*/bin/java"))]
    for java in (Path(name) for name in found if name):
        if not java.with_name("javac").exists() and not java.resolve().with_name("javac").exists():
            continue
        said = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=False).stderr
        number = re.search(r'version "(\d+)', said)
        if number and int(number[1]) >= JAVA_NEEDED:
            return java
    return None


def _coded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode()
