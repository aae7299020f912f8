"""Data sets on an object store: a real server on this machine, and stores that fail."""

import json

import pytest
from torch.utils.data import DataLoader

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.images import ImageError, resolve_image
from internvl_chat.data.mixture import Mixture
from internvl_chat.records import objects
from internvl_chat.records.objects import ObjectError, fetch, is_object, join_object, objects_cache
from tools.validate import main as validate


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch, tmp_path):
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bucket(golden_folder):
    """s3fs on a server of this machine, with the golden data in a bucket."""
    s3fs = pytest.importorskip("s3fs", reason="requirements-objects.txt is not installed")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        store = s3fs.S3FileSystem()
        store.mkdir("mmpr")
        store.put(f"{golden_folder}/data/", "mmpr/data/", recursive=True)
        yield store
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def meta(golden_folder, tmp_path):
    """A meta.json whose roots and annotations are in the bucket."""
    entries = json.loads((golden_folder / "data" / "meta.json").read_text())
    for entry in entries.values():
        entry |= {key: f"s3://mmpr/data/{entry[key]}" for key in ("root", "annotation")}
    (tmp_path / "meta.json").write_text(json.dumps(entries))
    return tmp_path / "meta.json"


@pytest.mark.parametrize("name", ["s3", "gs", "hf", "s3/images", "s3:/a", "hf:", "https://s3/a", "a s3://b"])
def test_a_folder_with_the_name_of_a_store_is_a_folder(name):
    assert not is_object(name)


def test_samples_from_a_store_are_those_of_files(bucket, meta, golden_folder, tokenizer, tmp_path):
    options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 56, "cache_dir": tmp_path / "lines"}
    there = MixtureDataset(meta, tokenizer, **options)
    here = MixtureDataset(golden_folder / "data" / "meta.json", tokenizer, **options)
    assert len(there) == len(here)
    for place in range(len(here)):
        for name in ("prompt_ids", "pixel_values"):
            assert there[place][name].tolist() == here[place][name].tolist()
    before = sorted(objects_cache().rglob("*.*"))
    assert there[0]["pixel_values"].shape and sorted(objects_cache().rglob("*.*")) == before  # fetched once


def test_loader_workers_fetch_after_their_parent_did(bucket, meta, tokenizer, tmp_path):
    options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 56, "cache_dir": tmp_path / "lines"}
    dataset = MixtureDataset(meta, tokenizer, **options)  # talks to the store before the fork
    samples = [*DataLoader(dataset, batch_size=None, num_workers=2, timeout=60)]
    assert len(samples) == len(dataset) and all("pixel_values" in sample for sample in samples)


def test_a_changed_annotation_is_noticed(bucket, meta, tmp_path):
    rows = len(Mixture.from_meta(meta, cache_dir=tmp_path / "lines"))
    name = next(iter(json.loads(meta.read_text()).values()))["annotation"].removeprefix("s3://")
    content = bucket.cat_file(name)
    try:
        bucket.pipe_file(name, content + content.splitlines(keepends=True)[0])
        bucket.invalidate_cache()
        assert len(Mixture.from_meta(meta, cache_dir=tmp_path / "lines")) > rows
    finally:
        bucket.pipe_file(name, content)
        bucket.invalidate_cache()


def test_an_image_that_is_not_there_is_an_error_of_its_row(bucket):
    with pytest.raises(ImageError, match=r"s3://mmpr/data/images/gone.png: no such object") as raised:
        resolve_image("s3://mmpr/data/images", "gone.png")
    assert raised.value.fault == "image_missing"


def test_validate_looks_at_rows_of_a_store_and_names_one_that_is_not_there(bucket, meta, tmp_path):
    flags = ["--num_workers", "1", "--force_image_size", "56"]
    assert validate(["--meta_path", str(meta), "--output_dir", str(tmp_path / "found"), *flags]) == 0
    entries = json.loads(meta.read_text())
    next(iter(entries.values()))["annotation"] = "s3://mmpr/data/gone.jsonl"
    meta.write_text(json.dumps(entries))
    assert validate(["--meta_path", str(meta), "--output_dir", str(tmp_path / "lost"), *flags]) == 1
    report = json.loads((tmp_path / "lost" / "validation.json").read_text())
    assert "s3://mmpr/data/gone.jsonl: no such object" in json.dumps(report)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../b.png", "."])
def test_paths_stay_below_their_root(path):
    with pytest.raises(ImageError, match="leads out of its root 's3://mmpr/data'") as raised:
        resolve_image("s3://mmpr/data", path)
    assert raised.value.fault == "image_outside_root"
    with pytest.raises(ImageError, match="URLs are not read"):
        resolve_image("s3://mmpr/data", "s3://other/a.png")


def test_urls():
    assert [is_object(path) for path in ("s3://a/b", "gs://a", "hf://datasets/a", "http://a/b", "/s3/a", "s3:/a")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert join_object("s3://a/b/", "c/./d.png") == "s3://a/b/c/d.png"
    assert join_object("s3://a/b", "..c.png") == "s3://a/b/..c.png"


class Failing:
    """A store that cannot be reached so many times."""

    def __init__(self, failures, error):
        self.failures, self.error, self.calls = failures, error, 0

    def get_file(self, key, path):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        with open(path, "w") as file:
            file.write(key)


@pytest.fixture
def store_of(monkeypatch):
    """Function that puts a failing store in the place of all."""

    def put(failures, error):
        store = Failing(failures, error)
        monkeypatch.setattr(objects.fsspec, "filesystem", lambda scheme: store)
        return store

    return put


def test_it_is_tried_again_and_the_copy_is_kept(store_of):
    store = store_of(2, ConnectionResetError("reset"))
    for _ in range(2):
        with open(fetch("hf://datasets/a/b.png")) as file:
            assert file.read() == "datasets/a/b.png"
    assert store.calls == 3
    assert [path.suffix for path in objects_cache().rglob("*.*")] == [".png"]


@pytest.mark.parametrize(
    ("error", "calls", "message"),
    [
        (ConnectionResetError("reset"), 4, "not fetched in 4 attempts .reset.; is the store there"),
        (PermissionError("403"), 1, "not allowed .403.; set the credentials"),
    ],
)
def test_attempts_are_bounded(store_of, error, calls, message):
    store = store_of(99, error)
    with pytest.raises(ObjectError, match=message):
        fetch("hf://datasets/a/b.png")
    with pytest.raises(ImageError, match=message):
        resolve_image("hf://datasets/a", "c.png")
    assert store.calls == 2 * calls
    assert not [path for path in objects_cache().rglob("*") if path.is_file()]


def test_what_is_not_installed_is_named(monkeypatch):
    def lacking(scheme):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(objects.fsspec, "filesystem", lacking)
    with pytest.raises(ObjectError, match="Install s3fs.*pip install -r requirements-objects.txt"):
        fetch("s3://a/b")


def test_what_is_in_the_cache_needs_no_store(store_of, monkeypatch):
    store_of(0, None)
    path = fetch("hf://datasets/a/b.png")
    monkeypatch.delattr(objects.fsspec, "filesystem")
    assert fetch("hf://datasets/a/b.png") == path
