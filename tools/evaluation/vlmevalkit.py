r"""How VLMEvalKit's InternVL wrapper words a question, so that figures here and there mean the same.

    use_mpo_prompt  USE_COT   words                                                   the answer is
    True            1         prompt version `en`, options as lines "A. .."           behind "Final answer:"
    False           1         the question, then one of COT; plain for other sets     in \boxed{}
    any             not 1     the question, then one of DIRECT                        the whole text

After `InternVLChat.build_prompt` of VLMEvalKit (vlmeval/vlm/internvl, Apache-2.0), whose texts these are.
"""

from __future__ import annotations

from typing import NamedTuple

ALWAYS_MPO = ("MMStar", "HallusionBench", "OCRBench")
"""Data sets whose MPO prompt does not wait for USE_COT."""

REASONED = (
    *("MathVista", "MathVerse", "MathVision", "VCR", "MTVQA", "MMVet", "MMDU", "CRPE", "MIA-Bench", "MM-Math"),
    *("DynaMath", "QSpatial", "WeMath", "LogicVista", "MM-IFEval", "ChartMimic", "MMReason"),
)
"""Data sets of open questions that are put without a request for a short answer, and reasoned under USE_COT."""

DIRECT = {
    "choice": "Answer with the option's letter from the given choices directly.",
    "choice_zh": "请直接回答选项字母。",
    "open": "Answer the question using a single word or phrase.",
}
_GUESS = (
    "If you are uncertain or the problem is too complex, make a reasoned guess based on the information provided. "
    "Avoid repeating steps indefinitely—provide your best guess even if unsure. "
    "Think step by step logically, considering all relevant information before answering."
)
COT = {
    "choice": (
        "Answer the preceding multiple choice question. The last line of your response should follow this format: "
        "'Answer: \\boxed{$LETTER}' (without quotes), where LETTER is one of the options. " + _GUESS
    ),
    "open": (
        "Answer the preceding question. The last line of your response should follow this format: "
        "'Answer: \\boxed{$FINAL_ANSWER}' (without quotes), where 'FINAL_ANSWER' is your conclusion "
        "based on the reasoning provided. " + _GUESS
    ),
}


class Wording(NamedTuple):
    """What is put behind a question, and the prompt version by which it is asked and its answer is found."""

    suffix: str
    ask_as: str | None
    parse_as: str | None


def wording(question: str, dataset: str, *, is_choice: bool, use_mpo_prompt: bool, use_cot: bool) -> Wording:
    """The words of one question.

    Args:
        question: as asked, options included; Chinese characters in it make a Chinese request.
        dataset: name of the data set; parts of it are compared, case counts.
        is_choice: whether it has options.
        use_mpo_prompt: as in VLMEvalKit's config.
        use_cot: whether the environment has USE_COT=1.
    """
    if use_mpo_prompt and (use_cot or dataset in ALWAYS_MPO):
        return Wording("", "en", "en")
    kind = "choice" if is_choice else "open"
    is_reasoned = is_choice or any(name in dataset for name in REASONED)
    if use_cot and is_reasoned:
        return Wording(f"\n{COT[kind]}", None, "en_v2")
    if is_choice and any("\u4e00" <= letter <= "\u9fff" for letter in question):
        kind = "choice_zh"
    return Wording("" if is_reasoned and not is_choice else f"\n{DIRECT[kind]}", None, None)
