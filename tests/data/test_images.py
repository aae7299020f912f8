"""Tiles: grids and pixels as the golden ones, refused files, odd image modes, the tile budget of a row."""

import hashlib
import io
import json
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from internvl_chat.data.images import (
    MAX_PIXELS,
    ImageError,
    Tiling,
    blank_tile,
    count_tiles,
    decode_rgb,
    degrade_jpeg,
    dynamic_preprocess,
    load_image,
    open_image,
    pad_to_square,
    plan_grid,
    resolve_image,
)
from internvl_chat.model.constants import IMAGENET_MEAN, IMAGENET_STD
from internvl_chat.records.near_names import near_name


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    buffer.seek(0)
    return Image.open(buffer)


# --- grids


def test_grids_equal_the_golden_table(golden_folder):
    rows = json.loads((golden_folder / "out/tilings.json").read_text())
    fixed = [row for row in rows if not row["order_dependent"]]
    assert len(fixed) == 196
    for row in fixed:
        limits = {name: row[name] for name in ("min_num", "max_num", "image_size")}
        grid = plan_grid(row["width"], row["height"], **limits)
        assert (*grid, count_tiles(grid, row["use_thumbnail"])) == (row["grid_cols"], row["grid_rows"], row["tiles"]), (
            row
        )


def test_ties_by_hand():
    # Aspect 1 fits 1x1, 2x2 and 3x3. 448 x 448 fills half of 2x2 not by more than half: 1x1; 1000 x 1000 fills 2x2
    # (1e6 > 0.5 * 802,816) and 3x3 (1e6 > 0.5 * 1,806,336), so the last of them wins.
    assert plan_grid(448, 448) == (1, 1)
    assert plan_grid(1000, 1000) == (3, 3)
    assert plan_grid(1000, 1000, max_num=6) == (2, 2)
    # 2.5 lies as far from 1 as from 4: of the two grids of four tiles, the image too small, the first in order.
    assert plan_grid(50, 20, min_num=4, max_num=4) == (2, 2)


@pytest.mark.parametrize("limits", [(0, 3), (4, 3), (-1, 1)])
def test_impossible_limits(limits):
    with pytest.raises(ValueError, match=f"not {limits[0]} and {limits[1]}"):
        plan_grid(10, 10, min_num=limits[0], max_num=limits[1])


def test_images_of_a_row_share_the_tiles():
    tiling = Tiling(image_size=56)
    wide = (1200, 100)
    assert tiling.plan([wide]) == [(12, 1)]
    assert tiling.plan([wide, wide]) == [(6, 1)] * 2
    assert tiling.plan([wide] * 5) == [(2, 1)] * 5
    assert tiling.plan([wide] * 20) == [(1, 1)] * 20
    assert tiling.plan([wide], max_num=3) == [(3, 1)]
    assert tiling.plan([]) == []


def test_tiles_are_planned_to_fit():
    tiling = Tiling(image_size=56)
    wide = (1200, 100)
    assert tiling.plan([wide], most_tiles=13) == [(12, 1)]  # 12 and the thumbnail
    assert tiling.plan([wide], most_tiles=12) == [(11, 1)]
    assert tiling.plan([wide, wide], most_tiles=13) == [(5, 1), (5, 1)]
    assert tiling.plan([wide], most_tiles=2) == [(1, 1)]  # 2 tiles would be 3 with the thumbnail
    with pytest.raises(ValueError, match="2 images need at least 2 tiles, there is room for 1"):
        tiling.plan([wide, wide], most_tiles=1)


def test_fewest_tiles_give_way_to_the_limit():
    tiling = Tiling(image_size=56, min_num=4)
    assert count_tiles(tiling.plan([(100, 100)])[0], False) >= 4
    assert tiling.plan([(100, 100)], most_tiles=1) == [(1, 1)]


def test_one_tile_without_dynamic_size():
    assert Tiling(dynamic=False).plan([(4000, 10), (10, 10)]) == [(1, 1), (1, 1)]


# --- pixels


