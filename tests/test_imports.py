"""Who may import whom, that importing does nothing, and that every module imports."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "internvl_chat"
PIPELINES = ROOT / "tools/reasoning_data_pipeline"
# Room -> rooms that its modules may import. FOR_ALL says what is not asked about; entries are for nobody.
FOR_ALL = ("run.process", "run.entry", "run.bars")
LIBRARY = {
    "records": {"model"},
    "model": set(),
    "losses": set(),
    "data": {"records", "model"},
    "packed": {"records", "model"},
    "publishing": {"model", "checkpoint"},
    "critic": {"records", "data", "losses", "model", "packed", "checkpoint", "run"},
    "adapters": {"model"},
    "checkpoint": {"records", "model"},
    "reference": {"records", "arguments", "data", "model", "packed", "adapters", "checkpoint"},
    "run": {"records", "arguments", "data", "losses", "model", "packed", "adapters", "checkpoint", "reference"},
    "flags": {"data"},
    "training_help": {"data", "flags"},
    "arguments": {"records", "data", "flags", "losses", "model"},
    "training": {
        *(
            "adapters",
            "arguments",
            "checkpoint",
            "config_file",
            "critic",
            "data",
            "model",
            "packed",
            "publishing",
            "reference",
        ),
        "run",
    },
    "config_file": {"model"},
    "trainer": {"run"},
    "collator": {"data"},
    "images": {"data", "records"},
}
PIPELINE = {
    "files": set(),
    "prompts": set(),
    "engines": set(),
    "answers": set(),
    "sampling": {"files", "prompts", "engines", "answers"},
    "pairs": {"files", "answers"},
}
LIBRARY_OF_PIPELINE = {"records", "data", "model", "checkpoint"}
# The other rooms of tools, which may import any room of the library, and of the pipelines what stands behind the colon.
TOOLS = {
    "pages": set(),
    "curves": {"pages"},
    "diagnosis": set(),
    "run_report": {"curves", "diagnosis", "evaluation", "pages"},
    "plan": set(),
    "checkpoints": {"visual_reasoning"},
    "composing": {"checkpoints"},
    "visual_reasoning": {"reasoning_data_pipeline.prompts"},
    "scoring": {f"reasoning_data_pipeline.{room}" for room in ("answers", "files", "prompts")},
    "evaluation": {
        *("curves", "scoring", "visual_reasoning"),
        *(f"reasoning_data_pipeline.{room}" for room in ("answers", "engines", "files", "prompts")),
    },
    "critic_benchmark": {"evaluation", "pages", "scoring", "reasoning_data_pipeline.prompts"},
    "validation": {"pages", "reasoning_data_pipeline.answers"},
    "mmpr": {"reasoning_data_pipeline.prompts"},
    "importing": set(),
    "mixtures": {"plan"},
    "curation": {f"reasoning_data_pipeline.{room}" for room in ("answers", "pairs", "prompts")},
    "publishing": {"curves", "evaluation"},
    "asking": {
        *("evaluation", "pages", "run_report"),
        *(f"reasoning_data_pipeline.{room}" for room in ("answers", "engines", "prompts")),
    },
}
# Who may import an entry script: its older name.
MAY_IMPORT_ENTRIES = {"tools/mm_reasoning_pipeline/internvl_lmdeploy_cot_postprocess.py"}
WITHOUT_TORCH = [
    "internvl_chat.records.rows",
    "internvl_chat.records.meta",
    "internvl_chat.data.images",
    "internvl_chat.run.process",
    "tools.reasoning_data_pipeline.answers",
    "tools.reasoning_data_pipeline.files.store",
    "tools.evaluate",
    "tools.evaluate_critic",
    "tools.score_steps",
    "tools.validate",
    "tools.view_pairs",
    "tools.import_pairs",
    "tools.report",
    "tools.prepare_mmpr",
    "tools.mixture",
    "tools.curate",
    "tools.publish",
    "tools.demo",
    "internvl_chat.publishing.card",
]


# Seconds of every start, or 40 MB, for what few runs use: FFmpeg for videos, trl for DeepSpeed and TR-DPO.
ONLY_WHERE_USED = ["av", "trl"]


def modules(folder):
    return sorted(
        path for path in folder.rglob("*.py") if path.name != "__init__.py" and "__pycache__" not in path.parts
    )


def imported(path):
    """Dotted names of the modules that a file imports, relative ones left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(path, package):
    """Rooms below `package` that a file imports from; what is for all is left out."""
    names = [name.removeprefix(f"{package}.") for name in imported(path) if name.startswith(f"{package}.")]
    return {name.split(".")[0] for name in names if not name.startswith(FOR_ALL)}


