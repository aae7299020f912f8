"""The kinds of fault that `tools/validate.py` knows: what each is, how bad, and its cure.

An error is what training would skip, refuse, or measure wrongly; a warning trains, but is seldom meant. Names of errors
are those that the library's own errors carry, so that nothing is judged twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Fault:
    """A kind of fault: its name, how bad it is, what it is, and what to do about it."""

    name: str
    severity: Severity
    what: str
    cure: str


class FoundFault(NamedTuple):
    """One fault found: in which data set, at which line of which file (0: the data set as a whole), and the details."""

    fault: str
    dataset: str
    file: str
    line: int
    detail: str


_ERRORS = (
    ("meta_unusable", "meta.json cannot be used", "mend the field that is named; data/README.md has the format"),
    ("path_missing", "a root or an annotation file is not there", "correct the path in meta.json, or fetch the data"),
    ("wrong_file", "an annotation file is something else", "fetch or convert it as its detail says"),
    ("no_rows", "an annotation file has no rows", "take the data set out of meta.json, or make the file again"),
    ("unusable_row", "a row that training cannot use", "mend the row as its detail says"),
    ("bad_json", "a line is not a JSON object", "mend or delete the line; a torn last line means a copy was cut off"),
    ("picture_key", "a picture stands under a key that is not read", "rename the key to image or video"),
    ("missing_field", "a field is missing", "give the row its question, chosen and rejected"),
    ("wrong_type", "a field has the wrong type", "write texts as strings, images as one path or a list of paths"),
    ("empty_question", "the question is empty", "write the question, or delete the row"),
    ("video_unreadable", "a video cannot be opened", "fetch or convert the file again, to mp4 or gif"),
    ("video_too_large", "a video is too long, or its frames too large", "cut or scale it"),
    ("video_broken", "a video is cut short or broken", "fetch the file again"),
    ("placeholder_mismatch", "not as many <image> as images", "write <image> once for each image, or not at all"),
    ("empty_answer", "an answer is empty", "delete the pair: there is nothing to learn from"),
    ("same_answers", "chosen and rejected are the same", "delete the pair: it prefers nothing"),
    ("kinds_mixed", "pairs and judged steps in one mixture", "train each in a run of its own, by its --loss_type"),
    ("turn_order", "turns of judged steps are out of order", "write a judgement (gpt) behind each step (human)"),
    ("other_judgement", "a judgement is neither + nor -", "write + or -, or nothing where it was not measured"),
    ("empty_step", "a step has no text", "leave the step and its judgement out"),
    ("nothing_measured", "no step of a row is measured", "delete the row: there is nothing to learn from"),
    ("wrong_scores", "scores do not fit the steps", "write one in 0..1 for each step, null where not measured"),
    ("other_system_message", "a system message unlike that of the first row", "give all rows one; or --system_prompt"),
    ("image_missing", "an image is not there", "put the file under the root, or correct root in meta.json"),
    ("image_unreachable", "an image's store cannot be reached", "check network and credentials, then start again"),
    ("image_url", "an image is a URL", "download it and write its path below the root"),
    ("image_outside_root", "an image lies outside its root", "move it under the root, or set root to a folder above"),
    ("image_unreadable", "an image cannot be opened", "fetch or convert the file again; it may be an error page"),
    ("image_too_large", "an image has too many pixels, or none", "scale it down; more than 12 tiles are seldom cut"),
    ("image_broken", "an image is cut short or broken", "fetch the file again"),
    ("too_long", "a row does not fit max_seq_length", "raise --max_seq_length, or shorten or delete the row"),
    ("held_out_in_train", "a held-out prompt is trained on", "take it out of one of the two"),
)
_WARNINGS = (
    ("meta_unknown_field", "meta.json has a field that is ignored", "correct its name, or remove it"),
    ("path_doubtful", "a path of meta.json leads to two things", "write an absolute path"),
    ("length_differs", "length in meta.json is not the rows of the file", "correct length; is the file whole?"),
    ("nothing_drawn", "repeat_time leaves no row of a data set", "raise repeat_time, or remove the data set"),
    ("length_bias", "nearly all chosen answers are longer, or shorter", "balance lengths: models learn length first"),
    ("blank_answer", "an answer is white space", "delete the pair"),
    ("nearly_same_answers", "answers differ in case, spaces or a last mark only", "delete the pair"),
    ("placeholder_in_answer", "an answer holds <image>", "remove it: it is read as text"),
    ("image_mark", "a question marks an image as other formats do", "write <image> there: the mark is read as text"),
    ("special_token_in_text", "a text spells a special token", "remove it: it is read as text, not as the token"),
    ("garbled_text", "a text has control or replacement characters", "repair its encoding"),
    ("looping_answer", "chosen ends in the same words again and again", "delete the pair, or sample it again"),
    ("answer_leak", "the question states the answer", "remove the answer from the question"),
    ("no_final_answer", "chosen lacks the final answer asked for", "delete the pair, or sample it again"),
    ("same_final_answer", "both give the same final answer", "check the labels of this correctness pair"),
    ("fewer_tiles", "images lose tiles so that the row fits", "raise --max_seq_length for full resolution"),
    ("image_flat", "an image shows one colour, nothing else", "look at it: alpha, bit depth or a broken file hides it"),
    ("video_short", "a video is shorter than its header says", "fetch it again: it is cut short"),
    ("image_tiny", "an image is only a few pixels wide or high", "fetch the file again; it may be a placeholder"),
    ("image_rotated", "an image is to be shown rotated (EXIF)", "save it upright: it is trained as stored"),
    ("image_animated", "an image has several frames", "save the frame that is meant: the first is trained on"),
    ("image_transparent", "an image has transparent parts", "save it on white: what lies beneath is trained on"),
    ("duplicate_pair", "a pair occurs again", "delete it; to weigh a data set more, set repeat_time"),
    ("contradictory_pair", "another pair prefers the opposite", "delete one of the two, or both"),
)

FAULTS = {name: Fault(name, "error", what, cure) for name, what, cure in _ERRORS}
FAULTS |= {name: Fault(name, "warning", what, cure) for name, what, cure in _WARNINGS}
