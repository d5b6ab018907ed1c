"""What a report is made of, and how it becomes Markdown or HTML: both say the same, because both are made from this.

Texts may hold `code`, **bold** and *emphasis*; everything else in them is literal.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; 1 is the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of points."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its cells are texts."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    left: tuple[int, ...] = (0,)
    """Columns of words, aligned left; the others hold numbers, aligned right."""
    groups: tuple[int, ...] = ()
    """Rows that begin a new group, which HTML sets off with a line."""

    def __post_init__(self) -> None:
        """Refuses rows that are not as long as the header, of which Markdown would show a part."""
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row of {len(row)} cells below {len(self.header)} columns: {row}")


Block = Heading | Text | Bullets | Table


def markdown(blocks: Sequence[Block]) -> str:
    """Returns the blocks as Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def page_body(blocks: Sequence[Block]) -> str:
    """Returns the blocks as HTML; tables scroll inside a box of their own."""
    return "\n".join(_html(block) for block in blocks)


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(header, rows, left):
            rule = [":--" if column in left else "--:" for column in range(len(header))]
            lines = [header, rule, *rows]
            return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(cell: object) -> str:
    return " ".join(str(cell).split()).replace("|", "\\|")


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in items) + "\n</ul>"
        case Table(header, rows, left, groups):
            kinds = ["words" if column in left else "number" for column in range(len(header))]
            head = "".join(
                f'<th scope="col" class="{k}">{_inline(cell)}</th>' for k, cell in zip(kinds, header, strict=True)
            )
            body = "\n".join(
                ('<tr class="group">' if number in groups else "<tr>") + f"{_row(row, kinds)}</tr>"
                for number, row in enumerate(rows)
            )
            return (
                f'<div class="table" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
                f"<tbody>\n{body}\n</tbody></table></div>"
            )


def _row(row: Sequence[object], kinds: Sequence[str]) -> str:
    first, *others = zip(kinds, row, strict=True)
    cells = [f'<th scope="row" class="{first[0]}">{_inline(str(first[1]))}</th>']
    for kind, cell in others:
        text = _inline(str(cell))
        if kind == "words":  # lines break between the parts of a list only
            text = ", ".join(f"<span>{part}</span>" for part in text.split(", "))
        cells.append(f'<td class="{kind}">{text}</td>')
    return "".join(cells)


def _inline(text: str) -> str:
    """Returns a text as HTML; what stands between backticks is taken as it is."""
    parts = re.split(r"`([^`]*)`", text)
    written = []
    for number, part in enumerate(parts):
        escaped = html.escape(part)
        if number % 2:
            written.append(f"<code>{escaped}</code>")
        else:
            escaped = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)
            written.append(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", escaped))
    return "".join(written)
