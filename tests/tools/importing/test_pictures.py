"""Pictures of imported rows: where they are looked for, where they end, and what is said of those that are no use."""

import base64
import io

import pytest
from PIL import Image

from internvl_chat.data.images import ImageError
from internvl_chat.records.rows import RecordError, Source
from tools.importing import pictures
from tools.importing.pictures import PictureStore

WHERE = Source("rlhf.json", 3)


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "shots").mkdir(parents=True)
    (tmp_path / "root" / "shots" / "red.png").write_bytes(png("red"))
    return tmp_path / "root"


@pytest.fixture
def store(tmp_path, root):
    return PictureStore(tmp_path / "images", root)


def files(store):
    return sorted(path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file())


def test_one_picture_is_saved_once_however_it_is_given(store):
    url = f"data:image/png;base64,{base64.b64encode(png('red')).decode()}"
    forms = ["shots/red.png", png("red"), {"bytes": png("red"), "path": "x.jpg"}, {"path": "shots/red.png"}, url]
    forms += [str(store.root / "shots" / "red.png"), {"bytes": None, "path": "shots/red.png"}]
    [path] = {store.save(form, WHERE) for form in forms}
    assert files(store) == [path] and path.endswith(".png") and path[:2] == path[3:5]
    assert (store.folder / path).read_bytes() == png("red")


def test_a_file_is_linked_and_takes_no_room(store):
    saved = store.folder / store.save("shots/red.png", WHERE)
    assert saved.samefile(store.root / "shots" / "red.png")


def test_a_file_is_copied_where_there_are_no_links(store, monkeypatch):
    def refuse(source, target):
        raise PermissionError(source)

    monkeypatch.setattr(pictures.os, "link", refuse)
    saved = store.folder / store.save("shots/red.png", WHERE)
    assert not saved.samefile(store.root / "shots" / "red.png") and saved.read_bytes() == png("red")


def test_a_file_is_read_once(store):
    path = store.save("shots/red.png", WHERE)
    (store.root / "shots" / "red.png").unlink()
    assert store.save("shots/red.png", WHERE) == path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("shots/Red.PNG", "no such file, but there is 'shots/red.png'"),
        ("../secret.png", "leads out of its root"),
        ("/etc/secret.png", "leads out of its root"),
        ("https://example.org/a.png", "URLs are not read"),
        ("shots", "not a regular file"),
    ],
)
def test_a_file_that_is_not_there_is_named_with_the_flag(store, path, words):
    with pytest.raises(ImageError) as raised:
        store.save(path, WHERE)
    assert path.rpartition("/")[2] in str(raised.value) and words in str(raised.value)
    assert "--root" in str(raised.value)


def test_a_link_out_of_the_root_is_read_when_that_is_wanted(store, tmp_path):
    (tmp_path / "blob").write_bytes(png("blue"))
    (store.root / "blue.png").symlink_to(tmp_path / "blob")
    with pytest.raises(ImageError, match="--follow_symlinks"):
        store.save("blue.png", WHERE)
    following = PictureStore(store.folder, store.root, follow_symlinks=True)
    saved = store.folder / following.save("blue.png", WHERE)
    assert saved.read_bytes() == png("blue") and not saved.is_symlink()


def test_what_is_no_picture_is_named_and_not_kept(store):
    (store.root / "a.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ImageError, match=r"root/a.png: .* Git LFS pointer"):
        store.save("a.png", WHERE)
    with pytest.raises(ImageError, match="cannot be opened"):
        store.save(b"no picture", WHERE)
    with pytest.raises(ImageError, match="not base64"):
        store.save("data:image/png;base64,???", WHERE)
    assert not files(store)


@pytest.mark.parametrize("held", [None, 3, "", {"bytes": None, "path": None}, ["a.png"]])
def test_what_cannot_be_a_picture_is_refused(store, held):
    with pytest.raises(RecordError, match="bytes of a picture"):
        store.save(held, WHERE)


def test_a_path_without_a_root_names_the_flag(tmp_path):
    with pytest.raises(RecordError, match="--root, not 'a.png'"):
        PictureStore(tmp_path, None).save("a.png", WHERE)
