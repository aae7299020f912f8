"""Rows of judged steps about the golden pictures, and the flags of a short training on them."""

import json

from internvl_chat.model.critic_turns import CRITIC_SYSTEM_MESSAGE, step_turns
from tests.flags import as_flags


def judged_row(question, *steps, image=None, **more):
    """A row as `visualprm_build.sh` writes it, of (text, score) with None where a step was not measured."""
    texts, scores = zip(*steps, strict=True)
    turns = [{"from": "system", "value": CRITIC_SYSTEM_MESSAGE}]
    for text, score in zip(step_turns(question, texts), scores, strict=True):
        said = "" if score is None else "+" if score > 0 else "-"
        turns += [{"from": "human", "value": text}, {"from": "gpt", "value": said}]
    pictures = {} if image is None else {"image": image}
    return {"id": -1, **pictures, "conversations": turns, "scores": list(scores), **more}


def write_mixture(folder, root, **sets):
    """A meta.json of data sets, name -> rows, whose images lie below `root`."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {}
    for name, rows in sets.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        meta[name] = {"root": str(root), "annotation": str(file), "data_augment": False, "repeat_time": 1}
        meta[name] |= {"length": len(rows), "max_dynamic_patch": 4}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder / "meta.json"


def training_flags(checkpoint, meta, folder, **changes):
    settings = {
        "model_name_or_path": checkpoint,
        "meta_path": meta,
        "output_dir": folder,
        "loss_type": "prm",
        "force_image_size": 56,
        "max_seq_length": 2048,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        **changes,
    }
    return as_flags(settings)


def log_of(folder, *names):
    """(step, value, ...) of the entries of a training's log."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], *(entry[name] for name in names)) for entry in history if "loss" in entry]


ROWS = [
    judged_row(
        "How many circles?", ("Two are red.", 1.0), ("One is blue.", 0.5), ("So 3.", 0.25), image="wide_2to1.png"
    ),
    judged_row("How many circles?", ("Two are red.", 1.0), ("None is blue.", 0.0), image="wide_2to1.png"),
    judged_row("How many circles?", ("Nothing.", 0.0), ("Answer: 0", None), image="wide_2to1.png"),
    judged_row(
        "Which is bigger?", ("The first.", 0.125), ("Sure.", None), ("A", 0.75), image=["multi_a.png", "multi_b.png"]
    ),
    judged_row("What is 2 + 2?", ("2 + 2 = 4", 1.0), ("Answer: 4", 1.0)),
    judged_row("What is 2 + 2?", ("2 + 2 = 5", 0.0)),
    judged_row("Is it red?", ("Yes, it is.\n\nAnswer: yes", 0.75), image="photo_4to3.jpg"),
    judged_row("Is it red?", ("Answer: no", 0.0), image="photo_4to3.jpg"),
]
