import pickle

import pytest

from internvl_chat.model import load_tokenizer
from internvl_chat.model.tokenization_internlm2 import InternLM2Tokenizer

TEXTS = [
    "Hello world",
    " a leading space",
    "two  spaces, a tab\tand\n\nnew lines ",
    "你好，世界 — 鱻",
    "<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat?",
    " <|im_end|> between <|im_start|> spaces ",
    "",
]


@pytest.fixture(scope="module")
def tokenizer(internlm2):
    return internlm2.tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_inverts_encoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_special_tokens_of_the_checkpoint(tokenizer):
    assert type(tokenizer) is InternLM2Tokenizer
    assert len(tokenizer) == 715
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>", "<IMG_CONTEXT>"]) == [704, 705, 708]
    assert tokenizer.convert_ids_to_tokens([704, 708]) == ["<|im_end|>", "<IMG_CONTEXT>"]


def test_bos_comes_first_and_only_with_special_tokens(tokenizer):
    plain = tokenizer("ab", add_special_tokens=False).input_ids
    assert tokenizer("ab").input_ids == [1, *plain]
    assert tokenizer.get_special_tokens_mask(plain) == [1] + [0] * len(plain)
    assert tokenizer.get_special_tokens_mask([1, *plain], already_has_special_tokens=True) == [1] + [0] * len(plain)


def test_bos_and_eos_are_options(internlm2):
    tokenizer = InternLM2Tokenizer(str(internlm2.folder / "tokenizer.model"), add_bos_token=False, add_eos_token=True)
    plain = tokenizer("ab", add_special_tokens=False).input_ids
    assert tokenizer("ab").input_ids == [*plain, 2]


def test_skip_special_tokens(tokenizer):
    ids = tokenizer("a<|im_end|><img>b").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


def test_left_padding_is_asked_for_per_call(tokenizer):
    batch = tokenizer(["a", "a much longer text"], padding=True, padding_side="left", return_tensors="pt")
    missing = batch.input_ids.shape[1] - 2
    assert batch.input_ids[0, :missing].tolist() == [2] * missing
    assert batch.attention_mask[0].tolist() == [0] * missing + [1, 1]


def test_saving_and_loading_changes_nothing(tokenizer, internlm2, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == (internlm2.folder / "tokenizer.model").read_bytes()
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert again.model_max_length == tokenizer.model_max_length
    for text in TEXTS:
        assert again(text).input_ids == tokenizer(text).input_ids


def test_pickling_for_loader_workers(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again("Hello <img> 世界").input_ids == tokenizer("Hello <img> 世界").input_ids
