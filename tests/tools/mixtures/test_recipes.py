"""Recipes by hand: exact counts, shares, first fit, and what is refused."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from internvl_chat.data.mixture import repeated_count
from tools.mixtures.measure import KINDS
from tools.mixtures.recipes import parse_setting, read_recipe, repeat_times

ROOT = Path(__file__).parents[3]
ROWS = {"a_correctness_rules": 700, "b_correctness_rules": 301, "c_format_rules": 99, "own_vqa": 40}


def drawn(rules, rows=ROWS):
    return {name: repeated_count(rows[name], repeat) for name, repeat in repeat_times(rules, rows).items()}


def test_rows_come_out_exactly_and_each_set_gives_the_same_share():
    assert drawn([parse_setting("*=rows:571")]) == {
        "a_correctness_rules": 351,  # 350.6
        "b_correctness_rules": 151,  # 150.8
        "c_format_rules": 49,  # 49.6: the largest remainders are rounded up, until 571 are there
        "own_vqa": 20,
    }


@pytest.mark.parametrize("wanted", [0, 1, 7, 1139, 1140, 1141, 400_000])
def test_any_number_of_rows_is_met(wanted):
    assert sum(drawn([parse_setting(f"*=rows:{wanted}")]).values()) == wanted


def test_the_first_rule_that_fits_counts_and_the_rest_is_left_out():
    assert drawn([parse_setting("own_*=2"), parse_setting("*_rules=rows:110")]) == {
        "a_correctness_rules": 70, "b_correctness_rules": 30, "c_format_rules": 10, "own_vqa": 80,
    }  # fmt: skip
    assert drawn([parse_setting("own_*=1")]) == {"own_vqa": 40}


def test_a_share_is_of_the_whole_mixture():
    found = drawn([parse_setting("own_*=share:0.2"), parse_setting("*=rows:400")])
    assert found["own_vqa"] == 100 and sum(found.values()) == 500


def test_shares_alone_divide_the_rows_that_are_there():
    rules = [parse_setting("own_*=share:0.25"), parse_setting("*=share:0.75")]
    found = drawn(rules)
    assert found["own_vqa"] == 285 and sum(found.values()) == 1140


@pytest.mark.parametrize(("setting", "words"), [
    ("own_*=much", "'repeat_time' must be a number from 0, not 'much'"),
    ("own_*=-1", "must be a number from 0"),
    ("own_*=share:1.5", "'share' must be a number from 0 to 1, not 1.5"),
    ("own_*=tons:3", "must say one of rows, share, repeat_time"),
    ("=3", "'match' must be a pattern"),
])  # fmt: skip
def test_settings_that_are_none(setting, words):
    with pytest.raises(ValueError, match=words):
        parse_setting(setting)


def test_a_pattern_that_fits_nothing_is_named_with_what_is_near():
    with pytest.raises(ValueError, match=r"no data set is named \*_fromat_rules; there are c_format_rules"):
        repeat_times([parse_setting("*_fromat_rules=1")], ROWS)


def test_shares_that_leave_no_room():
    with pytest.raises(ValueError, match="shares of 1 leave no room"):
        repeat_times([parse_setting("own_*=share:1"), parse_setting("*=1")], ROWS)


@pytest.mark.parametrize(("recipe", "words"), [
    ({"about": ""}, "a recipe is"),
    ({"rules": [{"match": "*", "rows": 5}]}, "rule 1: 'source' must say where the figure comes from"),
    ({"rules": [{"match": "*", "rows": 5, "share": 1, "source": "ours"}]}, "must say one of"),
    ({"rules": [{"match": [], "rows": 5, "source": "ours"}]}, "'match' must be a pattern"),
])  # fmt: skip
def test_recipes_that_are_none(tmp_path, recipe, words):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match=words):
        read_recipe(path)


@pytest.mark.parametrize("path", sorted((ROOT / "data/recipes").glob("*.json")), ids=lambda path: path.stem)
def test_our_recipes_say_where_every_figure_comes_from(path):
    rules = read_recipe(path)
    assert json.loads(path.read_text())["about"]
    assert all("ours" in rule.source or "InternVL" in rule.source or ".json" in rule.source for rule in rules)
    wanted = sum(rule.value for rule in rules if rule.amount == "rows")
    assert wanted in (Fraction(400_000), Fraction(200_000))


@pytest.mark.parametrize(("name", "kind"), [
    ("scienceqa_multi_choice_en_20240402_extracted_pairs_vqa_correctness_rules", "correctness"),
    ("geometry3k_en_20240402_extracted_pairs_vqa_direct_rules", "direct"),
    ("chartqa_trainval_30k_w_csv_en_20240402_extracted_pairs_vqa_format_rules", "format"),
    ("m3cot_train_extracted_prefix_pair_sr0.0_with_image", "DropoutNTP"),
    ("inat_train2018_merge_en_20240811_sr0.50_wo_image", "DropoutNTP"),
    ("my_vqa", None),
])  # fmt: skip
def test_kinds_of_the_published_names(name, kind):
    assert next((found for found, pattern in KINDS if pattern.search(name)), None) == kind
