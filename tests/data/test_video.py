"""Videos: which frames are taken and that it is those, what is refused, rows with them, and a run on them."""

import json
import os
import shutil

import av
import pytest

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.images import ImageError
from internvl_chat.data.tokenization import place_frames
from internvl_chat.data.video import frame_places, open_video, read_frames
from internvl_chat.model.constants import IMG_CONTEXT_TOKEN
from internvl_chat.records.rows import RecordError, Source
from internvl_chat.records.samples import SkippedRow
from internvl_chat.train_mpo import main
from tests.flags import as_flags
from tests.videos import SIDE, number_of, write_gif, write_mp4

AT = Source("rows.jsonl", 1)
WRITERS = {"mp4": write_mp4, "gif": write_gif}


@pytest.fixture(scope="module", params=WRITERS)
def film(request, tmp_path_factory):
    """A video of 30 frames."""
    return str(WRITERS[request.param](tmp_path_factory.mktemp("film") / f"a.{request.param}", 30))


@pytest.mark.parametrize(
    ("available", "number", "places"),
    [(30, 4, [3, 10, 18, 25]), (10, 3, [1, 4, 7]), (3, 8, [0, 1, 2]), (1, 1, [0]), (8, 8, list(range(8)))],
)
def test_frames_are_the_middles_of_equal_parts(available, number, places):
    assert frame_places(available, number) == places


@pytest.mark.parametrize("number", [1, 4, 7, 30, 99])
def test_the_frames_read_are_the_frames_wanted(film, number):
    video = open_video(film)
    assert len(video.frames) == 30 and video.size == (SIDE, SIDE)
    images = list(read_frames(video, number))
    assert {image.mode for image in images} == {"RGB"}
    assert [number_of(image) for image in images] == frame_places(30, number)


class Counting:
    """A container of PyAV that counts the frames it decodes."""

    decoded = 0

    def __init__(self, *args, **options):
        self.container = OPEN(*args, **options)

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.container.close()

    def __getattr__(self, name):
        return getattr(self.container, name)

    def decode(self, stream):
        for frame in self.container.decode(stream):
            Counting.decoded += 1
            yield frame


OPEN = av.open


def test_decoding_begins_at_the_key_frame_before(tmp_path, monkeypatch):
    """Of 60 frames in groups of 6, frames 14 and 44 are wanted: of each group those up to it are decoded."""
    video = open_video(str(write_mp4(tmp_path / "a.mp4", 60)))
    assert len(video.keys) == 10
    monkeypatch.setattr(av, "open", Counting)
    assert [number_of(image) for image in read_frames(video, 2)] == [14, 44 % 32]  # brightness starts anew at 32
    assert 0 < Counting.decoded <= 12


@pytest.mark.parametrize(("clip", "first", "last"), [((1.0, 2.0), 8, 15), ((3.0, 99.0), 24, 29), ((0.0, 0.01), 0, 0)])
def test_a_clip_of_an_mp4_is_in_seconds(tmp_path, clip, first, last):
    video = open_video(str(write_mp4(tmp_path / "a.mp4", 30)), clip)
    numbers = [number_of(image) for image in read_frames(video, 99)]
    assert numbers == list(range(first, last + 1))


def test_a_clip_of_a_gif_follows_the_delays_of_its_frames(tmp_path):
    video = open_video(str(write_gif(tmp_path / "a.gif", 10, milliseconds=500)), (1.0, 2.6))
    assert [number_of(image) for image in read_frames(video, 99)] == [2, 3, 4, 5]


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as a video"),
        (b"<html>404</html>" * 100, "cannot be read as a video"),
        (b"GIF89a and no more", "cannot be read as a video"),
        (PLAYLIST.format("a.mp4").encode(), "cannot be read as a video"),
    ],
)
def test_what_is_no_video(tmp_path, content, reason):
    write_mp4(tmp_path / "a.mp4", 2)
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as raised:
        open_video(str(path))
    assert raised.value.fault == "video_unreadable" and str(path) in str(raised.value)


def test_a_clip_without_frames(film):
    with pytest.raises(ImageError, match=r"no frame in clip \[60.0, 61.0\], it has 3"):
        open_video(film, (60.0, 61.0))