@pytest.mark.parametrize(
    ("size", "grid"), [((300, 180), (2, 1)), ((64, 64), (1, 1)), ((90, 170), (1, 2)), ((99, 70), (4, 3))]
)
@pytest.mark.parametrize("use_thumbnail", [True, False])
def test_fast_tiles_equal_cropped_ones(size, grid, use_thumbnail):
    image, cells = noise(*size), grid[0] * grid[1]
    tiling = Tiling(image_size=56, min_num=cells, max_num=cells, use_thumbnail=use_thumbnail)
    assert tiling.plan([size]) == [grid]
    tiles = tiling.cut(image, grid)
    cropped = dynamic_preprocess(image, cells, cells, 56, use_thumbnail)
    assert tiles.shape == (count_tiles(grid, use_thumbnail), 3, 56, 56) and tiles.dtype == np.uint8
    np.testing.assert_array_equal(tiles, np.stack([np.asarray(tile).transpose(2, 0, 1) for tile in cropped]))


def golden_rows(folder):
    for name, max_num in (("mmpr_en.jsonl", 12), ("mmpr_zh.jsonl", 6)):
        for line in (folder / "data" / name).read_text().splitlines():
            row = json.loads(line)
            images = row.get("image") or []
            yield row["id"], [images] if isinstance(images, str) else images, max_num


def test_pixels_equal_the_golden_ones(golden_folder):
    pixels = np.load(golden_folder / "out/pixels_u8.npz")
    samples = json.loads((golden_folder / "out/samples_tiny-qwen2.json").read_text())["templates"]["internvl2_5"][
        "samples"
    ]
    tiling = Tiling(image_size=56)
    mean, std = (np.float32(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for row_id, names, max_num in golden_rows(golden_folder):
        images = [load_image(resolve_image(str(golden_folder / "data/images"), name)) for name in names]
        grids = tiling.plan([image.size for image in images], max_num=max_num)
        tiles = [tiling.cut(image, grid) for image, grid in zip(images, grids, strict=True)]
        tiles = np.concatenate(tiles or [blank_tile(56)])
        np.testing.assert_array_equal(tiles, pixels[row_id])
        normalised = (tiles.astype(np.float32) / np.float32(255) - mean) / std
        assert hashlib.sha256(normalised.tobytes()).hexdigest() == samples[row_id]["pixel_sha256_f32"]


def test_padding_to_a_square():
    padded = pad_to_square(Image.new("RGB", (4, 2), (1, 2, 3)))
    assert padded.size == (4, 4)
    assert [padded.getpixel((0, y)) for y in range(4)] == [(123, 116, 103), (1, 2, 3), (1, 2, 3), (123, 116, 103)]
    tiles = Tiling(image_size=8, dynamic=False, pad2square=True).cut(Image.new("RGB", (8, 2), (1, 2, 3)), (1, 1))
    assert tiles[0, :, 0, 0].tolist() == [123, 116, 103] and tiles[0, :, 4, 4].tolist() == [1, 2, 3]


def test_jpeg_augmentation_is_seeded_and_mild():
    image = noise(10, 8).resize((120, 90))
    first, again, other = (degrade_jpeg(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.size == image.size and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != other.tobytes()
    difference = np.abs(np.asarray(first, np.int16) - np.asarray(image, np.int16))
    assert 0 < difference.mean() < 12


# --- modes


@pytest.mark.parametrize(
    ("image", "format", "pixel"),
    [
        (Image.fromarray(np.full((2, 2), 40000, np.uint16)), "PNG", 156),  # 40000 >> 8; Pillow alone gives 255
        (Image.fromarray(np.full((2, 2), 40000, np.int32)), "TIFF", 156),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "PNG", (10, 20, 30)),  # alpha is dropped, not blended
        (Image.new("LA", (2, 2), (77, 0)), "PNG", 77),
        (Image.new("1", (2, 2), 1), "PNG", 255),
    ],
)
def test_modes_become_rgb(image, format, pixel):
    rgb = decode_rgb(saved(image, format))
    assert rgb.mode == "RGB"
    assert rgb.getpixel((1, 1)) == ((pixel,) * 3 if isinstance(pixel, int) else pixel)


def test_palette_and_first_frame():
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    animated = saved(red, "GIF", save_all=True, append_images=[blue])
    assert animated.n_frames == 2 and decode_rgb(animated).getpixel((0, 0)) == (255, 0, 0)


def test_exif_rotation_is_not_applied():
    image = noise(6, 4)
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode_rgb(saved(image, "JPEG", exif=exif)).size == (6, 4)


# --- files


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    noise(8, 6).save(folder / "a.png")
    noise(8, 6).save(folder / "sub/b.jpg")
    noise(8, 6).save(tmp_path / "outside.png")
    return folder


def test_paths_under_the_root(root, tmp_path, monkeypatch):
    assert resolve_image(str(root), "a.png") == str(root / "a.png")
    assert resolve_image(str(root), "sub/../a.png") == str(root / "a.png")
    assert resolve_image(str(root), str(root / "a.png")) == str(root / "a.png")
    monkeypatch.chdir(tmp_path)
    assert resolve_image("root", "sub/b.jpg") == str(root / "sub/b.jpg")
    assert resolve_image("", "outside.png") == str(tmp_path / "outside.png")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../outside.png", "leads out of its root"),
        ("/etc/hostname", "leads out of its root"),
        ("sub/../../outside.png", "leads out of its root"),
        ("https://host/a.png", "URLs are not read"),
        ("file:///etc/hostname", "URLs are not read"),
        ("data:image/png;base64,AAAA", "URLs are not read"),
        ("a.png\0", "NUL"),
        ("none.png", "no such file"),
        ("sub", "not a regular file"),
    ],
)
def test_refused_paths(root, path, reason):
    with pytest.raises(ImageError, match=reason) as raised:
        resolve_image(str(root), path)
    assert path.split("\0")[0] in str(raised.value)


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ("A.JPG", "a.jpg"),
        ("a.jpg", "A.jpg"),
        ("a.jpeg", "a.jpg"),
        ("a.PNG", "a.webp"),
        ("Caf\u0065\u0301.png", "Caf\u00e9.png"),
        ("Caf\u00e9.png", "Caf\u0065\u0301.png"),
        ("a b.png", "a%20b.png"),
        ("Sub/a.png", "sub/a.png"),
        ("sub/a.png", "sub\\a.png"),
        ("e\u0301/B.png", "\u00e9/b.jpg"),
    ],
)
def test_a_file_of_nearly_the_name_is_named(tmp_path, there, asked):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    noise(8, 6).save(tmp_path / there, "PNG")
    with pytest.raises(ImageError) as raised:
        resolve_image(str(tmp_path), asked)
    assert f"no such file, but there is {there!r}: write it as the file is called" in str(raised.value)


