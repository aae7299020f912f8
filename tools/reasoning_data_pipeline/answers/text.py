r"""One spelling for answers that read the same: Unicode, LaTeX, markdown and the phrases around an answer.

`normalise` gives the text that the later tiers read: `\dfrac12`, `**A**`, `$5$`, `The answer is 5.` become `\frac12`,
`A`, `5`, `5`. It never drops what carries meaning: signs, brackets, relations and units stay. `word_key` is the
coarser key for plain words, without case, articles and punctuation; it is None for anything that looks like
mathematics, where punctuation means something.
"""

from __future__ import annotations

import re
import unicodedata

MAX_MARKUP_CHARS = 8000
"""Longer answers are compared as text only: no answer that needs reading is that long, and bombs are."""
_MAX_PEELS = 8

_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("‘’‛`´", "'"),
    **dict.fromkeys("“”„«»「」《》", '"'),
    **dict.fromkeys("×∙⋅·", "*"),
    **dict.fromkeys("÷⁄∕", "/"),
    "º": "°", "≦": "≤", "≧": "≥", "⩽": "≤", "⩾": "≥", "∣": "|", "～": "~", "∼": "~", "Ø": "∅",
    "ℝ": "(-∞,∞)", "【": "[", "】": "]",
}  # fmt: skip
_TRANSLATION = str.maketrans(_CHARACTERS)
_BEFORE_NFKC = str.maketrans({**_CHARACTERS, "µ": "μ"})
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_VULGAR_AFTER_DIGIT = re.compile("(?<=[0-9])(?=[¼½¾⅐-⅞])")
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]")
_SPACES = re.compile(r"\s+")

_SYMBOL_TABLE = r"""
cdot * times * ast * div / pm ± mp ∓ le ≤ leq ≤ leqslant ≤ ge ≥ geq ≥ geqslant ≥ lt < gt > ne ≠ neq ≠ approx ≈ sim ~
infty ∞ cup ∪ cap ∩ in ∈ emptyset ∅ varnothing ∅ angle ∠ parallel ∥ perp ⊥ triangle △ degree ° circ ° mid | vert |
lvert | rvert | to → rightarrow → ldots ... dots ... cdots ... cong ≅ langle ( rangle ) lbrace ⦃ rbrace ⦄
dfrac \frac tfrac \frac cfrac \frac alpha α beta β gamma γ delta δ epsilon ε varepsilon ε theta θ lambda λ mu μ
pi π rho ρ sigma σ tau τ phi φ varphi φ omega ω Delta Δ Omega Ω Sigma Σ Phi Φ
"""
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp"
_SYMBOLS = {
    **dict(zip(_SYMBOL_TABLE.split()[::2], _SYMBOL_TABLE.split()[1::2], strict=True)),
    **dict.fromkeys(("quad", "qquad", "displaystyle"), " "),
    **{name: f" {name}" for name in _FUNCTIONS.split()},
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_ESCAPED = re.compile(r"\\([%$#&_ ,;:!{}|])")
_ESCAPES = {"{": "⦃", "}": "⦄", "|": "∥", " ": " ", ",": " ", ";": " ", ":": " ", "!": ""}
_SIZES = re.compile(r"\\(?:left|right|[bB]ig{1,2}[lr]?)(?![A-Za-z])\s*\.?")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf)?|math(?:rm|bf|it|sf|bb|cal|tt)|mbox|operatorname|boldsymbol|bm|emph|underline)\s*\{([^{}]*)\}"
)
_REPEATING = re.compile(r"(?<!\d)(\d*\.\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}")
_SEGMENT = re.compile(r"\\(?:overline|bar)\s*\{([A-Z]{2})\}")
_THIN_GROUP = re.compile(r"(?<=\d)(?:,? ?\\[,!;: ] ?|\{,\})(?=\d{3}(?!\d))")
_TEX_SPACE = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|\{\s+\}")
_LAST_BACKSLASH = re.compile(r"(?<=[^\\])\\$")
_TEX_NO_SPACE = re.compile(r"(?<!\\)\\!")
_ARRAY = re.compile(r"([(\[|])\s*\\begin\s*\{array\}\s*\{[^{}]*\}(.*)\\end\s*\{array\}\s*([)\]|])", re.DOTALL)
_NOT_EQUAL = re.compile(r"(?<![\d)])!=|(?<=\s)!=")
_INLINE_MATH = re.compile(r"(?<!\\)\$(?=[^\s$])([^$]*?[^\s$\\])\$(?!\d)")
_BOLD_PART = re.compile(r"(?<![\w)*])\*\*(?=[^\s*])([^*]*?[^\s*])\*\*(?![\w(*])")
_CHINESE_SIGN = re.compile(r"(?:负|零下)\s*(?=[\d.\\])")
_CHINESE_MIXED = re.compile(r"(?<=\d)\s*又\s*(?=\d)")
_SPACED_UNIT = re.compile(r"(?<=\d)~(?=[A-Za-z])")
_DEGREE = re.compile(r"\^\s*(?:\{\s*°\s*\}|°)")