def test_bounds(film, monkeypatch):
    monkeypatch.setattr("internvl_chat.data.video.MAX_SECONDS", 2)
    with pytest.raises(ImageError, match="videos of up to .* and 2 s are read, cut it") as raised:
        open_video(film)
    assert raised.value.fault == "video_too_large"


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("front", [False, True])
def test_a_video_cut_anywhere_is_read_or_refused_by_name(tmp_path, front):
    """Cut within its index, FFmpeg half understands a file: PyAV gives None where a decoder should be."""
    whole = write_mp4(tmp_path / "a.mp4", 12, **({"options": {"movflags": "faststart"}} if front else {})).read_bytes()
    path, none, read = tmp_path / "cut.mp4", 0, 0
    for end in range(1, len(whole), 37):
        path.write_bytes(whole[:end])
        try:
            video = open_video(str(path))
            list(read_frames(video, 4))
            read += 1
        except ImageError as error:
            assert str(path) in str(error) and "None" not in str(error)
            none += "FFmpeg has no decoder for it, or its index is cut short" in str(error)
    assert none or front
    assert read


@pytest.mark.parametrize("tag", [b"xxxx", b"vvc9", b"\0\0\0\0"])
def test_a_codec_that_this_ffmpeg_lacks(tmp_path, tag):
    path = write_mp4(tmp_path / "a.mp4", 12)
    path.write_bytes(path.read_bytes().replace(b"avc1", tag).replace(b"avcC", b"free"))
    with pytest.raises(ImageError, match="a.mp4: cannot be read as a video .FFmpeg has no decoder for it"):
        list(read_frames(open_video(str(path)), 2))


@pytest.mark.parametrize(("name", "share"), [("a.mp4", 0.5), ("a.mp4", 0.7), ("a.mkv", 0.5), ("a.mkv", 0.7)])
def test_a_video_shorter_than_its_header_says_is_said(tmp_path, caplog, name, share):
    path = write_mp4(tmp_path / name, 60, **({"options": {"movflags": "faststart"}} if name == "a.mp4" else {}))
    assert open_video(str(path)).shortfall == "" and not caplog.text
    cut(path, share)
    video = open_video(str(path))
    assert 0 < len(video.frames) < 54
    assert "of the 7.5 s that its header says" in video.shortfall and f"{path}: has" in caplog.text
    open_video(str(path))
    assert caplog.text.count("its header says") == 1  # of every epoch, one line


def test_what_a_decoder_does_not_foresee_costs_the_row(tmp_path, monkeypatch):
    """Whatever a decoder raises is of the file, not of the run."""
    path = str(write_mp4(tmp_path / "a.mp4", 12))
    video = open_video(path)
    for error in (AttributeError("'NoneType' has no width"), TypeError("x"), KeyError("y"), OverflowError("z")):

        def fail(*args, error=error, **options):
            raise error

        monkeypatch.setattr(av, "open", fail)
        with pytest.raises(ImageError, match="a.mp4: cannot be read as a video"):
            open_video(path)
        with pytest.raises(ImageError, match="a.mp4: broken video data"):
            list(read_frames(video, 2))


def test_a_video_of_one_frame_is_whole(tmp_path):
    assert open_video(str(write_mp4(tmp_path / "a.mp4", 1))).shortfall == ""


def test_a_video_that_breaks_off(tmp_path):
    path = write_gif(tmp_path / "a.gif", 30)
    video = open_video(str(path))
    cut(path, 0.5)
    with pytest.raises(ImageError, match="broken video data|ends before") as raised:
        list(read_frames(video, 8))
    assert raised.value.fault == "video_broken"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What?", "Frame1: <image>\nFrame2: <image>\nWhat?"),
        ("See <video>\nWhat?", "See Frame1: <image>\nFrame2: <image>\nWhat?"),
    ],
)
def test_frames_are_numbered_lines(question, expected):
    assert place_frames([question], 2, AT) == [expected]


@pytest.mark.parametrize("question", ["<video> and <video>", "<image> in <video>"])
def test_other_placeholders_are_refused(question):
    with pytest.raises(RecordError, match="takes one <video> in its question, or none"):
        place_frames([question], 2, AT)


