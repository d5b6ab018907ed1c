"""The elements of a report and their Markdown. `page.py` renders the same elements as HTML.

Texts may hold `code`, **bold** and *emphasis*; all else is literal. Values that come from records, such as names,
commands and error messages, are put into a text with `literal()` or `code()`, and cannot add markup of any kind.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the title of the page."""

    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A bullet list."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its cells are texts.

    Raises:
        ValueError: When a row is not as long as the header; Markdown would drop cells.
    """

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    left: tuple[int, ...] = (0,)
    """Columns that are aligned left; the others hold numbers and are aligned right."""
    groups: tuple[int, ...] = ()
    """Rows that begin a new group; HTML draws a line above each."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row of {len(row)} cells below {len(self.header)} columns: {row}")


Element = Heading | Text | Bullets | Table

Span = tuple[Literal["literal", "code", "strong", "emphasis"], str]
"""A piece of a text: its kind, and its content without markup."""

_SPANS = re.compile(
    r"\\(?P<escaped>[\\`*])"
    r"|(?P<fence>`+)(?P<code>.*?[^`])(?P=fence)(?!`)"
    r"|\*\*(?P<strong>[^*`\\]+)\*\*"
    r"|\*(?P<emphasis>[^*`\\]+)\*",
    re.DOTALL,
)
_MARKDOWN = re.compile(
    r"[\\`*]"
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # within a word it is no emphasis
    r"|\](?=[(\[])"  # of a link
    r"|~(?=~)"
)
"""What Markdown would take for markup, besides raw HTML."""


def literal(value: object) -> str:
    """Returns a value as part of a text, shown as it is on one line, whatever characters it holds."""
    return re.sub(r"[\\`*]", r"\\\g<0>", " ".join(str(value).split()))


def code(value: object) -> str:
    """Returns a value as code within a text, on one line; the fence is longer than any run of backticks in it."""
    content = " ".join(str(value).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", content)), default=0))
    pad = " " if content.startswith("`") or content.endswith("`") else ""
    return f"{fence}{pad}{content}{pad}{fence}"


def spans(text: str) -> list[Span]:
    """Returns the pieces of a text in their order."""
    pieces: list[Span] = []
    end = 0
    for match in _SPANS.finditer(text):
        pieces.append(("literal", text[end : match.start()]))
        if match["escaped"]:
            pieces.append(("literal", match["escaped"]))
        elif match["code"]:
            pieces.append(("code", match["code"].strip(" ") if "`" in match["code"] else match["code"]))
        elif match["strong"]:
            pieces.append(("strong", match["strong"]))
        else:
            pieces.append(("emphasis", match["emphasis"]))
        end = match.end()
    pieces.append(("literal", text[end:]))
    return [(kind, content) for kind, content in pieces if content]


def plain(text: str) -> str:
    """Returns a text without its markup."""
    return "".join(content for _, content in spans(text))


def markdown(elements: Sequence[Element]) -> str:
    """Returns the elements as Markdown, without raw HTML."""
    return "\n\n".join(_markdown(element) for element in elements) + "\n"


def markdown_literal(value: object) -> str:
    """Returns Markdown that shows a value as it is: neither markup nor HTML in it has an effect."""
    escaped = str(value).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKDOWN.sub(r"\\\g<0>", escaped)


def _markdown(element: Element) -> str:
    match element:
        case Heading(text, level):
            return f"{'#' * level} {_inline(text)}"
        case Text(text):
            return _inline(text)
        case Bullets(items):
            return "\n".join(f"- {_inline(item)}" for item in items)
        case Table(header, rows, left):
            rule = [":--" if column in left else "--:" for column in range(len(header))]
            lines = [map(_cell, header), rule, *(map(_cell, row) for row in rows)]
            return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: object) -> str:
    return _inline(" ".join(str(cell).split())).replace("|", "\\|")


def _inline(text: str) -> str:
    marks = {"strong": "**", "emphasis": "*"}
    written = []
    for kind, content in spans(text):
        if kind == "code":
            written.append(code(content))
        else:
            written.append(f"{marks.get(kind, '')}{markdown_literal(content)}{marks.get(kind, '')}")
    return "".join(written)
