"""Pieces, directories, members, unpacking: what is read, what is refused and how that is said, what a restart does."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.mmpr_sets import write_zip
from tools.mmpr.directory import read_directory
from tools.mmpr.members import plan_members
from tools.mmpr.pieces import Pieces, check_sums, find_pieces
from tools.mmpr.published import PrepareError
from tools.mmpr.unpack import WORK, Unpacker

ROOT = Path(__file__).parents[3]
MEMBERS = {f"images/set/{number}.bin": bytes([number]) * (400 + 37 * number) for number in range(12)}


def stored(path, members=MEMBERS, pieces=()):
    """A zip without compression, so that a member's bytes are where one expects them; cut into equal pieces."""
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    content = path.read_bytes()
    if pieces:
        path.unlink()
    for number, piece in enumerate(pieces):
        size = -(-len(content) // len(pieces))
        path.with_name(path.name + piece).write_bytes(content[number * size : (number + 1) * size])
    return content


def unpack(folder, out, archive="images", **settings):
    return Unpacker(out, threads=2, **settings).unpack(archive, find_pieces(folder, archive))


def files(out):
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.startswith(WORK)}


def test_pieces_are_read_as_one_file_over_their_borders(tmp_path):
    whole = stored(tmp_path / "images.zip", pieces=("_aa", "_ab", "_ac"))
    with Pieces(find_pieces(tmp_path, "images"), b"tail") as pieces:
        assert pieces.read(len(whole) + 99) == whole + b"tail"
        pieces.seek(-6, 2)
        assert pieces.read(4) == whole[-2:] + b"ta" and pieces.tell() == len(whole) + 2


@pytest.mark.parametrize("endings", [(), ("_a", "_b"), ("_aa", "_ab", "_ac"), (".001", ".002"), (".0", ".1")])
def test_every_way_of_cutting_unpacks_to_the_same_files(tmp_path, endings):
    stored(tmp_path / "images.zip", pieces=endings)
    result = unpack(tmp_path, tmp_path / "out")
    assert files(tmp_path / "out") == MEMBERS
    assert (result.members, result.written, result.total_bytes) == (12, 12, sum(map(len, MEMBERS.values())))


@pytest.mark.parametrize("name", ["MMPR-v1.2/images/a.bin", "images/a.bin", "a.bin", "./images/a.bin"])
def test_a_member_lands_below_its_archive_whatever_it_was_zipped_with(tmp_path, name):
    stored(tmp_path / "images.zip", {name: b"1"})
    unpack(tmp_path, tmp_path / "out")
    assert files(tmp_path / "out") == {"images/a.bin": b"1"}


def test_slices_are_the_whole_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.mmpr.directory.SLICE", 5)
    monkeypatch.setattr("tools.mmpr.directory.READ_BYTES", 100)
    stored(tmp_path / "images.zip")
    slices = [zipped.namelist() for zipped in read_directory(find_pieces(tmp_path, "images")).slices()]
    assert list(map(len, slices)) == [5, 5, 2] and sum(slices, []) == list(MEMBERS)


def test_a_missing_piece_between_others_is_named(tmp_path):
    stored(tmp_path / "images.zip", pieces=("_aa", "_ab", "_ac"))
    (tmp_path / "images.zip_ab").unlink()
    with pytest.raises(PrepareError, match=r"images\.zip_ab: this piece is missing"):
        find_pieces(tmp_path, "images")


def test_a_missing_first_and_last_piece_are_named(tmp_path):
    stored(tmp_path / "images.zip", pieces=("_aa", "_ab", "_ac"))
    last = (tmp_path / "images.zip_ac").read_bytes()
    (tmp_path / "images.zip_ac").unlink()
    with pytest.raises(PrepareError, match=r"images\.zip_ab: no directory .* piece behind it is missing"):
        read_directory(find_pieces(tmp_path, "images"))
    (tmp_path / "images.zip_ac").write_bytes(last)
    (tmp_path / "images.zip_aa").unlink()
    with pytest.raises(PrepareError, match=r"images\.zip_aa: this piece is missing"):
        find_pieces(tmp_path, "images")


