"""Edits to Argilla's web page: row text is shown as text, and only Argilla's own scripts may run.

Argilla 2.8 inserts fields, names and messages with `innerHTML`, and puts text that looks like HTML into a frame of the same origin. A row
could act with the annotator's key, and text such as `List<String>` was not displayed. Two independent layers prevent that:

- `show_text_literally` edits the copy of Argilla's bundle that this process serves, so that text is assigned with `textContent`. Nothing is
  escaped in the database, so searches, suggestions, edits and exports keep the exact text, whichever client pushed the record.
- `content_security_policy` allows scripts by origin and by the hashes of the inline scripts in the served files, and no inline handlers.

Custom fields are HTML with scripts by design. `isolate_custom_fields` moves them from a frame of the page's origin to a sandboxed frame:
their scripts run, but can access neither the key in the page nor any server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

TEXT_HEADER = "X-Seedcorn-Text"
"""Response header of a server whose page shows text literally; `curate push` escapes text for every other server."""
LITERAL = "literal"

_HTML_BINDING = re.compile(r"innerHTML:(\w+)\._s\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)")
_STAYS_HTML = re.compile(r"""\w+\.(markdownToHtml|path|\$t\("(home\.demoLink|home\.importFromPythonHFWarning|login\.claim)"\))""")
"""Expressions that stay HTML: sanitized Markdown, icons, and constant sentences of Argilla."""
_WITH_MARKUP = re.compile(r"\w+\.(title|message|recordsMessage|content|\$t\(.*\))", re.DOTALL)
"""Sentences in which Argilla puts links and bold type around values; their markup is removed."""
_REMOVE_MARKUP = (
    r""".replace(/<a (?:target='_blank' )?href='https:[^']*'(?: target='_blank')?>([^<]*)<\/a>|<strong>([^<]*)<\/strong>/g,"$1$2")"""
)
_LOOKS_LIKE_HTML = re.compile(r"isHTML:function isHTML\(\)\{return/[^}]*?/\.test\(this\.fieldText\)\}")
_MARKDOWN = re.compile(r"(\.marked\.use\(\{)(hooks:\{preprocess:)")
_NO_HTML_IN_MARKDOWN = r"\1tokenizer:{html:function(){},tag:function(){},def:function(){}},\2"
"""Makes the Markdown parser `marked` treat tags, comments and link definitions as text."""
FRAME = "seedcorn-frame.html"
"""The document that shows a custom field: it receives the field's HTML, writes it, and reports its height."""
FRAME_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; form-action 'none'; base-uri 'none';"
    " frame-ancestors 'self'"
)
_FRAME_PAGE = """<!doctype html>
<meta charset="utf-8">
<script>
  addEventListener("message", (event) => {
    if (event.source !== parent) return;
    const [port] = event.ports, given = event.data;
    document.open();
    document.write(given.styles + given.html);
    document.close();
    if (given.theme) document.documentElement.setAttribute("data-theme", given.theme);
    const report = () => port.postMessage(document.documentElement.scrollHeight);
    addEventListener("load", report, true);
    new MutationObserver(report).observe(document, { childList: true, subtree: true, characterData: true });
    report();
  }, { once: true });
</script>
"""
_FRAME_SOURCE = re.compile(r'attrs:\{srcdoc:(\w+)\.template,frameborder:"0"')
_FRAME_HEAD = re.compile(r"""concat\('\\n<script>(?:[^'\\]|\\.)*?<\\/script>\\n<style>""")
_RECORD = re.compile(r"=JSON\.stringify\(this\.sdkRecord\);")
_RECORD_AS_DATA = (
    r"""=JSON.stringify(this.sdkRecord)"""
    r""".replace(/[<#]/g,function(sign){return"\\u00"+sign.charCodeAt(0).toString(16)}).replace(/\$/g,"$$$$");"""
)
"""The record becomes a JavaScript literal by `String.replace`: `</script>`, `#TEMPLATE#` and `$&` in a row must stay text."""
_FRAME_RESIZE = re.compile(r"resize:function resize\(\)\{this\.\$refs\.iframe\.style\.height=[^}]*\}")
_FRAME_FILL = (
    """resize:function resize(){var frame=this.$refs.iframe,channel=new MessageChannel;"""
    """channel.port1.onmessage=function(event){frame.style.height=Number(event.data)+"px"};"""
    """var sheets=[].map.call(document.querySelectorAll('link[rel="stylesheet"]'),function(link){"""
    """return'<link rel="stylesheet" href="'+encodeURI(link.href)+'">'});"""
    """var styles=[].map.call(document.querySelectorAll("style"),function(style){return style.outerHTML});"""
    """frame.contentWindow.postMessage({html:this.template,styles:sheets.concat(styles).join(""),"""
    """theme:document.documentElement.getAttribute("data-theme")},"*",[channel.port2])}"""
)
_FOREIGN_FONT = re.compile(r"@import\s+url\(\s*[\"']?https?://fonts\.googleapis\.com[^)]*\)\s*;?")
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_FRAME_SCRIPT = re.compile(r"""concat\('\\n<script>((?:[^'\\]|\\.)*?)<\\/script>""")
"""The script by which Argilla's frame for custom fields copies the page's style sheets."""


