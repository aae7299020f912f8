"""Answers read off documents: what a slip may be, and what is another answer."""

import pytest

from tools.reasoning_data_pipeline.answers.documents import documents_agree
from tools.reasoning_data_pipeline.answers.scores import anls


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("United States of Amerlca", "United States of America"),
        ("Universty of California", "University of California"),  # a letter that is missing
        ("university  of california", "University of California"),
        ("R. J. Reynolds Tobacco", "R.J. Reynolds Tobacco"),
        ("The Coca Cola Company", "The Coca-Cola Company"),
    ],
)
def test_slips_of_reading_are_forgiven(predicted, gold):
    assert documents_agree(predicted, gold)


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("abcdefghix", "abcdefghij"),  # similarity 0.9, but the last letters are another word's
        ("Schedule E of the return", "Schedule F of the return"),
        ("-9,876,543.21", "9,876,543.21"),
        ("€500,000 for the whole year", "$500,000 for the whole year"),
        ("Rents will increase in June", "Rents will decrease in June"),
        ("the employee identification", "the employer identification"),
        ("the country of residence is listed", "the county of residence is listed"),
        ("a total of 1.5 million dollars", "a total of 15 million dollars"),
        ("unable to attend the meeting", "able to attend the meeting"),
        ("Mr Smith of the committee board", "Ms Smith of the committee board"),
        ("", "invoice"),
    ],
)
def test_another_sign_name_currency_number_or_opposite_is_another_answer(predicted, gold):
    assert not documents_agree(predicted, gold)
    assert not documents_agree(gold, predicted)


def test_a_slip_in_ten_letters_is_a_similarity_of_nine_tenths():
    """In binary (1 - 0.9) * 10 is below 1, and one slip would be one too many."""
    assert anls("stratified", ("stratifiad",), 0.9) == 0.9
    assert anls("stratified", ("stratyfiad",), 0.9) == 0
