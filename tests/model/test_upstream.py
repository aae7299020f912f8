"""What we use of other libraries that is not public: an upgrade that changes it is told here, name by name.

upstream.txt has a line for each name: where it is and what it is, a function or class by its parameters. It also lists
what `internvl_chat.model.upstream` cannot stand before: methods of theirs that we override, private attributes that we
read or set. Where a test fails, read the library's new code, follow it at the places that use the name, and write the
new line down.
"""

import ast
import inspect
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from transformers import Trainer

from internvl_chat.model import upstream
from internvl_chat.model.modeling_intern_vit import InternVisionModel
from internvl_chat.model.modeling_internlm2 import InternLM2ForCausalLM
from internvl_chat.model.modeling_internvl import InternVLNetwork
from internvl_chat.model.tokenization_internlm2 import InternLM2Tokenizer
from internvl_chat.run.trainer import MultimodalDPOTrainer

ROOT = Path(__file__).parents[2]
source_of = cache(inspect.getsource)
RECORD = dict(line.split(" = ", 1) for line in (Path(__file__).parent / "upstream.txt").read_text().splitlines())
# Modules whose names are public; of any other module of these libraries they are asked for at `upstream`.
PUBLIC = {
    "accelerate": {"utils"},
    "deepspeed": set(),
    "lmdeploy": set(),
    "peft": set(),
    "torch": {
        *("autograd.function", "autograd.graph", "distributed", "distributed.tensor", "nn", "nn.attention"),
        *("nn.functional", "optim.lr_scheduler", "utils.data"),
    },
    "transformers": {"modeling_outputs"},
    "trl": set(),
    "vllm": set(),
}
DOCUMENTED = {"_asdict", "_exit"}  # of namedtuples and of os, in spite of their names


def described(path):
    """What stands at `module:name`, in words that change when its use has to.

    Raises:
        AttributeError, ImportError: it is not there.
    """
    try:
        found = resolve_name(path)
    except AttributeError:
        return attribute_of_instances(path)
    if isinstance(found, torch._ops.OpOverloadPacket):
        return str(found.default._schema)
    if callable(found) and not inspect.isbuiltin(found):
        return without_types(inspect.signature(found))
    return repr(found) if isinstance(found, str | bool | None) else type(found).__name__


def attribute_of_instances(path):
    """Where a class sets an attribute of its instances; AttributeError where it does not."""
    owner, _, name = path.rpartition(".")
    set_here = re.compile(rf"self\.{name}\b[^=(]*=[^=]")
    for base in inspect.getmro(resolve_name(owner))[:-1]:
        if set_here.search(source_of(base)):
            return f"set by {base.__name__}"
    raise AttributeError(f"{path}: neither the class has it nor its instances")


def without_types(signature):
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


@pytest.mark.parametrize("path", RECORD)
def test_it_is_what_it_was(path):
    library = path.partition(":")[0].partition(".")[0]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed here")
    assert described(path) == RECORD[path]


def test_what_changes_is_noticed():
    """A parameter more, an attribute that is gone."""

    def before(a, *, b=1):
        pass

    def after(a: int, *, b=1, c=None):
        pass

    assert without_types(inspect.signature(before)) == "(a, *, b=1)" != without_types(inspect.signature(after))
    assert described("transformers:Trainer._tr_loss") == "set by Trainer"
    with pytest.raises(AttributeError, match="neither"):
        described("transformers:Trainer._never_set")


def test_every_name_of_the_table_is_recorded():
    assert set(upstream.PATHS) <= set(RECORD)


@pytest.mark.parametrize(
    "own", [MultimodalDPOTrainer, InternVLNetwork, InternVisionModel, InternLM2ForCausalLM, InternLM2Tokenizer]
)
def test_what_our_classes_override_is_recorded(own):
    """All of the Trainer's methods, of other classes what is private."""
    ours = [base for base in own.__mro__ if base.__module__.startswith("internvl_chat.")]
    theirs = [base for base in own.__mro__ if base not in ours]
    overridden = {name for base in ours for name in vars(base) if any(name in vars(other) for other in theirs[:-1])}
    asked = {name for name in overridden if issubclass(own, Trainer) or name.startswith("_")}
    recorded = {path.rpartition(".")[2] for path in RECORD}
    assert {name for name in asked if not name.startswith("__")} <= recorded


@cache
def trees():
    files = [path for folder in ("internvl_chat", "tools", "data") for path in (ROOT / folder).rglob("*.py")]
    return {path: ast.parse(path.read_text()) for path in files}


def test_nothing_else_is_imported_of_their_insides():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {module}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        if (library := module.partition(".")[0]) in PUBLIC and module.partition(".")[2] not in {"", *PUBLIC[library]}
    ]
    assert found == []


def test_private_attributes_of_others_are_recorded():
    """A name with an underscore that none of our files defines is another library's."""
    defined, used = set(DOCUMENTED), {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    defined.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    defined.add(name)
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    defined.add(name)
                case ast.Attribute(attr=name) if name.startswith("_") and not name.startswith("__"):
                    used[name] = f"{path.relative_to(ROOT)}:{node.lineno}"
    recorded = {re.split("[.:]", path)[-1] for path in RECORD}
    assert {place: name for name, place in used.items() if name not in defined | recorded} == {}
