"""Who left and why: one reason a row, counted by filter and data set, written as one line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tools.curation.columns import Columns

STAYS = 0


class DropLedger:
    """The reasons by which rows leave; a row leaves once."""

    def __init__(self, columns: Columns) -> None:
        """All usable rows stay; the others leave at once."""
        self.columns = columns
        self.names = ["stays"]
        self._code = np.zeros(len(columns), np.uint8)
        self._other = np.full(len(columns), -1, np.int64)
        self._details: dict[int, str] = {}
        for row, reason in columns.problems.items():
            self.drop(row, "unusable", detail=reason)

    def staying(self) -> np.ndarray:
        """Numbers of the rows that stay, in order."""
        return np.flatnonzero(self._code == STAYS)

    def stays(self, row: int) -> bool:
        """Whether a row stays."""
        return bool(self._code[row] == STAYS)

    def count(self, first: int, end: int) -> int:
        """How many of the rows first to end - 1 stay."""
        return int(np.count_nonzero(self._code[first:end] == STAYS))

    def drop(self, row: int, name: str, *, other: int = -1, detail: str = "") -> None:
        """Let a row leave by the filter of this name, because of another row or for a reason in words."""
        if self._code[row] == STAYS:
            self._code[row] = self._number(name)
            self._other[row] = other
            if detail:
                self._details[row] = detail

    def drop_all(self, rows: np.ndarray, name: str) -> None:
        """Let rows that stay leave for a reason that their filter says for all."""
        self._code[rows] = self._number(name)

    def _number(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def rows(self) -> Iterator[dict[str, Any]]:
        """{data_set, file, line, filter, detail} of every row that left, in order."""
        for row in np.flatnonzero(self._code != STAYS):
            data, where = self.columns.locate(int(row))
            entry = {"data_set": data.spec.name, "file": where.file, "line": where.line}
            entry["filter"] = self.names[self._code[row]]
            if self._other[row] >= 0:
                entry["as"] = self.columns.name(int(self._other[row]))
            if int(row) in self._details:
                entry["detail"] = self._details[int(row)]
            yield entry

    def counts(self) -> dict[str, dict[str, int]]:
        """Data set -> rows, stays, and how many left by each filter."""
        numbers = self.columns.dataset_numbers()
        found = {}
        for number, data in enumerate(self.columns.datasets):
            codes = Counter(self._code[numbers == number].tolist())
            filters = {name: codes[code] for code, name in enumerate(self.names) if code != STAYS and codes[code]}
            found[data.spec.name] = {"rows": codes.total(), "stays": codes[STAYS], **filters}
        return found
