"""The same blocks as Markdown and as HTML."""

import pytest

from pkd_tune.reporting.document import Bullets, Heading, Table, Text, markdown, page_body

BLOCKS = [
    Heading("A & B", 1),
    Text("**x** is *y*: `a*b*c <i>` & <script>"),
    Bullets(["one", "two"]),
    Table(["model", "n", "words"], [["a|b", 1, "c, d"], ["e\nf", 2, ""]], left=(0, 2), groups=(1,)),
]


def test_markdown() -> None:
    assert markdown(BLOCKS) == (
        "# A & B\n\n**x** is *y*: `a*b*c <i>` & <script>\n\n- one\n- two\n\n"
        "| model | n | words |\n| :-- | --: | :-- |\n| a\\|b | 1 | c, d |\n| e f | 2 |  |\n"
    )


def test_html_takes_nothing_from_a_text_but_emphasis_and_code() -> None:
    page = page_body(BLOCKS)
    assert "<h1>A &amp; B</h1>" in page
    assert "<strong>x</strong> is <em>y</em>: <code>a*b*c &lt;i&gt;</code> &amp; &lt;script&gt;" in page
    assert "<li>one</li>\n<li>two</li>" in page
    assert '<th scope="row" class="words">a|b</th><td class="number">1</td>' in page
    assert '<td class="words"><span>c</span>, <span>d</span></td>' in page
    assert page.count("<tr>") == 2
    assert '<tr class="group"><th scope="row" class="words">e\nf</th>' in page


def test_a_row_of_another_length_than_its_header_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a row of 1 cells below 2 columns: \['x'\]"):
        Table(["model", "n"], [["x"]])