@pytest.mark.parametrize(("one", "other", "words"), [
    ("_aa", "_ab", r"images\.zip_aa: does not begin as a zip does; images\.zip_ab does"),
    ("_ab", "_ac", r"images\.zip_ab: is not the piece that belongs there"),
])  # fmt: skip
def test_exchanged_pieces_are_named_before_anything_is_written(tmp_path, one, other, words):
    stored(tmp_path / "images.zip", pieces=("_aa", "_ab", "_ac", "_ad"))
    first, second = tmp_path / f"images.zip{one}", tmp_path / f"images.zip{other}"
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1]), second.write_bytes(contents[0])
    with pytest.raises(PrepareError, match=words):
        unpack(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_piece_cut_short_is_told_with_the_bytes_that_are_missing(tmp_path):
    stored(tmp_path / "images.zip", pieces=("_a", "_b"))
    piece = tmp_path / "images.zip_a"
    piece.write_bytes(piece.read_bytes()[:-100])
    with pytest.raises(PrepareError, match=r"100 bytes are missing in images\.zip_a, images\.zip_b: .* them again"):
        unpack(tmp_path, tmp_path / "out")


def test_a_damaged_member_is_named_with_its_piece_and_the_command_goes_on_when_mended(tmp_path):
    stored(tmp_path / "images.zip", pieces=("_a", "_b"))
    piece = tmp_path / "images.zip_b"
    whole = piece.read_bytes()
    broken = bytearray(whole)
    broken[whole.index(bytes([11]) * 300) + 40] ^= 1
    piece.write_bytes(broken)
    with pytest.raises(PrepareError, match=r"images/set/11\.bin: damaged in images\.zip_b \(Bad CRC-32"):
        unpack(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out/images/set/11.bin").exists()
    piece.write_bytes(whole)
    assert unpack(tmp_path, tmp_path / "out").written < 12
    assert files(tmp_path / "out") == MEMBERS


def test_checksums_of_the_hub_tell_the_damaged_piece(tmp_path):
    stored(tmp_path / "images.zip", pieces=("_a", "_b"))
    notes = tmp_path / ".cache/huggingface/download"
    notes.mkdir(parents=True)
    for name in ("images.zip_a", "images.zip_b"):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        (notes / f"{name}.metadata").write_text(f"0123\n{digest}\n1.0\n")
    pieces = find_pieces(tmp_path, "images")
    assert check_sums(pieces) == 2
    pieces[1].write_bytes(b"x" + pieces[1].read_bytes()[1:])
    with pytest.raises(PrepareError, match=r"images\.zip_b: SHA-256 .* is not the hub's .*; remove .*images\.zip_b"):
        check_sums(pieces)


@pytest.mark.parametrize("name", ["../a.bin", "/etc/a.bin", "images/../../a.bin", "C:/a.bin", "a\\..\\b.bin"])
def test_names_that_lead_out_are_refused_and_nothing_is_unpacked(tmp_path, name):
    stored(tmp_path / "images.zip", {"images/good.bin": b"1", name: b"2"})
    with pytest.raises(PrepareError, match="leads out of the folder"):
        unpack(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_and_encrypted_members_are_refused(tmp_path):
    link = zipfile.ZipInfo("images/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(PrepareError, match="'images/link' is a link"):
        unpack(tmp_path, tmp_path / "out")
    content = bytearray(stored(tmp_path / "images.zip", {"images/a.bin": b"1"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(PrepareError, match="'images/a.bin' is encrypted"):
        unpack(tmp_path, tmp_path / "out")


def test_a_bomb_is_refused_by_its_sizes(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("images/zeros.bin", bytes(20_000_000))
    with pytest.raises(PrepareError, match=r"'images/zeros.bin' says that [\d,]+ bytes become 20,000,000"):
        unpack(tmp_path, tmp_path / "out")


def test_members_that_share_bytes_are_refused(tmp_path):
    content = bytearray(stored(tmp_path / "images.zip", {"images/a.bin": b"1" * 50, "images/b.bin": b"1" * 50}))
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[second + 42 : second + 46] = (10).to_bytes(4, "little")
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(PrepareError, match="two members share bytes at 10"):
        plan_members(read_directory([tmp_path / "images.zip"]), "images")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_equal_members_are_unpacked_once_and_different_ones_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as zipped:
        zipped.writestr("images/a.bin", b"1")
        zipped.writestr("images/b.bin", b"22")
        zipped.writestr("MMPR/images/a.bin", b"1")
    result = unpack(tmp_path, tmp_path / "out")
    assert (result.members, result.repeated, result.total_bytes) == (2, 1, 3)
    with zipfile.ZipFile(tmp_path / "images.zip", "a") as zipped:
        zipped.writestr("images/a.bin", b"3")
    with pytest.raises(PrepareError, match="members 3 and 4 have one name and different content"):
        unpack(tmp_path, tmp_path / "out")


def test_a_file_that_is_a_folder_too_is_refused(tmp_path):
    stored(tmp_path / "images.zip", {"images/a": b"1", "images/a/b": b"2"})
    with pytest.raises(PrepareError, match="'images/a' is a file and a folder"):
        unpack(tmp_path, tmp_path / "out")


def test_names_in_another_encoding(tmp_path):
    name = "images/测.bin"  # in GBK no UTF-8
    content = stored(tmp_path / "images.zip", {"images/xx.bin": b"1"}).replace(b"images/xx.bin", name.encode("gbk"))
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(PrepareError, match="is not named in utf-8: name the encoding of its names, such as --name_enc"):
        unpack(tmp_path, tmp_path / "out")
    unpack(tmp_path, tmp_path / "out", encoding="gbk")
    assert files(tmp_path / "out") == {name: b"1"}


def test_utf8_names_without_the_flag_are_read(tmp_path):
    content = stored(tmp_path / "images.zip", {"images/abc.bin": b"1"}).replace(b"abc.bin", "图.bin".encode())
    (tmp_path / "images.zip").write_bytes(content)
    unpack(tmp_path, tmp_path / "out")
    assert files(tmp_path / "out") == {"images/图.bin": b"1"}


def test_what_operating_systems_add_is_left_out_and_counted(tmp_path):
    write_zip(
        tmp_path / "images.zip", {"images/a.bin": b"1", "__MACOSX/images/._a.bin": b"2", "images/.DS_Store": b"3"}
    )
    assert unpack(tmp_path, tmp_path / "out").system_files == 2
    assert files(tmp_path / "out") == {"images/a.bin": b"1"}


def test_a_second_start_writes_only_what_is_not_whole(tmp_path):
    stored(tmp_path / "images.zip")
    out = tmp_path / "out"
    assert unpack(tmp_path, out).written == 12
    (out / "images/set/3.bin").unlink()
    (out / "images/set/4.bin").write_bytes(b"torn")
    assert unpack(tmp_path, out).written == 2
    assert files(out) == MEMBERS


def test_without_the_journal_bytes_are_compared(tmp_path):
    stored(tmp_path / "images.zip")
    out = tmp_path / "out"
    unpack(tmp_path, out)
    (out / WORK / "images.journal").unlink()
    (out / "images/set/3.bin").write_bytes(bytes(len(MEMBERS["images/set/3.bin"])))  # as a lost power supply leaves it
    assert unpack(tmp_path, out).written == 1
    assert files(out) == MEMBERS


def test_another_zip_of_that_name_starts_anew(tmp_path):
    stored(tmp_path / "images.zip")
    unpack(tmp_path, tmp_path / "out")
    other = {name: content[::-1] + b"!" for name, content in MEMBERS.items()}
    stored(tmp_path / "images.zip", other)
    assert unpack(tmp_path, tmp_path / "out").written == 12
    assert files(tmp_path / "out") == other


def test_a_disk_without_room_is_said_before_a_file_is_written(tmp_path, monkeypatch):
    stored(tmp_path / "images.zip")
    monkeypatch.setattr("tools.mmpr.unpack.SPARE_BYTES", 1 << 60)
    with pytest.raises(PrepareError, match=r"images\.zip needs 0\.0 GB more, the disk has .* GB: make room"):
        unpack(tmp_path, tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_a_disk_that_fills_up_in_the_middle_costs_nothing_that_is_there(tmp_path, monkeypatch):
    stored(tmp_path / "images.zip")
    copy, calls = shutil.copyfileobj, []

    def fill(source, file, size):
        calls.append(1)
        if len(calls) > 7:
            raise OSError(28, "No space left on device")
        copy(source, file, size)

    with monkeypatch.context() as patch:
        patch.setattr("tools.mmpr.unpack.shutil.copyfileobj", fill)
        with pytest.raises(PrepareError, match=r"the disk is full .*; make room and start the same command again"):
            unpack(tmp_path, tmp_path / "out")
    assert unpack(tmp_path, tmp_path / "out").written == 5
    assert files(tmp_path / "out") == MEMBERS


def test_two_runs_at_once_are_refused(tmp_path):
    stored(tmp_path / "images.zip")
    busy = []

    def again(count):
        with pytest.raises(BlockingIOError, match="is the run started twice"):
            unpack(tmp_path, tmp_path / "out")
        busy.append(count)

    unpack(tmp_path, tmp_path / "out", told=again)
    assert busy == [12]


@pytest.mark.integration
def test_two_kills_end_in_the_files_of_an_undisturbed_run():
    """The short form of benchmarks/kill_unpacking.py."""
    command = [sys.executable, "benchmarks/kill_unpacking.py", "--kills", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout)
    assert figures["kills"] >= 2 and figures["trees_that_differ"] == 0 and figures["files"] > 3_000