_MARKDOWN = (r"\*\*(?!\*)(.+?)\*\*", r"\*([^*]+)\*", r"__(.+)__", r'"([^"]+)"', r"'([^']+)'")
_MATH_MODE = (
    r"\$\$(.+)\$\$",
    r"\$([^$]+)\$",
    r"\\\((.+)\\\)",
    r"\\\[(.+)\\\]",
    r"\\(?:boxed|fbox)\s*\{(.+)\}",
    r"\{([^{},|:]+)\}",
)
_WRAPPERS = [re.compile(pattern, re.DOTALL) for pattern in (*_MARKDOWN, *_MATH_MODE)]
_WRAPPER_STARTS = tuple("*_\"'$\\{")
_PHRASE_WORDS = ("answer", "result", "solution", "答案", "结果")
_PHRASE = re.compile(
    r"(?:.*(?<![A-Za-z]))?(?:answer|result|solution|答案|结果)\s*"
    r"(?:(?:is|are|should be|would be|must be)\b\s*[:=]?|[:=]|[是为]\s*:?)",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:"
    r"(?:i choose|i pick)\s+"
    r"|(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:option|choice)(?:\s+is|:)?\s+(?=\S)"
    r"|(?:it is|it's|this is|that is|they are|there are|there is)\s+(?=\S)|=\s*(?=\S)"
    r"|(?:故|应|正确)?(?:选项|选择|选)(?:是|为)?\s*:?\s*(?=\(?[A-Za-z](?![A-Za-z])))",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"\b(?:not|never|wrong|incorrect|opposite|half|twice|double)\b|n't|不|错|相反|一半", re.IGNORECASE)
_CLAUSE_END = re.compile("[,.;!?。]")
_TAIL = re.compile(
    r"(?<=[A-Za-z)])(?:\s+is (?:the )?(?:correct|right)(?: answer| option| choice)?|选?项)$", re.IGNORECASE
)
_TAIL_ENDS = frozenset("trneTRNE项")
_CALLED_ON_WORD = re.compile(r"(?:[^\W\d_]{2,}|[^\x00-\x7f])[!?]+$")


def normalise(answer: str) -> str:
    """`answer` in one spelling, without markup and phrases around it; "" only for a blank answer."""
    text = _unicode(answer)
    if len(text) > MAX_MARKUP_CHARS:
        return text
    if "\\" in text:
        text = _tex_spaces(text)
    text = _peeled(text)
    if "\\" in text or "{" in text:
        text = _peeled(_latex(text))
    if "$" in text or "**" in text or "!=" in text or "~" in text:
        text = _marks(text)
    return _strip_parentheses(text) if text.startswith("(") else text


def _peeled(text: str) -> str:
    """Without the wrappers and phrases around an answer, however many there are up to a bound."""
    for _ in range(_MAX_PEELS):
        peeled = _peel(text)
        if peeled == text:
            break
        text = peeled
    return text


def _marks(text: str) -> str:
    """Dollar signs around a part that is mathematics, stars around a bold part: gone; what they enclose stays."""
    if text.count("$") > 1:
        text = _SPACES.sub(" ", _INLINE_MATH.sub(r" \1 ", text)).strip()
    if "**" in text:
        text = _BOLD_PART.sub(r"\1", text)
    if "!=" in text:
        text = _NOT_EQUAL.sub("≠", text)
    return _SPACED_UNIT.sub(" ", text) if "~" in text else text


def _tex_spaces(text: str) -> str:
    r"""Spaces of TeX and of Mathpix (`\mathrm{~cm}`) as spaces, those between digits as the commas they stand for."""
    text = _LAST_BACKSLASH.sub("", _TEX_SPACE.sub(" ", _THIN_GROUP.sub(",", text)))
    return _SPACES.sub(" ", _TEX_NO_SPACE.sub("", text)).strip()


def _unicode(answer: str) -> str:
    if answer.isascii():
        return " ".join(answer.replace("\0", "").replace("`", "'").split())
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{{{run[0].translate(_SUPERSCRIPTS)}}}", answer)
    text = _VULGAR_AFTER_DIGIT.sub(" ", _INVISIBLE.sub("", text).replace("\0", ""))
    text = unicodedata.normalize("NFKC", text.translate(_BEFORE_NFKC)).translate(_TRANSLATION)
    text = text.replace("等于", "=")
    text = _CHINESE_MIXED.sub(" ", _CHINESE_SIGN.sub("-", text))
    return _SPACES.sub(" ", text).strip()


def _peel(text: str) -> str:
    """One layer less: an end mark, a wrapper, or a phrase that leads to the answer."""
    text = _without_end_mark(text)
    if text.startswith(_WRAPPER_STARTS):
        for wrapper in _WRAPPERS:
            match = wrapper.fullmatch(text)
            if match and _balanced(match[1]):
                return match[1].strip()
    lowered = text.lower()
    phrases = (_PHRASE, _LEAD) if any(word in lowered for word in _PHRASE_WORDS) else (_LEAD,)
    for phrase in phrases:
        match = phrase.match(text)
        if match and match.end() < len(text) and not _DENIAL.search(_CLAUSE_END.split(match[0])[-1]):
            return text[match.end() :].strip()
    return _TAIL.sub("", text) if text[-1:] in _TAIL_ENDS else text


