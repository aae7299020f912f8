"""Files of flags: values by the type of their flag, wrong ones named with file and key, flags after the file win."""

import json

import pytest

from internvl_chat.config_file import config_words, read_config, with_config
from internvl_chat.training import parse_arguments, wants_deepspeed

BASE = {"model_name_or_path": "ckpt/x", "meta_path": "meta.json", "report_to": "none"}


@pytest.fixture
def parsed(tmp_path):
    """Function from the lines of a YAML file, or a dict for a JSON file, and flags to the three groups."""

    def parse(content, *flags):
        if isinstance(content, dict):
            path = tmp_path / "run.json"
            path.write_text(json.dumps({**BASE, "output_dir": str(tmp_path / "out"), **content}))
        else:
            path = tmp_path / "run.yaml"
            lines = [f"{key}: {value}" for key, value in BASE.items()]
            path.write_text("\n".join([*lines, f"output_dir: {tmp_path / 'out'}", content]))
        return parse_arguments([str(path), *flags])

    return parse


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "0.000001", "'1e-6'", "1E-6", "+1e-6"])
def test_numbers_of_any_notation(parsed, text):
    assert parsed(f"learning_rate: {text}")[2].learning_rate == 1e-6


@pytest.mark.parametrize(
    ("text", "is_true"),
    [("true", 1), ("True", 1), ("yes", 1), ("1", 1), ("'True'", 1), ("false", 0), ("no", 0), ('"False"', 0), ("0", 0)],
)
def test_booleans_in_quotes_or_not(parsed, text, is_true):
    assert parsed(f"freeze_llm: {text}")[0].freeze_llm is bool(is_true)


@pytest.mark.parametrize("value", [True, "True", "true", 1, False, "False", "no"])
def test_booleans_of_json(parsed, value):
    assert parsed({"freeze_llm": value})[0].freeze_llm is (value in (True, "True", "true"))


def test_every_kind_of_flag(parsed):
    lines = [
        "loss_type: [hinge, ipo]",
        "loss_weights: [0.5, 2]",
        "weight_decay: 5e-2",
        "warmup_ratio: '3e-2'",
        "beta: 1",
        "save_strategy: no",
        "lr_scheduler_type: cosine_with_min_lr",
        "lr_scheduler_kwargs: {min_lr: 1e-7, num_cycles: 2}",
        "max-seq-length: 512  # dashes do as well",
        "eval_meta_path:",
        "vision_select_layer: -2",
        "system_prompt: 'a: b, # c'",
        "label_names: [labels]",
    ]
    model, data, mpo = parsed("\n".join(lines))
    assert (mpo.loss_mixture().names, mpo.loss_mixture().weights) == (("hinge", "ipo"), (0.5, 2.0))
    assert (mpo.weight_decay, mpo.warmup_steps, mpo.beta) == (0.05, 0.03, 1.0)
    assert (mpo.save_strategy, mpo.lr_scheduler_kwargs) == ("no", {"min_lr": 1e-7, "num_cycles": 2})
    assert (data.max_seq_length, data.eval_meta_path, data.system_prompt) == (512, None, "a: b, # c")
    assert (model.vision_select_layer, mpo.label_names) == (-2, ["labels"])


def test_json_holds_the_same(parsed):
    settings = {"loss_type": ["sigmoid", "bco_pair"], "learning_rate": "1e-6", "weight_decay": 5e-2, "beta": 1}
    more = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-7}, "eval_meta_path": None}
    _, data, mpo = parsed({**settings, **more})
    assert (mpo.loss_type, mpo.learning_rate, mpo.weight_decay) == ("sigmoid,bco_pair", 1e-6, 0.05)
    assert (mpo.lr_scheduler_kwargs, data.eval_meta_path) == ({"min_lr": 1e-7}, None)


