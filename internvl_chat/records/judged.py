"""Rows of judged steps: the conversations that VisualPRM400K publishes and `visualprm_build.sh` writes. No torch.

    {"image": "a.png" | [...] | absent,
     "conversations": [{"from": "system", "value": ...},  # may be absent
                       {"from": "human", "value": "### Question:\\n...\\n\\n### Solution Process:\\n{step 1}"},
                       {"from": "gpt", "value": "+"},  # or "-"; "" or null where the step was not measured
                       {"from": "human", "value": "{step 2}"}, {"from": "gpt", "value": "-"}, ...],
     "scores": [0.75, 0.0, ...]}  # may be absent

A row of an outcome reward model is the same with one turn, which holds the whole answer. `scores` are the Monte-Carlo
scores of the steps, null where not measured. Whatever is wrong raises `RecordError` with the cure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from internvl_chat.model.critic_turns import MARKS, RIGHT, STEPS_HEAD, WRONG
from internvl_chat.records.rows import RecordError, Source, is_blank, own_keys, read_images, shown

UNMEASURED = ""


def question_of(turn: str) -> str:
    """What the first turn says before its first step; all of it where it has no such heading."""
    return turn.partition(STEPS_HEAD)[0]


def asked_of(row: Mapping[str, Any]) -> Any:
    """What a row of either kind asks: its question, or what the first turn of its conversation says of it."""
    turns = row.get("conversations")
    if "question" in row or not isinstance(turns, list):
        return row.get("question")
    said = (turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "human")
    first = next(said, None)
    return question_of(first) if isinstance(first, str) else None


def is_judged(row: Mapping[str, Any]) -> bool:
    """Whether a row is a conversation of judged steps, and no pair."""
    return "conversations" in row and not {"question", "chosen"} & set(row)


@dataclass(frozen=True)
class JudgedRow:
    """A conversation whose steps are judged.

    Attributes:
        image: paths in order, () for a text-only row.
        system: text of the system turn; None where there is none.
        steps: texts of the user's turns, the first with the question.
        judgements: `+`, `-`, or "" where a step was not measured; as many as there are steps.
        scores: Monte-Carlo scores in 0..1, None where a step was not measured; None in all where the row has none.
    """

    image: tuple[str, ...]
    system: str | None
    steps: tuple[str, ...]
    judgements: tuple[str, ...]
    scores: tuple[float | None, ...] | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: Source) -> JudgedRow:
        """Check a parsed row.

        Raises:
            RecordError: turns out of order, another judgement than + or -, a step without text, scores that do not
                fit, or nothing measured in the whole row.
        """
        row = own_keys(row, where)
        turns = _turns(row, where)
        system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
        steps, judgements = _sides(turns, where)
        scores = _scores(row, judgements, where)
        if not any(judgements):
            raise RecordError(*where, "no step of this row is measured: leave it out", "nothing_measured")
        return cls(read_images(row, where)[0], system, steps, judgements, scores)


def check_system(row: JudgedRow, said: str | None, where: Source) -> None:
    """Raise RecordError where a row is under another system message than `said`; None allows any."""
    if said is not None and (row.system or "") != said:
        cure = "give all rows one, or set --system_prompt"
        reason = f"its system message {shown(row.system)} is not that of the first row, {shown(said)}"
        raise RecordError(*where, f"{reason}: a critic has one; {cure}", "other_system_message")


def _turns(row: Mapping[str, Any], where: Source) -> list[tuple[str, str]]:
    """(from, value) of each turn."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        found = shown(sorted(row), 200) if turns is None else shown(turns)
        cure = "; pairs are trained on without --loss_type prm" if "chosen" in row else ""
        reason = f"field 'conversations' must list the turns of a judged answer; the row has {found}{cure}"
        raise RecordError(*where, reason, "missing_field")
    return [_turn(number, turn, where) for number, turn in enumerate(turns)]


def _turn(number: int, turn: object, where: Source) -> tuple[str, str]:
    """(from, value) of a turn; null is no judgement."""
    if not isinstance(turn, dict) or not {"from", "value"} <= set(turn):
        reason = f'turn {number} must be {{"from": ..., "value": ...}}, not {shown(turn)}'
        raise RecordError(*where, reason, "wrong_type")
    speaker, value = turn["from"], turn["value"]
    if value is None and speaker == "gpt":
        return speaker, UNMEASURED
    if not isinstance(value, str):
        raise RecordError(*where, f"turn {number} has {shown(value)} for a text", "wrong_type")
    return speaker, value


def _sides(turns: Sequence[tuple[str, str]], where: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The steps and their judgements."""
    speakers = [speaker for speaker, _ in turns]
    steps = tuple(text for speaker, text in turns if speaker == "human")
    judgements = tuple(text.strip() for speaker, text in turns if speaker == "gpt")
    if speakers != ["human", "gpt"] * (len(turns) // 2) or not turns:
        counts = f"{len(steps)} steps (human) and {len(judgements)} judgements (gpt)"
        reason = f"turns must be human, gpt, human, gpt, ..: {counts} in the order {shown(speakers, 120)}"
        raise RecordError(*where, reason, "turn_order")
    for number, (step, judgement) in enumerate(zip(steps, judgements, strict=True), 1):
        if is_blank(step.rpartition(STEPS_HEAD)[2] if number == 1 else step):
            raise RecordError(*where, f"step {number} has no text: {shown(step)}; leave it out", "empty_step")
        if judgement not in (*MARKS, UNMEASURED):
            cure = f"write {RIGHT} or {WRONG}, or nothing where it was not measured"
            raise RecordError(*where, f"step {number} is judged {shown(judgement)}: {cure}", "other_judgement")
    return steps, judgements


def _scores(row: Mapping[str, Any], judgements: Sequence[str], where: Source) -> tuple[float | None, ...] | None:
    """The scores of a row; None where it has none."""
    scores = row.get("scores")
    if scores is None:
        return None
    if not isinstance(scores, list) or len(scores) != len(judgements):
        count = len(scores) if isinstance(scores, list) else shown(scores)
        reason = f"field 'scores' must list a score for each of the {len(judgements)} steps, it has {count}"
        raise RecordError(*where, reason, "wrong_scores")
    for number, (score, judgement) in enumerate(zip(scores, judgements, strict=True), 1):
        is_number = isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1
        if (score is not None and not is_number) or (score is None) != (judgement == UNMEASURED):
            reason = f"the score of step {number}, judged {judgement!r}, must be in 0..1, null where not measured"
            raise RecordError(*where, f"{reason}: {shown(score)}", "wrong_scores")
    return tuple(None if score is None else float(score) for score in scores)
