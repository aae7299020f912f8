"""The books of a run, by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from internvl_chat.records.samples import SkippedRow
from internvl_chat.run.ledger import Ledger, TooManySkips, counts_of, promised, runs_of


def data_set(name, rows, copies=1, blank_lines=0):
    """As a MixedDataset; row i is line i + 1 + blank_lines."""
    lines = SimpleNamespace(path=f"{name}.jsonl", line_number=lambda row: row + 1 + blank_lines)
    sized = type("Rows", (), {"__len__": lambda self: rows, **vars(lines)})()
    sized.line_number = lines.line_number
    return SimpleNamespace(
        spec=SimpleNamespace(name=name, repeat_time=copies), rows=sized, order=np.arange(rows * copies)
    )


@pytest.fixture
def make_ledger(tmp_path):
    def make(folder="run", **settings):
        (tmp_path / folder).mkdir(exist_ok=True)
        return Ledger([data_set("a", 3, copies=2), data_set("b:c", 2, blank_lines=1)], tmp_path / folder, **settings)

    return make


def skip(row_id, fault="torn"):
    name, _, line = row_id.rpartition(":")
    return SkippedRow(f"{name}.jsonl", int(line), row_id, "image is torn", fault)


def test_every_row_of_a_step_is_used_or_skipped(make_ledger):
    ledger = make_ledger()
    ledger.see(["a:1", "a:2", "b:c:3"], [skip("a:3")])
    ledger.settle()
    ledger.see(["a:1"], [])
    ledger.settle("loss is nan")
    ledger.see(["a:2"], [skip("b:c:2", "missing")])
    ledger.settle()
    assert ledger.flush(is_writer=True) == 3
    sums = ledger.sums(promised=7)
    assert (sums["used"], sums["skipped"], sums["adds_up"], sums["epochs"]) == (4, 3, True, 7 / 8)
    first, second = sums["data_sets"]["a"], sums["data_sets"]["b:c"]
    assert (first["used"], first["skipped"], first["promised_per_epoch"], first["rows"]) == (3, 2, 6, 3)
    assert first["times_used"] == {"0": 1, "1": 1, "2": 1}
    assert first["faults"] == {"torn": 1, "step_not_taken": 1}
    assert second["faults"] == {"missing": 1}
    assert not ledger.sums(promised=8)["adds_up"]


def test_rows_of_a_step_that_is_not_done_are_in_no_book(make_ledger):
    ledger = make_ledger()
    ledger.see(["a:1"], [])
    ledger.flush(is_writer=True)
    assert ledger.sums(0)["used"] == 0


def test_a_checkpoint_takes_the_books_back(make_ledger, tmp_path):
    ledger = make_ledger()
    ledger.see(["a:1", "a:2"], [skip("a:3")])
    ledger.settle()
    ledger.flush(is_writer=True)
    ledger.write(tmp_path / "checkpoint", promised=3)
    ledger.see(["a:2", "b:c:2"], [skip("b:c:3")])  # after the checkpoint: comes again when the run goes on
    ledger.settle()
    ledger.flush(is_writer=True)
    again = make_ledger()
    again.load(tmp_path / "checkpoint", is_writer=True)
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 1
    again.see(["a:2", "b:c:2"], [skip("b:c:3")])
    again.settle()
    again.flush(is_writer=True)
    for book in (ledger, again):
        book.write(tmp_path / "run", promised=6)
        rows = [json.loads(line) for line in (tmp_path / "run" / "ledger_rows.jsonl").read_text().splitlines()]
        assert rows == [
            {"data_set": "a", "used": [[1, 1, 1], [2, 2, 2]], "skipped": [[3, 3, 1]]},
            {"data_set": "b:c", "used": [[2, 2, 1]], "skipped": [[3, 3, 1]]},
        ]
    assert again.sums(6) == ledger.sums(6)
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 2


def test_a_run_that_skips_more_than_its_share_stops_and_says_what_and_where(make_ledger):
    ledger = make_ledger(max_skipped_share=0.25)  # of 8 places: 2 rows
    ledger.see(["a:1"], [skip("a:2"), skip("a:3", "missing")])
    ledger.settle()
    ledger.flush(is_writer=True)
    ledger.see([], [skip("b:c:2")])
    with pytest.raises(TooManySkips, match=r"3 of 4 rows .* 0.25; by kind: \{'torn': 2, 'missing': 1\}.*skipped.jsonl"):
        ledger.flush(is_writer=True)


@pytest.mark.parametrize(
    ("counts", "runs"),
    [
        ([0, 0, 0], []),
        ([1, 1, 1], [[0, 2, 1]]),
        ([0, 2, 2, 1, 0, 1], [[1, 2, 2], [3, 3, 1], [5, 5, 1]]),
    ],
)
def test_runs_and_counts_are_the_same_book(counts, runs):
    assert runs_of(np.array(counts, np.uint32)) == runs
    assert counts_of(runs, len(counts)).tolist() == counts


def test_runs_beyond_the_file_are_refused():
    with pytest.raises(ValueError, match="the ledger is of other data"):
        counts_of([[0, 3, 1]], lines=3)


@pytest.mark.parametrize(("steps", "places"), [(0, 0), (1, 4), (2, 8), (3, 10), (4, 14), (6, 20), (7, 24)])
def test_places_taken_by_steps_of_four_of_ten(steps, places):
    assert promised(steps, places=10, pairs_per_step=4) == places
