"""Grouping by question on disk, drawing of pairs, and the counts of a run."""

import random
from collections import Counter

import pytest

from internvl_chat.records.durable import join_files
from tools.reasoning_data_pipeline.pairs.correctness import PairSummary, describe_lengths, format_summary
from tools.reasoning_data_pipeline.pairs.grouping import KeyPartitions, draw, draw_pairs, question_key, read_groups


def lines(number):
    """(key, line) of `number` rows over 50 questions."""
    return [(question_key((f"{i % 50}.png",), "Q?", "A"), b'{"row":%d}\n' % i) for i in range(number)]


def group_all(folder, rows, count):
    with KeyPartitions(folder, count) as partitions:
        for key, line in rows:
            partitions.add(key, line)
        partitions.close_files()
        assert sum(partitions.lines) == len(rows)
        return [group for index in range(count) for group in read_groups(partitions.path(index))]


def test_keys_tell_images_questions_answers_and_types_apart():
    given = [
        (("a",), "q", "1"),
        (("a",), "q", 1),
        (("a",), "q", ["1"]),
        (("a",), "q", True),
        (("b",), "q", "1"),
        (("a", "b"), "q", "1"),
        ((), "q", "1"),
        (("a",), "r", "1"),
    ]
    keys = {question_key(*one) for one in given}
    assert len(keys) == len(given) and all(len(key) == 32 for key in keys)
    assert question_key(["a"], "q", "1") == question_key(("a",), "q", "1")


@pytest.mark.parametrize("count", [1, 2, 7, 512])
def test_groups_depend_neither_on_partitions_nor_on_order(tmp_path, count):
    rows = lines(400)
    expected = group_all(tmp_path / "one", rows, 1)
    shuffled = random.Random(count).sample(rows, len(rows))
    assert group_all(tmp_path / "some", shuffled, count) == expected
    assert len(expected) == 50 and [group.key for group in expected] == sorted(group.key for group in expected)
    assert all(len(group.lines) == 8 and group.lines == sorted(group.lines) for group in expected)


def test_partition_files_are_removed_also_those_of_a_killed_run(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "000.part").write_bytes(b"left over\n")
    assert len(group_all(folder, lines(3), 1)) == 3
    assert not folder.exists()


def test_the_number_of_partitions_follows_the_size_up_to_a_limit(tmp_path):
    assert [KeyPartitions.count_for(size) for size in (0, 8 << 20, 1 << 40)] == [1, 2, 512]
    with pytest.raises(ValueError, match="1..512, not 0"):
        KeyPartitions(tmp_path, 0)


def test_all_pairs_come_in_order_without_a_limit():
    assert draw_pairs("ab", [1, 2], 0, "") == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert draw_pairs("ab", [1, 2], 4, "seed") == draw_pairs("ab", [1, 2], 0, "")
    assert draw_pairs("ab", [], 15, "seed") == draw_pairs("", [1], 15, "seed") == []


def test_a_limit_draws_different_pairs_seeded_by_the_key():
    pairs = draw_pairs(range(10), range(10), 15, "key")
    assert len(set(pairs)) == 15 and pairs == sorted(pairs)
    assert pairs == draw_pairs(range(10), range(10), 15, "key") != draw_pairs(range(10), range(10), 15, "other")


def test_every_pair_is_equally_likely():
    drawn = Counter(pair for seed in range(4000) for pair in draw_pairs(range(3), range(4), 3, str(seed)))
    assert len(drawn) == 12
    chi_square = sum((count - 1000) ** 2 / 1000 for count in drawn.values())
    assert chi_square < 31.3  # 11 degrees of freedom, p = 0.001


def test_negative_limits_are_refused():
    with pytest.raises(ValueError, match="not -1"):
        draw([1], -1, "")


def test_files_are_joined_in_the_order_given(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    join_files(tmp_path / "c", [tmp_path / "b", tmp_path / "a"])
    assert (tmp_path / "c").read_text() == "ba"


def test_summaries_of_parts_add_up():
    whole, parts = PairSummary(), [PairSummary(), PairSummary()]
    for index, (correct, wrong) in enumerate([(0, 4), (1, 3), (4, 0), (0, 0), (2, 1)]):
        for summary in (whole, parts[index % 2]):
            summary.count_question(correct, wrong)
            summary.count_pairs("format", [("x" * 30, "y" * index)])
    parts[0].update(parts[1])
    assert parts[0] == whole
    assert (whole.questions, whole.all_right, whole.all_wrong) == (5, 1, 1)
    assert whole.accuracy == {0: 1, 2: 1, 10: 1, 6: 1}  # 0 %, 25 %, 100 %, 66 %; the undecided question has none
    assert whole.pairs == {"format": 5}


def test_counts_are_written_in_their_order_whatever_came_first():
    summary = PairSummary()
    for kind in ("format", "correctness"):
        summary.count_pairs(kind, [("good", "bad")])
    assert list(summary.to_json()["pairs"]) == ["correctness", "format"]


def test_lengths_are_described_to_half_a_bucket():
    assert describe_lengths({0: 1, 2: 3}) == {"mean": 40.0, "median": 50.0, "p90": 50.0}
    assert describe_lengths({}) == {"mean": 0.0, "median": 0.0, "p90": 0.0}


def test_the_table_names_what_was_left_out():
    summary = PairSummary(rows=7, left_out=Counter(questions=2, rows=64), rules=Counter({"wrong: number": 4}))
    table = format_summary("charts", summary.to_json())
    assert "== charts" in table and "left out by --max-lines: questions 2, rows 64" in table
    assert "wrong: number        4 ##############################" in table
    assert "left out" not in format_summary("charts", PairSummary().to_json())
