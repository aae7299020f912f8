"""A picture under a key of another format is read where the word is certain, else refused with the key meant."""

import orjson
import pytest

from internvl_chat.records.picture_keys import with_own_keys
from internvl_chat.records.rows import PreferencePair, Prompt, RecordError, SampledResponse, Source
from tools.reasoning_data_pipeline.reward_pairs import main

AT = Source("pairs.jsonl", 7)
PAIR = {"question": "Which colour?", "chosen": "Red.", "rejected": "Blue."}
PROMPT = {"question": "Which colour?", "answer": "red"}
SAMPLED = {**PROMPT, "question_orig": "Which colour?", "response": "Red.", "prompt_version": "en"}


@pytest.mark.parametrize("key", ["images", "Images", "IMAGES", "Image"])
@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("a.png", ("a.png",)),
        (["a.png"], ("a.png",)),
        (["a.png", "b.png"], ("a.png", "b.png")),
        ([{"path": "a.png", "bytes": None}, {"path": "b.png"}], ("a.png", "b.png")),
        ({"path": "a.png"}, ("a.png",)),
    ],
)
def test_images_mean_image(key, value, paths):
    pair = PreferencePair.from_row({**PAIR, key: value, "id": 3}, AT)
    assert pair.image == paths and pair.extra == {"id": 3}
    assert pair.to_row() == {"image": list(paths) if isinstance(value, list) else paths[0], **PAIR, "id": 3}
    assert Prompt.from_row({**PROMPT, key: value}, AT).image == paths
    assert SampledResponse.from_row({**SAMPLED, key: value}, AT).image == paths


def test_an_empty_image_gives_way_to_images():
    for empty in (None, "", []):
        row = {"image": empty, **PAIR, "images": ["a.png"]}
        assert PreferencePair.from_row(row, AT).to_row() == {"image": ["a.png"], **PAIR}


def test_videos_mean_video_where_there_is_one():
    assert PreferencePair.from_row({**PAIR, "videos": ["v.mp4"], "clip": [0, 2]}, AT).video == ("v.mp4", (0.0, 2.0))
    with pytest.raises(RecordError, match="'videos' names 2 videos, a row has one"):
        PreferencePair.from_row({**PAIR, "videos": ["v.mp4", "w.mp4"]}, AT)
    with pytest.raises(RecordError, match="videos are read in training, not shown to a sampling engine"):
        Prompt.from_row({**PROMPT, "videos": "v.mp4"}, AT)


IMAGE_KEYS = ["img", "IMG", "imgs", "image_path", "imagePath", "image-paths", "image_file", "image_files", "image_url"]
IMAGE_KEYS += ["image_list", "image_name", "img_path", "picture", "pictures", "photo", "input_image", "image_base64"]


@pytest.mark.parametrize("key", IMAGE_KEYS)
@pytest.mark.parametrize("value", ["red", ["red.png"], [{"url": "red.png"}]])
def test_other_picture_keys_are_refused_with_the_key_meant(key, value):
    for record, row in ((PreferencePair, PAIR), (Prompt, PROMPT), (SampledResponse, SAMPLED)):
        with pytest.raises(RecordError, match=f"no 'image', but '{key}': .*; rename the key to 'image'") as raised:
            record.from_row({**row, key: value}, AT)
        assert raised.value.fault == "picture_key"


@pytest.mark.parametrize("key", ["video_path", "VideoPath", "vid", "video_file", "video_url", "local_video"])
def test_other_video_keys_are_refused_with_the_key_meant(key):
    with pytest.raises(RecordError, match=f"no 'video', but '{key}': 'v.mp4'; rename the key to 'video'"):
        PreferencePair.from_row({**PAIR, key: "v.mp4"}, AT)


@pytest.mark.parametrize("key", ["file", "file_name", "path", "image_id", "figure", "media", "screenshot"])
def test_a_vague_key_counts_where_it_names_a_picture(key):
    with pytest.raises(RecordError, match=f"'{key}': 'coco/1.JPG'; rename the key to 'image'"):
        PreferencePair.from_row({**PAIR, key: "coco/1.JPG"}, AT)
    with pytest.raises(RecordError, match=f"'{key}': 'a.mp4'; rename the key to 'video'"):
        PreferencePair.from_row({**PAIR, key: "a.mp4"}, AT)
    assert PreferencePair.from_row({**PAIR, key: "something else"}, AT).image == ()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            {"images": [{"bytes": "iVBOR", "path": "a.png"}]},
            "save each picture as a file and write its path as 'image'",
        ),
        ({"images": [["a.png"]]}, "'images' holds ['a.png']; write paths as 'image'"),
        ({"images": ["a.png", None]}, "'images' holds None"),
        ({"images": ["a.png", ""]}, "'images' holds ''"),
        ({"images": ["a.png"], "img": "b.png"}, "pictures under 'images' and 'img'; keep one, as 'image'"),
        ({"images": ["a.png"], "videos": ["v.mp4"]}, "pictures under 'images' and 'videos'"),
    ],
)
def test_what_is_not_certain_is_refused(more, reason):
    with pytest.raises(RecordError) as raised:
        PreferencePair.from_row({**PAIR, **more}, AT)
    assert reason in raised.value.reason


@pytest.mark.parametrize(
    "more",
    [
        {"image": "a.png", "image_path": "x/a.png", "images": ["b.png"]},
        {"video": "v.mp4", "video_path": "x/v.mp4", "frames": ["1.png"]},
        {"images": []},
        {"images": None, "img": "", "videos": [], "image_path": [None]},
        {
            "num_images": 2,
            "image_size": [3, 4],
            "image_width": "640",
            "image_caption": "a red house",
            "has_image": "no",
        },
        {
            "clip": [0, 1],
            "source": "web",
            "id": "images/1",
            "image_source": "COCO",
            "video_id": "xyz",
            "figure": "see 3",
        },
    ],
)
def test_what_stays_legal(more):
    row = {**PAIR, **more}
    assert with_own_keys(row) is row


def test_reward_pairs_keep_pictures_apart(tmp_path):
    """Answers to different pictures under `images` were one question, and became a pair across pictures."""
    rows = [
        {"images": [f"{name}.png"], "question": "Which colour?", "response": text, "reward": reward}
        for name, text, reward in [("red", "red", 1.0), ("red", "blue", 0.0), ("green", "yellow", 0.5)]
    ]
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored/s.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    main(["--data-dir", str(tmp_path / "scored"), "--save-dir", str(tmp_path / "pairs")])
    [pairs] = (tmp_path / "pairs/raw").glob("*.jsonl")
    [pair] = map(orjson.loads, pairs.read_bytes().splitlines())
    assert (pair["image"], pair["chosen"], pair["rejected"]) == (["red.png"], "red", "blue")