def pair(number, video, **fields):
    return {"video": video, "question": f"What is seen, {number}?", "chosen": "Grey.", "rejected": "Red.", **fields}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of a mixture: 20 rows, half mp4 and half gif, one of them cut short."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for number in range(20):
        kind = ("mp4", "gif")[number % 2]
        path = WRITERS[kind](folder / f"{number}.{kind}", 4 + number)
        rows.append(pair(number, path.name, **({"clip": [0.2, 9]} if number == 5 else {})))
    cut(folder / "6.mp4", 0.6)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    meta = {"films": {"root": str(folder), "annotation": str(folder / "rows.jsonl")}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def dataset(folder, tokenizer, **options):
    options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 56, "max_seq_length": 512, **options}
    return MixtureDataset(folder / "meta.json", tokenizer, **options)


def test_rows_have_one_tile_per_frame(videos, tokenizer):
    data = dataset(videos, tokenizer)
    samples = {}
    for place in range(20):
        sample = data[place]
        name = sample.row_id if isinstance(sample, SkippedRow) else sample["row_id"]
        samples[int(name.partition(":")[2]) - 1] = sample
    assert isinstance(samples[6], SkippedRow) and samples[6].fault == "video_unreadable"
    frames = {number: len(s["pixel_values"]) for number, s in samples.items() if number != 6}
    assert frames == {number: 4 + number - 2 * (number == 5) for number in frames}  # frames 0 and 1 begin before 0.2 s
    sample = samples[0]
    context = tokenizer.convert_tokens_to_ids(IMG_CONTEXT_TOKEN)
    assert (sample["prompt_ids"] == context).sum() == 4 * 4
    text = tokenizer.decode([i for i in sample["prompt_ids"].tolist() if i != context])
    assert "user\nFrame1: <img></img>\nFrame2: <img></img>\nFrame3: <img></img>\nFrame4: <img></img>\nWhat" in text
    assert [number_of(tile.permute(1, 2, 0)) for tile in samples[19]["pixel_values"]] == list(range(23))


def length(sample):
    """Tokens of a sample's prompt and chosen answer, joined."""
    return sum(len(part) for part in (sample["prompt_ids"], sample["answers"][0], sample["separator"]))


def test_frames_fit_the_sequence(videos, tokenizer):
    whole = dataset(videos, tokenizer)
    place = next(p for p in range(20) if not isinstance(whole[p], SkippedRow) and whole[p]["row_id"] == "films:20")
    longest = length(whole[place])
    for room, frames in ((longest, 23), (longest - 1, 22)):
        sample = dataset(videos, tokenizer, max_seq_length=room)[place]
        assert len(sample["pixel_values"]) == frames and length(sample) <= room
    sample = dataset(videos, tokenizer, max_seq_length=longest // 2)[place]
    assert sample["pixel_values"].shape[0] in (9, 10, 11) and length(sample) <= longest // 2
    assert dataset(videos, tokenizer, max_num_frame=5, min_num_frame=1)[place]["pixel_values"].shape[0] == 5
    skipped = dataset(videos, tokenizer, max_seq_length=longest // 4)[place]
    assert skipped.fault == "too_long" and "tokens with 8 frames" in skipped.reason


def test_a_mixture_of_videos_trains_and_the_broken_one_is_in_the_ledger(videos, golden_folder, tmp_path):
    shutil.copytree(videos, tmp_path / "data", symlinks=True)
    settings = {
        "model_name_or_path": golden_folder / "ckpt" / "tiny-qwen2",
        "meta_path": videos / "meta.json",
        "output_dir": tmp_path / "run",
        "force_image_size": 56,
        "max_seq_length": 512,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataloader_num_workers": 0,
    }
    main(as_flags(settings))
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    skipped = json.loads(line)
    assert skipped["line"] == 7 and "6.mp4: a file without a frame" in skipped["reason"]
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 5 and losses[-1] < losses[0]


def test_files_stay_closed(film):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        list(read_frames(open_video(film), 3))
    assert len(os.listdir("/proc/self/fd")) <= before + 1
