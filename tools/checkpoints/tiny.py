"""A tiny InternVL checkpoint with random weights and a tokenizer made on the spot; `make_tiny_checkpoint.py` asks.

Weights are drawn with standard deviation 1/sqrt(fan-in), about 1/sqrt(width): with the 0.02 of large models such
small ones hardly learn to read. The tokenizer is trained on texts of the small visual-reasoning world, or on those of
files.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import orjson
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2Tokenizer

from internvl_chat.model import InternVLChatConfig, InternVLChatModel
from internvl_chat.model.configuration_internlm2 import InternLM2Config
from internvl_chat.model.conversation import get_template
from internvl_chat.model.tokenization_internlm2 import InternLM2Tokenizer
from tools.checkpoints.files import preprocessor, save_model, save_tokenizer, write_json
from tools.checkpoints.fresh import IMAGE_TOKENS, VIT_FORMS, draw_weights
from tools.visual_reasoning.practice import practise
from tools.visual_reasoning.questions import ask_anything, look_around

TEMPLATE = "internvl2_5"
MAX_LENGTH = 8192  # tokens
CORPUS_ROWS = 4000
CHAT_TOKENS = ["<|im_start|>", "<|im_end|>"]
AGENT_TOKENS = ["<|action_start|>", "<|action_end|>", "<|interpreter|>", "<|plugin|>"]


def make_tiny_checkpoint(args: argparse.Namespace) -> None:
    """Write config, weights and tokenizer to `args.out`; `args` as of `parse_arguments`.

    Raises:
        FileExistsError: the folder holds a checkpoint already.
        ValueError: sizes that do not go together, or a vocabulary too small for the corpus.
    """
    if (args.out / "config.json").exists():
        raise FileExistsError(f"{args.out} holds a checkpoint already; name another folder or delete it")
    args.out.mkdir(parents=True, exist_ok=True)
    texts = corpus(args.corpus)
    make_tokenizer = qwen2_tokenizer if args.family == "qwen2" else internlm2_tokenizer
    tokenizer = make_tokenizer(texts, args.vocab_size, args.out)
    save_tokenizer(tokenizer, args.out, get_template(TEMPLATE))
    model = InternVLChatModel(chat_config(args, tokenizer))
    draw_weights(model, args.seed)
    save_model(model, args.out)
    stops = tokenizer.convert_tokens_to_ids(CHAT_TOKENS)
    write_json(args.out / "generation_config.json", {"eos_token_id": stops})
    write_json(args.out / "preprocessor_config.json", preprocessor(args.image_size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.out}: {args.family}, {parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens")


def corpus(files: Sequence[Path] | None) -> list[str]:
    """Texts to train a tokenizer on: those of the files (rows of JSONL by field), or of the small world.

    Every chat template begins with the same long system message: it comes often enough to become a few tokens.
    """
    texts = list(_file_texts(files) if files else _world_texts())
    template = get_template(TEMPLATE)
    return texts + [template.prompt([("user", "\n"), ("assistant", None)])] * max(1, len(texts) // 4)


def _file_texts(files: Sequence[Path]) -> Iterator[str]:
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            values = orjson.loads(line).values() if file.suffix == ".jsonl" else [line]
            yield from (value for value in values if isinstance(value, str))


def _world_texts() -> Iterator[str]:
    rng = random.Random(0)
    for question in islice(iter(lambda: ask_anything(rng), None), CORPUS_ROWS):
        yield from (question.step_by_step, question.solution().response, *practise(rng))
        yield from chain.from_iterable(look_around(question.scene, rng))


def qwen2_tokenizer(texts: Sequence[str], vocab_size: int, folder: Path) -> PreTrainedTokenizerBase:
    """Byte-level BPE as Qwen2's; also writes vocab.json and merges.txt to `folder`."""
    like = Qwen2Tokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer, trained.decoder = like.normalizer, like.pre_tokenizer, like.decoder
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    trained.model.save(str(folder))
    merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]]
    return Qwen2Tokenizer(
        vocab=trained.get_vocab(),
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=[*CHAT_TOKENS, *IMAGE_TOKENS],
        model_max_length=MAX_LENGTH,
    )


def internlm2_tokenizer(texts: Sequence[str], vocab_size: int, folder: Path) -> PreTrainedTokenizerBase:
    """Sentencepiece BPE with byte fallback as InternLM2's; its tokenizer.model is written to `folder`.

    Raises:
        ValueError: the vocabulary has no room for every character of the texts.
    """
    options: dict[str, Any] = {
        "model_prefix": str(folder / "tokenizer"),
        "model_type": "bpe",
        "byte_fallback": True,
        "split_digits": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), vocab_size=vocab_size, **options)
    except RuntimeError as error:
        raise ValueError(f"--vocab_size {vocab_size} is too small for the characters of the corpus: {error}") from error
    (folder / "tokenizer.vocab").unlink()  # a listing that no tool reads
    return InternLM2Tokenizer(
        str(folder / "tokenizer.model"),
        extra_special_tokens=[*CHAT_TOKENS, *AGENT_TOKENS, *IMAGE_TOKENS],
        model_max_length=MAX_LENGTH,
    )


def chat_config(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> InternVLChatConfig:
    """The configuration of the whole model, by the sizes in `args` and the ids of the tokenizer."""
    vision = {
        "hidden_size": args.vit_hidden_size,
        "intermediate_size": args.vit_intermediate_size,
        "num_hidden_layers": args.vit_num_hidden_layers,
        "num_attention_heads": args.vit_num_attention_heads,
        "image_size": args.image_size,
        "patch_size": args.patch_size,
        "architectures": ["InternVisionModel"],
        **VIT_FORMS[args.vit],
    }
    return InternVLChatConfig(
        vision_config=vision,
        llm_config=language_config(args, tokenizer).to_dict(),
        architectures=["InternVLChatModel"],
        template=TEMPLATE,
        force_image_size=args.image_size,
        ps_version="v2",
        dynamic_image_size=True,
        use_thumbnail=True,
        max_dynamic_patch=args.max_dynamic_patch,
        tie_word_embeddings=False,
    )


def language_config(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The configuration of the language model, embeddings untied."""
    family, name = (Qwen2Config, "Qwen2") if args.family == "qwen2" else (InternLM2Config, "InternLM2")
    options = {} if args.family == "qwen2" else {"bias": False}
    return family(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.num_attention_heads,
        num_key_value_heads=args.num_key_value_heads,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        architectures=[f"{name}ForCausalLM"],
        **options,
    )