def test_flags_after_the_file_override_it(parsed, tmp_path):
    flags = ["--beta", "0.3", "--freeze_llm", "False", "--loss_type=ipo", "--max-steps", "3"]
    model, _, mpo = parsed("beta: 0.2\nfreeze_llm: true\nloss_type: [sigmoid]", *flags)
    assert (mpo.beta, model.freeze_llm, mpo.loss_type, mpo.max_steps) == (0.3, False, "ipo", 3)
    named = parse_arguments(["--config", str(tmp_path / "run.yaml"), "--beta", "0.4"])
    assert named[2].beta == 0.4 and named[0].freeze_llm


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("learning_rate: fast", "run.yaml: learning_rate: invalid float value: 'fast'"),
        ("learning_rate: [1, 2]", "run.yaml: learning_rate: invalid float value: '1,2'"),
        ("beta: {a: 1}", "run.yaml: beta: invalid float value"),
        ("max_steps: 2.5", "run.yaml: max_steps: invalid int value: '2.5'"),
        ("freeze_llm: 3", "run.yaml: freeze_llm: Truthy value expected: got 3"),
        ("freeze_llm: Flase", "run.yaml: freeze_llm: Truthy value expected: got Flase"),
        ("save_strategy: sometimes", "run.yaml: save_strategy: invalid choice: 'sometimes' (choose from"),
        ("lr_scheduler_type: cosin", "run.yaml: lr_scheduler_type: invalid choice: 'cosin'"),
        ("meta_pth: x", "run.yaml: unknown flag --meta_pth; did you mean --meta_path?"),
        ("lerning_rate: 1", "run.yaml: unknown flag --lerning_rate; did you mean --learning_rate?"),
        ("qqqq: 1", "run.yaml: unknown flag --qqqq"),
        ("beta: 0.1\nbeta: 0.2", "run.yaml: beta is given twice; keep one"),
        ("max_steps: 1\nmax-steps: 2", "run.yaml: max_steps is given twice; keep one"),
        ("lr_scheduler_kwargs: {a: 1, a: 2}", "run.yaml: not a file of flags: a is given twice"),
        ("beta: null", "run.yaml: beta is null; leave it out for its default, 0.1"),
        ("beta: -1", "run.yaml: --beta -1.0 must be above 0"),
        ("loss_type: [dpoo]", "run.yaml: unknown loss"),
        ("loss_type: [[sigmoid]]", "run.yaml: not a file of flags: loss_type must be a value or a list of values"),
        ("beta: [", "run.yaml: not a file of flags: while parsing"),
        ("beta 0.1", "run.yaml: not a file of flags: "),
        ("\tbeta: 1", "run.yaml: not a file of flags: "),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(parsed, text, reason):
    with pytest.raises(ValueError) as raised:
        parsed(text)
    assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_wrong_in_json_is_named_too(parsed, tmp_path):
    for value, reason in (({"freeze_llm": "maybe"}, "freeze_llm: Truthy"), ({"meta_pth": 1}, "mean --meta_path")):
        with pytest.raises(ValueError, match=f"run.json: .*{reason}"):
            parsed(value)
    for text, reason in (
        ('{"beta": 1, "beta": 2}', "beta is given twice; keep one"),
        ("{'beta': 1}", "not a file of flags: Expecting property name"),
        ("[1]", "it must be an object of flags, not a list"),
        ("{}", "no flags in it"),
    ):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=f"run.json: .*{reason}"):
            parse_arguments([str(tmp_path / "run.json")])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no flags in it; write lines such as"),
        (b"# only a comment\n", "no flags in it"),
        (b"- a\n- b\n", "it must be lines 'flag: value', not a sequence"),
        (b"just words\n", "it must be lines 'flag: value', not a scalar"),
        (b"beta: \xff\xfe\n", "not valid UTF-8 at byte 6; save the file as UTF-8"),
        ("beta: 1".encode("utf-16"), "this is text in UTF-16, not text; save it as UTF-8"),
        (b"\x1f\x8b\x08", "a gzip archive"),
    ],
)
def test_files_that_hold_no_flags(tmp_path, content, reason):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    for read in (parse_arguments, wants_deepspeed):
        with pytest.raises(ValueError) as raised:
            read([str(path), "--max_steps", "1"])
        assert str(raised.value).startswith(f"{path}: ") and reason in str(raised.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml: no such file of flags; examples/ has some"):
        parse_arguments([str(tmp_path / "none.yaml")])


def test_unknown_flags_get_a_suggestion(parsed):
    with pytest.raises(ValueError, match="unknown flag --lerning_rate; did you mean --learning_rate?"):
        parsed("beta: 1", "--lerning_rate", "1e-5")
    with pytest.raises(ValueError, match="^unknown flag --meta_pth; did you mean --meta_path?"):
        parse_arguments(["--model_name_or_path", "x", "--meta_path", "y", "--meta_pth=z"])
    with pytest.raises(ValueError, match="^run.yaml: a file of flags stands first"):
        parse_arguments(["--model_name_or_path", "x", "--meta_path", "y", "run.yaml"])


def test_a_wrong_value_of_a_flag_is_one_line():
    with pytest.raises(ValueError, match="^argument --beta: invalid float value: 'x'$"):
        parse_arguments(["--beta", "x"])


def test_words_are_those_of_a_command_line(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("deepspeed: {zero_optimization: {stage: 2}, x: 1e-3}\nmeta_path: a b\nrpo_alpha:\n")
    words = ['--deepspeed={"zero_optimization": {"stage": 2}, "x": 0.001}', "--meta_path=a b"]
    assert config_words(read_config(path)) == words
    assert with_config([str(path), "--beta", "1"]) == [*words, "--beta", "1"]
    assert wants_deepspeed([str(path)]) and not wants_deepspeed(["--beta", "1"])
    assert not wants_deepspeed([str(path), "--deepspeed", ""])
    path.write_text('deepspeed: ""\n')
    assert not wants_deepspeed([str(path)])