def _without_end_mark(text: str) -> str:
    if text.endswith(("!", "?")):
        return text.rstrip("!?") if _CALLED_ON_WORD.search(text) else text
    if text.endswith((".", "。", ",", ";", ":", "、", "~")) and not text.endswith("\\,"):
        return text.rstrip(".。,;:、~ ") or text
    return text


def _balanced(text: str) -> bool:
    """Whether braces close in order, so that a wrapper's two ends belong together."""
    depth = 0
    for character in text.replace("\\{", "").replace("\\}", ""):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _latex(text: str) -> str:
    """Commands that have a plain spelling get it; structure (`\\frac`, `\\sqrt`, matrices) stays."""
    text = _SIZES.sub("", _THIN_GROUP.sub(",", text))
    if "{array}" in text:
        text = _ARRAY.sub(_as_matrix, text)
    text = text.replace("\\mathbb{R}", "(-∞,∞)")
    for _ in range(_MAX_PEELS):
        unfonted = _FONT.sub(r" \1" if "\\begin" in text else r"\1", text)
        if unfonted == text:
            break
        text = unfonted
    text = _REPEATING.sub(_expand_repeating, text)
    text = _SEGMENT.sub(r"\1", text)
    if "\\begin" not in text:  # there \\ ends a row, and \, may follow it
        text = _ESCAPED.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), text)
    text = _COMMAND.sub(lambda command: _SYMBOLS.get(command[1], command[0]), text)
    text = _DEGREE.sub("°", text)
    return _SPACES.sub(" ", text).strip()


def _as_matrix(match: re.Match[str]) -> str:
    """An array between brackets as the matrix that it is."""
    kind = {"|": "vmatrix", "[": "bmatrix"}.get(match[1], "pmatrix")
    return rf"\begin{{{kind}}}{match[2].replace(chr(92) + 'hline', '')}\end{{{kind}}}"


def _expand_repeating(match: re.Match[str]) -> str:
    """A repeating decimal as the fraction it is: 0.1(6) = (16 - 1) / 90."""
    whole, _, fixed = match[1].partition(".")
    repeated = match[2]
    long, short = int(f"{whole or 0}{fixed}{repeated}"), int(f"{whole or 0}{fixed}")
    return f"{long - short}/{'9' * len(repeated)}{'0' * len(fixed)}"


def _strip_parentheses(text: str) -> str:
    """Without the parentheses that enclose all of `text`, but for those of a tuple."""
    leading = len(text) - len(text.lstrip("("))
    trailing = len(text) - len(text.rstrip(")"))
    pairs = min(leading, trailing)
    if not pairs or "," in text:
        return text
    depth = lowest = pairs
    for character in text[pairs : len(text) - pairs]:
        depth += (character == "(") - (character == ")")
        lowest = min(lowest, depth)
    if depth != pairs or lowest <= 0:
        return text
    return text[lowest : len(text) - lowest].strip() or text


_WORD = re.compile(r"[^\W\d_]{2,}|[^\x00-\x7f°π∞√]")
_OPERATOR = re.compile(r"[=<>≤≥^\\_|{}\[\]*√∪∩∞±⦃⦄+/!-]")
_MATHEMATICAL = re.compile(r"[=<>≤≥^\\_|{}\[\]*√∪∩∞±⦃⦄]|\d\s*[+/!]|(?<![A-Za-z]{2})[-+]\d")
_ABBREVIATION = re.compile(r"\b(?:(?:[^\W\d_]\.\s?)+[^\W\d_](?:\.|\b)|[Nn]/[Aa]\b)")
_INNER_MARKS = re.compile(r"(?<=\w)[-/](?=\w)|[.,;:!?\"()。、&](?=\s|$|[^\d])|(?:^|(?<=\s))[@#('\"]+")
_MARKS = frozenset("-/.,;:!?\"()。、&@#'")
_SMALL_WORDS = frozenset({"a", "an", "the"})
_DIGIT_WORDS = "zero one two three four five six seven eight nine ten"
NUMBER_WORDS = {word: str(value) for value, word in enumerate(_DIGIT_WORDS.split())}


def is_wordy(text: str) -> bool:
    """Whether `text` is plain words: it has one, and nothing that mathematics could mean."""
    if _WORD.search(text) is None:
        return False
    return _OPERATOR.search(text) is None or _MATHEMATICAL.search(text) is None


def word_key(text: str) -> str | None:
    """What stays of plain words without case, articles and punctuation; None for what is not plain words."""
    marked = not _MARKS.isdisjoint(text)
    if marked:
        text = _ABBREVIATION.sub(lambda match: re.sub(r"[./\s]", "", match[0]), text)
    if not is_wordy(text):
        return None
    folded = text.casefold()
    words = (_INNER_MARKS.sub(" ", folded.replace("'", "")) if marked else folded).split()
    kept = [NUMBER_WORDS.get(word, word) for word in words if word not in _SMALL_WORDS]
    return " ".join(kept) or None
