"""Is a generated answer right? The checker with its checks, the judge over a data set, the steps of an answer."""

from tools.reasoning_data_pipeline.answers.checker import (
    KNOWN_MODES,
    AnswerChecker,
    Outcome,
    ParsedAnswer,
    Question,
    Verdict,
    accepted_texts,
    anls,
    modes_for_dataset,
    parse_answer,
)

__all__ = [
    "KNOWN_MODES",
    "AnswerChecker",
    "Outcome",
    "ParsedAnswer",
    "Question",
    "Verdict",
    "accepted_texts",
    "anls",
    "modes_for_dataset",
    "parse_answer",
]