class PageChanged(Exception):
    """The bundle is not that of argilla-server 2.8, for which these edits were written."""


def show_text_literally(folder: Path) -> None:
    """Edit the bundle in this folder so that fields, names and messages are assigned as text.

    Raises:
        PageChanged: an edit found nothing to change, so that the page would execute the content of rows.
    """
    counts = {"text fields": 0, "HTML detection": 0, "Markdown": 0}
    for path in sorted(folder.rglob("*.js")):
        script = path.read_text(encoding="utf-8")
        edited, text_fields = edit_script(script)
        counts["text fields"] += text_fields
        edited, number = _LOOKS_LIKE_HTML.subn("isHTML:function isHTML(){return!1}", edited)
        counts["HTML detection"] += number
        edited, number = _MARKDOWN.subn(_NO_HTML_IN_MARKDOWN, edited)
        counts["Markdown"] += number
        if edited != script:
            path.write_text(edited, encoding="utf-8")
    missing = [name for name, count in counts.items() if not count]
    if missing:
        raise PageChanged(f"Argilla's page: no place found for {', '.join(missing)}. Install the argilla-server that server.lock names.")


def edit_script(script: str) -> tuple[str, int]:
    """Return the script with `innerHTML` bindings replaced by `textContent`, and the number of bindings that show a text field."""
    fields = 0

    def bind_text(found: re.Match[str]) -> str:
        nonlocal fields
        vue, expression = found.groups()
        if _STAYS_HTML.fullmatch(expression):
            return found[0]
        fields += expression.endswith(".fieldText")
        return f"textContent:{vue}._s({expression}){_REMOVE_MARKUP if _WITH_MARKUP.fullmatch(expression) else ''}"

    return _HTML_BINDING.sub(bind_text, script), fields


def isolate_custom_fields(folder: Path) -> None:
    """Show custom fields in a sandboxed document without an origin, to which the page posts their HTML.

    Raises:
        PageChanged: the bundle has no such frame.
    """
    count = 0
    for path in sorted(folder.rglob("*.js")):
        script = path.read_text(encoding="utf-8")
        edited, number = _FRAME_SOURCE.subn(rf'attrs:{{src:"{FRAME}",sandbox:"allow-scripts",frameborder:"0"', script)
        if number:
            count += number
            edited = _RECORD.sub(lambda _: _RECORD_AS_DATA, edited)
            edited = _FRAME_RESIZE.sub(lambda _: _FRAME_FILL, _FRAME_HEAD.sub(r"concat('\\n<style>", edited))
            path.write_text(edited, encoding="utf-8")
    if not count:
        raise PageChanged("Argilla's page: no frame for custom fields found. Install the argilla-server that server.lock names.")
    (folder / FRAME).write_text(_FRAME_PAGE, encoding="utf-8")


def remove_foreign_fonts(folder: Path) -> None:
    """Remove the style sheets' imports of fonts.googleapis.com, so that the page calls no other host."""
    for path in folder.rglob("*.css"):
        css = path.read_text(encoding="utf-8")
        edited = _FOREIGN_FONT.sub("", css)
        if edited != css:
            path.write_text(edited, encoding="utf-8")


def content_security_policy(folder: Path) -> str:
    """Return the Content-Security-Policy for the page in this folder, with the hashes of the inline scripts in its files.

    Call it before the edits: nginx.conf contains the same policy, which must also fit an unchanged page.
    """
    scripts = {text for path in sorted(folder.rglob("*.html")) for text in _INLINE_SCRIPT.findall(path.read_text(encoding="utf-8"))}
    for path in sorted(folder.rglob("*.js")):
        for literal in _FRAME_SCRIPT.findall(path.read_text(encoding="utf-8")):
            scripts.add(literal.replace("\\n", "\n").replace("\\'", "'"))
    allowed = " ".join(sorted(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts))
    return (
        f"default-src 'self'; script-src 'self' {allowed}; script-src-attr 'none'; style-src 'self' 'unsafe-inline';"
        " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-src 'self';"
        " object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )
