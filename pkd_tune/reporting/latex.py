"""Tables of a report as LaTeX, for the packages booktabs and graphicx."""

from collections.abc import Collection

from pkd_tune.reporting.document import Table, plain

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "→": r"$\to$",
} | {character: "\\" + character for character in "&%$#_{}"}


def latex_table(table: Table, caption: str, label: str, gap: str = "", rules: Collection[int] = ()) -> str:
    r"""Returns a table as LaTeX; it needs `\usepackage{booktabs}` and, as it is scaled to the page, `graphicx`.

    Columns without a value in any row are left out.

    Args:
        table: Its cells are texts.
        caption: A text.
        label: What follows `tab:`.
        gap: A cell without a value, besides an empty one.
        rules: Rows with a rule above them, besides the first ones of groups.
    """
    kept = [
        column for column in range(len(table.header)) if any(str(row[column]) not in ("", gap) for row in table.rows)
    ]
    lines = []
    for number, row in enumerate(table.rows):
        if number in table.groups or number in rules:
            lines.append(r"\midrule")
        lines.append(" & ".join(latex_text(plain(str(row[column]))) for column in kept) + r" \\")
    body = "\n".join(lines)
    header = " & ".join(latex_text(plain(str(table.header[column]))) for column in kept)
    columns = "".join("l" if column in table.left else "c" for column in kept)
    return rf"""\begin{{table}}
\centering
\caption{{{latex_text(plain(caption))}}}
\label{{tab:{label}}}
\resizebox{{\textwidth}}{{!}}{{%
\begin{{tabular}}{{{columns}}}
\toprule
{header} \\
\midrule
{body}
\bottomrule
\end{{tabular}}}}
\end{{table}}
"""


def latex_text(text: str) -> str:
    """Returns a text with LaTeX's special characters escaped."""
    return "".join(_SPECIAL.get(character, character) for character in text)
