"""Tables as Markdown, LaTeX and Parquet."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from gcsearch.files import replacing, write_text
from gcsearch.tracking.names import number

NOTHING: Final = "\N{EN DASH}"

LATEX: Final = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        key: Of the value in a row, and in the Parquet file.
        heading: What people read, with the unit.
        digits: Significant digits that people read; the Parquet file has all.
        decimals: Digits behind the point, in place of `digits`.
        is_detail: Whether it is only in the files.
    """

    key: str
    heading: str
    digits: int = 4
    decimals: int | None = None
    is_detail: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table.

    Attributes:
        name: Of its files, without ending.
        title: What it is about.
        columns: Its columns.
        rows: Values by column; what is missing is None.
        note: What a reader must know.
        num_shown: Rows that the page shows at once.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    num_shown: int = 20

    def cells(self) -> list[list[str]]:
        """All cells as people read them."""
        return [[cell_text(row.get(column.key), column) for column in self.columns] for row in self.rows]

    @property
    def is_number(self) -> list[bool]:
        """Whether each column holds numbers alone, and is set flush right."""
        return [
            all(isinstance(row.get(column.key), int | float | None) for row in self.rows) for column in self.columns
        ]


def cell_text(value: Any, column: Column) -> str:
    """A value as people read it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and column.decimals is not None:
        return f"{value:z,.{column.decimals}f}"
    if isinstance(value, float) and abs(value) >= 10**column.digits:
        return f"{value:,.0f}"
    return number(value, digits=column.digits)


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write every table three times."""
    for table in tables:
        write_text(folder / f"{table.name}.md", markdown(table))
        write_text(folder / f"{table.name}.tex", latex(table))
        buffer = io.BytesIO()
        pq.write_table(arrow(table), buffer)
        with replacing(folder / f"{table.name}.parquet") as temporary:
            temporary.write_bytes(buffer.getvalue())


def markdown(table: Table) -> str:
    """As a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_one_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

    rule = "| " + " | ".join("---:" if one else "---" for one in table.is_number) + " |"
    note = f"\n\n{table.note}" if table.note else ""
    head = [f"**{table.title}**", "", line([column.heading for column in table.columns]), rule]
    return "\n".join([*head, *map(line, table.cells())]) + f"{note}\n"


def latex(table: Table) -> str:
    """As a LaTeX tabular with the rules of the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(_latex(cell) for cell in cells) + r" \\"

    columns = "".join("r" if one else "l" for one in table.is_number)
    return "\n".join(
        [
            f"% {_one_line(table.title)}. Needs \\usepackage{{booktabs}}.",
            *([f"% {_one_line(table.note)}"] if table.note else []),
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line([column.heading for column in table.columns]),
            r"\midrule",
            *map(line, table.cells()),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _latex(text: str) -> str:
    text = re.sub(r"[\\~^&%$#_{}]", lambda found: LATEX[found[0]], _one_line(text))
    return text.replace(NOTHING, "--")


def arrow(table: Table) -> pa.Table:
    """With all digits. A column whose values differ in type holds them as text."""
    return pa.table({column.key: _arrow([row.get(column.key) for row in table.rows]) for column in table.columns})


def _arrow(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array([None if value is None else float(value) for value in values])
    if len(kinds) > 1 or kinds & {list, dict}:
        return pa.array([value if isinstance(value, str | None) else json.dumps(value) for value in values])
    return pa.array(values)