def room(path, package):
    """The folder below `package` that holds a file, or the module itself beside the folders."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


LIBRARY_FILES = [path for path in modules(PACKAGE) if path.name != "train_mpo.py"]
PIPELINE_FILES = [path for path in modules(PIPELINES) if room(path, PIPELINES) in PIPELINE]


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=module_name)
def test_rooms_of_the_library_import_what_the_table_says(path):
    home = room(path, PACKAGE)
    assert rooms_of(path, "internvl_chat") - {home} <= LIBRARY[home]


@pytest.mark.parametrize("path", PIPELINE_FILES, ids=module_name)
def test_rooms_of_the_pipelines_import_what_the_table_says(path):
    home = room(path, PIPELINES)
    assert rooms_of(path, "tools.reasoning_data_pipeline") - {home} <= PIPELINE[home]
    assert rooms_of(path, "internvl_chat") <= LIBRARY_OF_PIPELINE


def room_of_tools(name):
    """The room of a module of tools, with a dot for one of the pipelines; an entry script stands in none."""
    parts = name.removeprefix("tools.").split(".")
    return ".".join(parts[: 2 if parts[0] == "reasoning_data_pipeline" else 1])


@pytest.mark.parametrize("path", [path for home in TOOLS for path in modules(ROOT / "tools" / home)], ids=module_name)
def test_rooms_of_the_tools_import_what_the_table_says(path):
    home = room(path, ROOT / "tools")
    found = {room_of_tools(name) for name in imported(path) if name.startswith("tools.")}
    assert found - {home} <= TOOLS[home]


def test_every_folder_of_tools_is_in_the_table():
    folders = {path.parent.name for path in modules(ROOT / "tools") if path.parent.parent == ROOT / "tools"}
    assert folders == {*TOOLS, "reasoning_data_pipeline", "mm_reasoning_pipeline"}


SCRIPTS = sorted(
    [*(ROOT / "tools").glob("*.py"), *PIPELINES.glob("*.py"), *(ROOT / "tools/mm_reasoning_pipeline").glob("*.py")]
)


def test_nobody_imports_an_entry_script():
    """Whatever two of them share lies in a room."""
    entries = {module_name(path) for path in [*SCRIPTS, PACKAGE / "train_mpo.py"]}
    for path in modules(PACKAGE) + modules(ROOT / "tools"):
        found = {name for whole in imported(path) for name in (whole, whole.rpartition(".")[0])}
        if str(path.relative_to(ROOT)) not in MAY_IMPORT_ENTRIES:
            assert not found & entries, path


@pytest.mark.parametrize("path", SCRIPTS, ids=module_name)
def test_what_lies_beside_the_rooms_is_an_entry_script(path):
    assert 'if __name__ == "__main__":' in path.read_text()


@pytest.mark.parametrize("path", PIPELINES.glob("*.py"), ids=module_name)
def test_entry_scripts_of_the_pipelines_are_short(path):
    text = path.read_text()
    own = text.removeprefix(f'"""{ast.get_docstring(ast.parse(text), clean=False)}"""')
    assert len(own.splitlines()) <= 60


def test_no_two_classes_have_one_name():
    """But for the finding of an answer's check, and the one that ends a program."""
    names = Counter(
        node.name
        for path in modules(PACKAGE) + modules(ROOT / "tools")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == {"Finding"}


def test_no_module_imports_itself_by_way_of_others():
    names = {module_name(path): path for folder in ("internvl_chat", "tools") for path in modules(ROOT / folder)}
    graph = {}
    for name, path in names.items():
        found = set(imported(path))
        graph[name] = (found | {whole.rpartition(".")[0] for whole in found}) & names.keys() - {name}
    TopologicalSorter(graph).prepare()  # CycleError names the modules


@pytest.mark.parametrize("path", modules(PACKAGE / "model"), ids=lambda p: p.stem)
def test_model_files_can_travel_with_a_checkpoint(path):
    assert not [name for name in imported(path) if name.split(".")[0] in ("internvl_chat", "tools")]


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: p.stem)
def test_the_library_knows_no_tools_and_no_engine(path):
    heavy = {"tools", "lmdeploy"} | ({"deepspeed"} if path.stem not in ("process", "trainer", "frozen") else set())
    assert not [name for name in imported(path) if name.split(".")[0] in heavy]


SCRIPT_FOLDERS = ("benchmarks", "benchmarks/hostile", "benchmarks/answer_kinds", "docs", "data", "shell")


@pytest.mark.parametrize("folder", SCRIPT_FOLDERS)
def test_a_script_started_by_its_path_finds_what_it_imports(folder):
    """On its path are its own folder and what is installed; the repository's other folders are not."""
    others = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"internvl_chat", "tools"}
    for path in (ROOT / folder).glob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] in others], path


def test_every_module_imports_and_leaves_no_trace():
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for f in ("internvl_chat", "tools")
        for p in modules(ROOT / f)
    ]
    code = (
        "import importlib, os, sys\n"
        "import torch, transformers, accelerate, timm\n"
        "before = dict(os.environ)\n"
        f"for name in {names}: importlib.import_module(name)\n"
        f"assert not {set(ONLY_WHERE_USED)} & sys.modules.keys(), 'one of these is loaded before it is used'\n"
        "from transformers import AttentionInterface\n"
        "assert dict(os.environ) == before, 'the environment changed'\n"
        "assert 'shared_prefix' not in AttentionInterface().valid_keys(), 'attention was registered'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("script", ["view_pairs", "report", "import_pairs", "validate", "evaluate", "plot_curves"])
def test_help_loads_nothing_heavy(script):
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path('tools/{script}.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "loaded = {'torch', 'sympy', 'scipy.stats', 'matplotlib'} & sys.modules.keys()\n"
        f"assert loaded <= {{{'matplotlib' if script == 'plot_curves' else ''!r}}}, loaded"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_rows_load_without_torch(name):
    code = f"import {name}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
