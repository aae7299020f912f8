"""Which prompts share their beginnings, by hand: image token 9, tiles of one pixel."""

import numpy as np
import torch

from internvl_chat.records.samples import Fork, content_ids, find_forks

IMAGE = 9


def asked(ids, *tiles, flag=1):
    """A prompt and its sample; each of its tiles is one number."""
    pixels = torch.tensor(tiles, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return np.array(ids), {"pixel_values": pixels, "image_flags": torch.full((len(tiles),), flag)}


def forks(*prompts):
    return [(fork.parent, fork.length, fork.tiles) for fork in find_forks(prompts, IMAGE)]


ALONE = (0, 0, 0)


def test_questions_about_one_image_share_what_comes_before_the_question():
    assert forks(asked([1, 9, 9, 2, 5, 0], 7), asked([1, 9, 9, 2, 6, 0], 7)) == [ALONE, (0, 4, 1)]


def test_another_image_is_not_shared_whatever_the_tokens():
    assert forks(asked([1, 9, 9, 2, 5, 0], 7), asked([1, 9, 9, 2, 5, 3, 0], 8)) == [ALONE, ALONE]


def test_a_system_message_or_a_text_alone_is_not_shared():
    texts = asked([1, 2, 3, 5, 0], 7, flag=0), asked([1, 2, 3, 6, 0], 7, flag=0)
    assert forks(*texts, asked([1, 2, 9, 5, 0], 7)) == [ALONE] * 3


def test_another_system_message_or_text_before_the_image_is_not_shared():
    assert forks(asked([1, 9, 5, 0], 7), asked([2, 9, 6, 0], 7)) == [ALONE, ALONE]


def test_a_prompt_leaves_the_one_with_which_it_has_most_in_common():
    """The second shares the image; the third a turn behind it with the second, the fourth again the image alone."""
    rows = [1, 9, 5, 0], [1, 9, 6, 4, 4, 0], [1, 9, 6, 4, 3, 0], [1, 9, 3, 0]
    assert forks(*(asked(ids, 7) for ids in rows)) == [ALONE, (0, 2, 1), (1, 4, 1), (0, 2, 1)]


def test_the_last_token_is_left_to_the_answers():
    """The second prompt is the beginning of the first one, and the third ends where the first goes on."""
    rows = [1, 9, 5, 6, 0], [1, 9, 5], [1, 9, 5, 6, 0, 3]
    assert forks(*(asked(ids, 7) for ids in rows)) == [ALONE, (0, 2, 1), (0, 4, 1)]


def test_of_several_images_the_first_ones_are_shared_alone():
    """Two tiles, then one, of two tokens each; the second prompt has another picture in the second place."""
    ids = [1, 9, 9, 9, 9, 2, 9, 9, 5, 0]
    assert forks(asked(ids, 7, 8, 3), asked(ids, 7, 8, 4), asked(ids, 7, 5, 3)) == [ALONE, (0, 6, 2), (0, 3, 1)]


def test_an_image_with_a_tile_more_shares_those_before():
    assert forks(asked([1, 9, 2, 5, 0], 7), asked([1, 9, 9, 2, 5, 0], 7, 8)) == [ALONE, (0, 2, 1)]


def test_tiles_that_do_not_fit_their_tokens_are_never_shared():
    """Three tiles for two tokens, none for two; blank tiles among others."""
    ids = [1, 9, 9, 5, 0]
    assert forks(asked(ids, 7, 7, 7), asked(ids), asked(ids, 7, 7), asked(ids)) == [ALONE] * 4
    assert forks(asked(ids, 7, 7, flag=0), asked(ids, 7, 7)) == [ALONE] * 2


def test_without_an_image_token_nothing_is_shared():
    prompts = [asked([1, 9, 5, 0], 7), asked([1, 9, 6, 0], 7)]
    assert find_forks(prompts) == [Fork(), Fork()]


def test_tiles_stand_where_their_tokens_are():
    told = content_ids(np.array([1, 9, 9, 2, 9, 9, 3]), np.array([[7], [8]], np.uint8), IMAGE)
    assert told[[0, 3, 6]].tolist() == [1, 2, 3]
    assert told[1] == told[2] < 0 and told[4] == told[5] < 0 and told[1] != told[4]
