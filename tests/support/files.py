"""Files in shapes that people have: sheets, message trees, flattened conversations."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    """A minimal .xlsx, written by hand: strings inline, numbers and truth values as they are."""

    def cell(value: Any) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, bool):
            return f'<c t="b"><v>{int(value)}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'

    ns = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    names = list(sheets)
    listed = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(names, 1))
    related = "".join(f'<Relationship Id="r{n}" Type="{rel}/worksheet" Target="worksheets/s{n}.xml"/>' for n in range(1, len(names) + 1))
    types = "".join(f'<Override PartName="/xl/worksheets/s{n}.xml" ContentType="{kind}.worksheet+xml"/>' for n in range(1, len(names) + 1))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
            f'relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>{types}</Types>',
        )
        document = f'<Relationship Id="r" Type="{rel}/officeDocument" Target="xl/workbook.xml"/>'
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{package}/relationships">{document}</Relationships>')
        archive.writestr("xl/workbook.xml", f'<workbook {ns} xmlns:r="{rel}"><sheets>{listed}</sheets></workbook>')
        archive.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}/relationships">{related}</Relationships>')
        for n, name in enumerate(names, 1):
            rows = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in sheets[name])
            archive.writestr(f"xl/worksheets/s{n}.xml", f"<worksheet {ns}><sheetData>{rows}</sheetData></worksheet>")
    return path


# OASST


def message(identity: str, role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"message_id": identity, "parent_id": None, "role": role, "text": text, "replies": list(replies), "lang": "en", **more}


TREE = message(
    "m1", "prompter", "Hi",
    message("m2", "assistant", "second best", rank=1),
    message("m3", "assistant", "best", message("m4", "prompter", "And?", message("m5", "assistant", "only", rank=None)), rank=0),
    message("m6", "assistant", "made up", rank=2, synthetic=True),
    message("m7", "assistant", "worst", rank=3),
    message("m8", "assistant", "gone", rank=4, deleted=True),
)  # fmt: skip


def flat(root: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    own = {name: value for name, value in root.items() if name != "replies"} | {"parent_id": parent, "message_tree_id": "m1"}
    return [own, *(row for reply in root["replies"] for row in flat(reply, root["message_id"]))]
