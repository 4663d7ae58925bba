"""Pictures are opened by content, of a named list of formats; nothing is cut in silence."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from deblora.data.chips import ArrayPixels, ChipSet
from deblora.data.decode import decode_chip, picture_size, read_contents, unreadable
from deblora.errors import DataError


def png16(color_type: int, n_bands: int) -> bytes:
    values = np.arange(4 * 4 * n_bands, dtype=">u2").reshape(4, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4, 4, 16, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("color_type", "n_bands"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_in_several_bands_need_rasterio_and_are_never_cut(
    color_type: int, n_bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio.io", None)
    with pytest.raises(
        DataError, match=r"16 bits in several bands is read by rasterio; install deblora\[geo\]"
    ):
        decode_chip(png16(color_type, n_bands), "x.png")


def test_sixteen_bits_in_one_band_stay() -> None:
    assert decode_chip(png16(0, 1), "x.png")[..., 0].tolist() == np.arange(16).reshape(4, 4).tolist()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_formats_that_are_read(kind: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (5, 3), (7, 7, 7)).save(stream, kind)
    assert decode_chip(stream.getvalue(), "x").shape == (3, 5, 3)
    assert picture_size(io.BytesIO(stream.getvalue())) == (5, 3)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PPM", "ICNS", "TGA"])
def test_other_formats_are_not_opened_whatever_they_are_called(kind: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (7, 7, 7)).save(stream, kind)
    with pytest.raises(DataError, match=r"bad\.png: unreadable image"):
        decode_chip(stream.getvalue(), "bad.png")
    assert picture_size(io.BytesIO(stream.getvalue())) is None


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (8, 16",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**30}, 3), }}",
    ],
)
def test_array_headers_made_to_do_harm(header: str) -> None:
    text = header.ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(100)
    with pytest.raises(DataError, match="x: unreadable array"):
        decode_chip(content, "x")


def test_contents_name_copies_and_what_cannot_be_read(rng: np.random.Generator) -> None:
    one, two, three = (rng.integers(0, 200, (32, 48, 1), dtype=np.uint8) for _ in range(3))
    chips = [
        one,
        two,
        one,
        three,
        np.rot90(two, 1),
        two.astype(np.float32) + 20,
        np.zeros((2, 0), dtype=np.uint8),
    ]
    ids = ("a", "b", "c", "d", "e", "f", "g")
    pixels = ArrayPixels(chips, ids)
    splits = ("train", "train", "test", "val", "val", "train", "val")
    labels = np.array([0, 0, 0, 0, 0, 1, 0])
    found = read_contents(ChipSet(ids, labels, splits, ("k", "l"), pixels))
    assert found.copies.across_splits == ((2, 0), (4, 1)) and found.copies.two_classes == ((1, 5),)
    assert list(found.bands) == ["1"] and found.types == {"uint8": "a", "float32": "f"}
    assert list(found.unreadable) == list(unreadable(pixels)) == [6]
    assert (found.beyond, found.far_beyond) == (0, 0)


def test_contents_count_values_beyond_black_and_white() -> None:
    chips = [np.full((4, 4, 1), value, dtype=np.float32) for value in (-30.0, -0.05, 0.5, 1.05, 2.0)]
    ids = tuple("abcde")
    data = ChipSet(ids, np.zeros(5, dtype=np.int64), ("train",) * 5, ("k",), ArrayPixels(chips, ids))
    found = read_contents(data, black=0.0, white=1.0)
    assert (found.beyond, found.far_beyond) == (pytest.approx(0.8), pytest.approx(0.4))


def test_pngs_of_16_bits_in_several_bands_keep_them(rng: np.random.Generator) -> None:
    pytest.importorskip("rasterio")
    from rasterio.io import MemoryFile

    values = rng.integers(0, 65535, (3, 6, 8), dtype=np.uint16)
    with MemoryFile(ext=".png") as file:
        with file.open(driver="PNG", width=8, height=6, count=3, dtype="uint16") as picture:
            picture.write(values)
        content = file.read()
    np.testing.assert_array_equal(decode_chip(content, "x"), values.transpose(1, 2, 0))
    with pytest.raises(DataError, match="x: unreadable image"):
        decode_chip(content[:60], "x")


def png(value: int, mode: str = "L", kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (4, 3), value if mode in ("L", "P", "I;16") else (value,) * len(mode)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "bands", "dtype"),
    [
        ("L", 1, np.uint8),
        ("RGB", 3, np.uint8),
        ("RGBA", 3, np.uint8),
        ("P", 3, np.uint8),
        ("I;16", 1, np.uint16),
    ],
)
def test_modes(mode: str, bands: int, dtype: type) -> None:
    chip = decode_chip(png(3, mode), "x")
    assert (chip.shape, chip.dtype) == ((3, 4, bands), dtype)


def test_arrays_never_unpickle_and_damaged_images_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([[{}]]), allow_pickle=True)
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(noise, "JPEG")
    for content in (stream.getvalue(), b"", b"not an image", noise.getvalue()[:900], png(1)[:40]):
        with pytest.raises(DataError, match="chip-7"):
            decode_chip(content, "chip-7")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    with pytest.raises(DataError, match="chip-7: too many pixels"):
        decode_chip(png(1), "chip-7")
