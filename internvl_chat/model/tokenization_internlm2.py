"""Tokenizer of InternLM2 over its sentencepiece model.

transformers has none, and published checkpoints bring theirs as remote code; this one reads the same files. Its model
has no dummy prefix, so encoding and decoding are exact inverses of each other: no space comes or goes.
"""

from itertools import groupby

from .upstream import SentencePieceBackend


class InternLM2Tokenizer(SentencePieceBackend):
    """Sentencepiece BPE with byte fallback, special tokens on top.

    Attributes:
        add_bos_token: put `<s>` in front of a text.
        add_eos_token: put `</s>` behind a text.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self, vocab_file: str, *, add_bos_token: bool = True, add_eos_token: bool = False, **kwargs: object
    ) -> None:
        defaults = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
        super().__init__(
            vocab_file=vocab_file,
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            **{**defaults, **kwargs},
        )
        self.add_bos_token = add_bos_token
        self.add_eos_token = add_eos_token

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the ids with `<s>` and `</s>` as the two options say."""
        bos = [self.bos_token_id] if self.add_bos_token else []
        eos = [self.eos_token_id] if self.add_eos_token else []
        return bos + token_ids_0 + (token_ids_1 or []) + eos

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return 1 for special tokens and 0 for others, of the ids with or without them as said."""
        ids = token_ids_0 + (token_ids_1 or [])
        if already_has_special_tokens:
            return [int(token in self.all_special_ids) for token in ids]
        return [1] * self.add_bos_token + [0] * len(ids) + [1] * self.add_eos_token

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens into text: added tokens as they are, runs of pieces by sentencepiece."""
        runs = groupby(tokens, key=self._added_tokens_encoder.__contains__)
        return "".join("".join(run) if added else self.sp_model.decode_pieces(list(run)) for added, run in runs)
