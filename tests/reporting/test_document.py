"""Elements as Markdown."""

import pytest

from pkd_tune.reporting.document import Bullets, Element, Heading, Table, Text, code, literal, markdown, spans

ELEMENTS: list[Element] = [
    Heading("A & B", 1),
    Text("**x** is *y*: `a*b*c <i>` & <script>"),
    Bullets(["one", "two"]),
    Table(["model", "n", "words"], [["a|b", 1, "c, d"], ["e\nf", 2, ""]], left=(0, 2), groups=(1,)),
]
NASTY = ["<b>x</b>", "a*b*c", "`", "``x`", "\\", "\\`*", "**", "a  b", "[x](http://y)", "_x_", "&amp;", "~~x~~", "|"]


def test_markdown() -> None:
    assert markdown(ELEMENTS) == (
        "# A &amp; B\n\n**x** is *y*: `a*b*c <i>` &amp; &lt;script>\n\n- one\n- two\n\n"
        "| model | n | words |\n| :-- | --: | :-- |\n| a\\|b | 1 | c, d |\n| e f | 2 |  |\n"
    )


@pytest.mark.parametrize("value", NASTY)
def test_a_value_from_a_record_adds_no_markup(value: str) -> None:
    shown = " ".join(value.split())
    assert "".join(content for _, content in spans(f"**a** {literal(value)} `b`")[1:-1]).strip() == shown
    assert spans(f"a {code(value)} b")[1] == ("code", shown)
    assert {kind for kind, _ in spans(literal(value))} == {"literal"}


def test_markdown_of_a_value_has_neither_markup_nor_html() -> None:
    text = markdown([Text(literal("<b> *x* `y` _z_ [u](v) a_b &lt;"))])
    assert text == "&lt;b> \\*x\\* \\`y\\` \\_z\\_ [u\\](v) a_b &amp;lt;\n"


def test_a_row_of_another_length_than_its_header_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a row of 1 cells below 2 columns: \['x'\]"):
        Table(["model", "n"], [["x"]])