def test_no_near_name_is_made_up(tmp_path):
    noise(8, 6).save(tmp_path / "a.png")
    (tmp_path / "c.png").mkdir()
    for asked in ("b.png", "a/a.png", "c.jpg", "none/a.png", "aa.png"):
        assert near_name(str(tmp_path), asked) is None
    assert near_name(str(tmp_path / "absent"), "a.png") is None


def test_symlinks(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    noise(8, 6).save(tmp_path / "elsewhere/c.png")
    os.symlink("c.png", tmp_path / "elsewhere/same_folder.png")
    os.symlink(tmp_path / "elsewhere", root / "folder")
    os.symlink(tmp_path / "outside.png", root / "file.png")
    os.symlink("a.png", root / "inside.png")
    for path in ("folder/c.png", "folder/same_folder.png", "inside.png"):
        assert load_image(resolve_image(str(root), path)).size == (8, 6)
    with pytest.raises(ImageError, match="symlink of a single file out of its root"):
        resolve_image(str(root), "file.png")
    assert resolve_image(str(root), "file.png", allow_file_symlinks=True) == str(root / "file.png")


def test_broken_files(tmp_path):
    path = tmp_path / "x.png"
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "PNG")
    cases = {b"": "the file is empty", b"no image": "cannot be opened", buffer.getvalue()[:3000]: "broken image data"}
    for data, reason in cases.items():
        path.write_bytes(data)
        with pytest.raises(ImageError, match=reason) as raised:
            load_image(str(path))
        assert str(path) in str(raised.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_files_raise_nothing_else(tmp_path):
    """Bytes changed at random give an image or ImageError, whatever the decoder makes of them."""
    rng = np.random.default_rng(0)
    path, errors = tmp_path / "x", 0
    for format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        buffer = io.BytesIO()
        noise(20, 16).save(buffer, format)
        for _ in range(25):
            data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            data[rng.integers(0, min(len(data), 200), 6)] = rng.integers(0, 256, 6)
            path.write_bytes(data.tobytes())
            try:
                assert load_image(str(path)).mode == "RGB"
            except ImageError:
                errors += 1
    assert 20 < errors < 150


@pytest.mark.parametrize(("dtype", "form"), [(np.uint16, "PNG"), (np.int32, "TIFF")])
def test_16_bit_greys_of_many_rows_are_scaled_alike(tmp_path, dtype, form):
    greys = (np.arange(600 * 3).reshape(600, 3) * 36).astype(dtype)
    path = tmp_path / f"grey.{form.lower()}"
    Image.fromarray(greys).save(path, form)
    pixels = np.asarray(load_image(str(path)))
    assert (pixels == (greys // 256)[..., None]).all()


RAMP = np.linspace(0, 255, 40 * 30).reshape(30, 40)
GREYS = {
    "8 bits in int32": (RAMP.astype(np.int32), "TIFF"),
    "8 bits in uint16": (RAMP.astype(np.uint16), "PNG"),
    "12 bits in uint16": ((RAMP * 4095 / 255).astype(np.uint16), "PNG"),
    "12 bits in int32": ((RAMP * 4095 / 255).astype(np.int32), "TIFF"),
    "16 bits in uint16": ((RAMP * 65535 / 255).astype(np.uint16), "TIFF"),
    "16 bits in int32": ((RAMP * 65535 / 255).astype(np.int32), "TIFF"),
    "31 bits in int32": ((RAMP * (2**31 - 1) / 255).astype(np.int32), "TIFF"),
    "Hounsfield units": ((RAMP * 4000 / 255 - 1000).astype(np.int32), "TIFF"),
    "floats to 1": ((RAMP / 255).astype(np.float32), "TIFF"),
    "floats to 255": (RAMP.astype(np.float32), "TIFF"),
    "floats to 65535": ((RAMP * 257).astype(np.float32), "TIFF"),
    "floats around 0": ((RAMP - 128).astype(np.float32), "TIFF"),
}


@pytest.mark.parametrize("name", GREYS)
def test_greys_of_any_depth_show_what_they_hold(tmp_path, name):
    values, form = GREYS[name]
    path = tmp_path / "grey"
    Image.fromarray(values).save(path, form)
    pixels = np.asarray(load_image(str(path)), np.int16)
    assert np.abs(pixels - RAMP[..., None]).max() <= 1.5


def test_floats_that_are_no_numbers_are_black(tmp_path):
    values = np.array([[0, 1, np.nan], [0.5, np.inf, -np.inf]], np.float32)
    Image.fromarray(values).save(tmp_path / "grey.tiff")
    assert np.asarray(load_image(str(tmp_path / "grey.tiff")))[..., 0].tolist() == [[0, 255, 0], [127, 255, 0]]
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "grey.tiff")
    assert not np.asarray(load_image(str(tmp_path / "grey.tiff"))).any()


def test_image_bombs_are_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    data = bytearray()
    buffer = io.BytesIO()
    noise(2, 2).save(buffer, "PNG")
    data[:] = buffer.getvalue()
    side = 13_000
    assert side * side > MAX_PIXELS
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # other libraries switch Pillow's own check off
    with pytest.raises(ImageError, match=f"13000 x 13000 pixels; from 1 to {MAX_PIXELS} are read"):
        open_image(str(path))


def test_formats_that_start_programs_are_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="cannot be opened"):
        open_image(str(path))


@pytest.mark.parametrize(("width", "height"), [(640, 480), (90, 70), (1240, 877), (300, 900)])
@pytest.mark.parametrize(("picture", "most", "mean"), [("smooth", 2, 0.05), ("white noise", 3, 0.2)])
def test_fast_resizing_moves_no_level_by_more_than_that(picture, most, mean, width, height):
    image = noise(width, height) if picture == "white noise" else noise(12, 9).resize((width, height))
    exact, fast = (Tiling(image_size=56, fast=fast) for fast in (False, True))
    [grid] = exact.plan([image.size])
    tiles, others = exact.cut(image, grid), fast.cut(image, grid)
    assert others.shape == tiles.shape and others.dtype == np.uint8
    apart = np.abs(tiles.astype(int) - others)
    assert 0 < apart.max() <= most and apart.mean() < mean


def test_pixels_are_exact_unless_speed_is_asked_for():
    assert not Tiling().fast
