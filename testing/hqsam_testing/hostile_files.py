"""Hostile image files, each made by a function whose name says what is wrong with it.

`CASES` holds the expected result of each: an image of a certain (height, width), a refusal with
certain words in its message, or either of the two, where decoders differ.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from hqsam_testing.image_files import encoded
from hqsam_testing.oracle import images

WIDTH, HEIGHT = 60, 40
SIZE = (HEIGHT, WIDTH)

NO_IMAGE = "not an image that can be read"
DAMAGED = "truncated or damaged"
TOO_LARGE = "pixels, expected at most"
REFUSED = ""


class Case(NamedTuple):
    """A file and its expected result.

    Attributes:
        make: returns the file.
        refusal: words of the error's message, or None if the file has to be read.
        size: (height, width) if the file has to be or may be read, else None.
    """

    make: Callable[[], bytes]
    refusal: str | None = None
    size: tuple[int, int] | None = None


def _image() -> Image.Image:
    return Image.fromarray(images.draw(WIDTH, HEIGHT))


def valid(file_format: str) -> bytes:
    """Return an ordinary file of a format."""
    return encoded(_image(), file_format)


# PNG


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
END = chunk(b"IEND")


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(
    *before: bytes, header: bytes | None = None, pixels: bytes | None = None, after: bytes = b""
) -> bytes:
    """Return a PNG of `SIZE` with chunks before and after its pixels."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(_image()))
    data = chunk(b"IDAT", zlib.compress(rows)) if pixels is None else pixels
    header = png_header(WIDTH, HEIGHT) if header is None else header
    return b"".join((PNG_MAGIC, header, *before, data, after, END))


def png_bomb() -> bytes:
    return png(header=png_header(100_000, 100_000))


def png_of_the_largest_sides() -> bytes:
    return png(header=png_header(2**31 - 1, 2**31 - 1))


def png_of_sides_beyond_the_largest() -> bytes:
    return png(header=png_header(2**32 - 1, 2**32 - 1))


def png_without_width() -> bytes:
    return png(header=png_header(0, HEIGHT))


def png_without_height() -> bytes:
    return png(header=png_header(WIDTH, 0))


def png_of_more_pixels_than_its_header_says() -> bytes:
    return png(pixels=chunk(b"IDAT", zlib.compress(bytes(50_000_000))))


def png_of_fewer_pixels_than_its_header_says() -> bytes:
    return png(pixels=chunk(b"IDAT", zlib.compress(bytes(1000))))


def png_with_a_text_bomb() -> bytes:
    return png(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000))))


def png_with_a_profile_bomb() -> bytes:
    return png(chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(50_000_000))))


def png_with_a_broken_profile() -> bytes:
    return png(chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"no profile")))


def png_of_a_wrong_header_checksum() -> bytes:
    return png(header=png_header(WIDTH, HEIGHT)[:-1] + b"\0")


def png_of_a_wrong_pixel_checksum() -> bytes:
    whole = valid("PNG")
    place = whole.index(b"IEND") - 5
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def png_of_pixels_before_the_header() -> bytes:
    return PNG_MAGIC + chunk(b"IDAT", zlib.compress(bytes(100))) + png_header(1, 1) + END


def png_of_two_headers() -> bytes:
    return png(png_header(30_000, 30_000))


def png_without_pixels() -> bytes:
    return png(pixels=b"")


def png_of_a_chunk_longer_than_the_file() -> bytes:
    return png(b"\x7f\xff\xff\xff" + b"tEXt" + b"x" * 100)


def png_of_empty_chunks() -> bytes:
    return png(chunk(b"juNk") * 50_000)


def png_of_an_unknown_depth() -> bytes:
    return png(header=png_header(WIDTH, HEIGHT, depth=7))


def png_of_a_palette_that_is_not_there() -> bytes:
    rows = (b"\0" + bytes(range(WIDTH))) * HEIGHT
    header = png_header(WIDTH, HEIGHT, colour=3)
    return png(header=header, pixels=chunk(b"IDAT", zlib.compress(rows)))


def png_of_colours_beyond_its_palette_and_too_much_transparency() -> bytes:
    rows = (b"\0" + bytes(200 + i % 56 for i in range(WIDTH))) * HEIGHT
    return png(
        chunk(b"PLTE", bytes(6)),
        chunk(b"tRNS", bytes(300)),
        header=png_header(WIDTH, HEIGHT, colour=3),
        pixels=chunk(b"IDAT", zlib.compress(rows)),
    )


def png_of_sixteen_bits() -> bytes:
    rows = (b"\0" + b"\x80" * (6 * WIDTH)) * HEIGHT
    header = png_header(WIDTH, HEIGHT, depth=16)
    return png(header=header, pixels=chunk(b"IDAT", zlib.compress(rows)))


def png_with_a_page_in_its_text() -> bytes:
    return png(chunk(b"tEXt", b"Comment\0<script>alert(1)</script>"))


def apng_of_a_billion_frames_that_are_not_there() -> bytes:
    return png(chunk(b"acTL", struct.pack(">II", 10**9, 0)))


def apng_of_frames_out_of_order() -> bytes:
    control = struct.pack(">IIIIIHHBB", 7, WIDTH, HEIGHT, 0, 0, 1, 1, 0, 0)
    frame = chunk(b"fdAT", struct.pack(">I", 3) + b"no pixels")
    return png(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", control), after=frame * 2)


# JPEG


def jpeg(*segments: bytes) -> bytes:
    """Return a JPEG of `SIZE` with segments after its start."""
    whole = valid("JPEG")
    return whole[:2] + b"".join(segments) + whole[2:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_sides(whole: bytes, width: int, height: int) -> bytes:
    """Return a JPEG whose header claims other sides."""
    start = whole.index(b"\xff\xc0")
    return whole[: start + 5] + struct.pack(">HH", height, width) + whole[start + 9 :]


def jpeg_bomb() -> bytes:
    return with_sides(valid("JPEG"), 65535, 65535)


def jpeg_without_height() -> bytes:
    return with_sides(valid("JPEG"), WIDTH, 0)


def jpeg_of_more_rows_than_it_has() -> bytes:
    return with_sides(valid("JPEG"), WIDTH, 4 * HEIGHT)


def jpeg_of_empty_segments() -> bytes:
    return jpeg(segment(0xE1, b"") * 50_000)


def jpeg_of_fill_bytes() -> bytes:
    return jpeg(b"\xff" * 200_000)


def jpeg_of_cyclic_exif() -> bytes:
    # The directory's Exif pointer and its next directory are the directory itself.
    entry = struct.pack(">HHII", 0x8769, 4, 1, 8)
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + struct.pack(">I", 8)
    return jpeg(segment(0xE1, b"Exif\0\0" + exif))


def jpeg_of_deep_exif() -> bytes:
    exif = b"MM\0*\0\0\0\x08"
    for depth in range(2000):
        here = 8 + 18 * depth
        exif += struct.pack(">HHHIII", 1, 0x8769, 4, 1, here + 18, here + 18)
    return jpeg(segment(0xE1, b"Exif\0\0" + exif))


def jpeg_of_an_orientation_that_is_a_text() -> bytes:
    entry = struct.pack(">HHI4s", 0x0112, 2, 4, b"six\0")
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + bytes(4)
    return jpeg(segment(0xE1, b"Exif\0\0" + exif))


def jpeg_of_fifteen_thousand_orientations() -> bytes:
    entry = struct.pack(">HHII", 0x0112, 3, 15_000, 26)
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + bytes(4) + b"\0\6" * 15_000
    return jpeg(segment(0xE1, b"Exif\0\0" + exif))


def jpeg_of_a_huge_profile() -> bytes:
    parts = (b"ICC_PROFILE\0" + bytes([number, 60]) + bytes(65_000) for number in range(1, 61))
    return jpeg(*(segment(0xE2, part) for part in parts))


def jpeg_of_a_broken_profile() -> bytes:
    return jpeg(segment(0xE2, b"ICC_PROFILE\0\x05\x02no profile"))


def jpeg_of_four_inks() -> bytes:
    return encoded(_image().convert("CMYK"), "JPEG")


def jpeg_that_is_a_zip_too() -> bytes:
    buffer = io.BytesIO(valid("JPEG"))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("payload.txt", "hidden")
    return buffer.getvalue()


def jpeg_of_a_broken_index_of_more_images() -> bytes:
    return jpeg(segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff"))


# GIF, WebP and AVIF


def gif_bomb() -> bytes:
    whole = valid("GIF")
    return whole[:6] + struct.pack("<HH", 65535, 65535) + whole[10:]


def gif_without_width() -> bytes:
    whole = valid("GIF")
    return whole[:6] + bytes(2) + whole[8:]


def gif_of_a_frame_outside_of_it() -> bytes:
    whole = valid("GIF")
    frame = whole.index(b",\0\0\0\0")
    return whole[: frame + 1] + struct.pack("<HH", 60000, 60000) + whole[frame + 5 :]


def gif_of_a_comment_without_end() -> bytes:
    whole = valid("GIF")
    palette = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:palette] + b"!\xfe" + (b"\xff" + b"x" * 255) * 20_000 + b"\0" + whole[palette:]


def gif_that_is_a_script_too() -> bytes:
    whole = valid("GIF")
    return whole + b"*/=1;alert(1)//"


def animated(file_format: str, frames: int) -> bytes:
    """Return an animation, red at first."""
    first, *rest = (Image.new("RGB", (WIDTH, HEIGHT), (255, n % 256, 0)) for n in range(frames))
    return encoded(first, file_format, save_all=True, append_images=rest)


def gif_of_five_hundred_frames() -> bytes:
    return animated("GIF", 500)


def apng_of_a_hundred_frames() -> bytes:
    return animated("PNG", 100)


def webp_of_a_hundred_frames() -> bytes:
    return animated("WEBP", 100)


def webp_bomb() -> bytes:
    return encoded(Image.new("RGB", (16383, 2000)), "WEBP", quality=0, method=0)


def webp_longer_than_the_file() -> bytes:
    whole = valid("WEBP")
    return whole[:4] + struct.pack("<I", 2**32 - 10) + whole[8:]


# TIFF


def tiff(**tags: tuple[int, int, int]) -> bytes:
    """Return a TIFF of `SIZE` in grey; `tag_273=(type, count, value)` replaces or adds a tag."""
    entries = {
        256: (3, 1, WIDTH),
        257: (3, 1, HEIGHT),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 1000),
        277: (3, 1, 1),
        278: (3, 1, HEIGHT),
        279: (4, 1, WIDTH * HEIGHT),
        **{int(name.removeprefix("tag_")): entry for name, entry in tags.items()},
    }
    directory = b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    return head.ljust(1000, b"\0") + np.asarray(_image().convert("L")).tobytes()


def tiff_bomb() -> bytes:
    return tiff(tag_256=(4, 1, 200_000), tag_257=(4, 1, 200_000))


def tiff_without_width() -> bytes:
    return tiff(tag_256=(3, 1, 0))


def big_tiff_of_strips() -> bytes:
    entry = struct.pack("<HHQQ", 273, 3, 300_000, 1000)
    head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 1) + entry + bytes(8)
    return head.ljust(1000, b"\0") + bytes(600_000)


def tiff_of_pixels_beyond_its_end() -> bytes:
    return tiff(tag_273=(4, 1, 2**31))


def tiff_whose_next_directory_is_the_same() -> bytes:
    whole = tiff()
    next_directory = 8 + 2 + 9 * 12
    return whole[:next_directory] + struct.pack("<I", 8) + whole[next_directory + 4 :]


def tiff_of_a_tag_of_four_thousand_million() -> bytes:
    return tiff(tag_258=(3, 2**32 - 1, 1000))


def tiff_of_huge_tiles() -> bytes:
    return tiff(tag_322=(4, 1, 2**31 - 1), tag_323=(4, 1, 2**31 - 1), tag_324=(4, 1, 1000))


def tiff_of_no_known_compression() -> bytes:
    return tiff(tag_259=(3, 1, 60_000))


# BMP, PPM and JPEG 2000


def bmp_of_sides(width: int, height: int) -> bytes:
    whole = valid("BMP")
    return whole[:18] + struct.pack("<ii", width, height) + whole[26:]


def bmp_bomb() -> bytes:
    return bmp_of_sides(100_000, 100_000)


def bmp_without_width() -> bytes:
    return bmp_of_sides(0, HEIGHT)


def bmp_of_the_lowest_height() -> bytes:
    return bmp_of_sides(WIDTH, -(2**31))


def ppm_bomb() -> bytes:
    return b"P6 99999999999 99999999999 255\n" + bytes(1000)


def ppm_without_height() -> bytes:
    return b"P6 60 0 255\n"


def ppm_of_a_number_without_end() -> bytes:
    return b"P6 " + b"9" * 1_000_000


def jpeg2000_bomb() -> bytes:
    whole = valid("JPEG2000")
    header = whole.index(b"ihdr") + 4
    size = whole.index(b"\xff\x51") + 6
    sides = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    whole = whole[:header] + sides + whole[header + 8 :]
    return whole[:size] + sides + whole[size + 8 :]


# Not an image, or parts of two


def nothing() -> bytes:
    return b""


def one_byte() -> bytes:
    return b"\x89"


def a_megabyte_of_zeros() -> bytes:
    return bytes(1_000_000)


def noise() -> bytes:
    return np.random.default_rng(0).bytes(100_000)


def svg() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n(/etc/passwd) (r) file\n"


def pdf_that_is_a_jpeg_too() -> bytes:
    return b"%PDF-1.7\n" + valid("JPEG")


def jpeg_header_on_a_png() -> bytes:
    return valid("JPEG")[:20] + valid("PNG")[8:]


def png_header_on_a_jpeg() -> bytes:
    return valid("PNG")[:33] + valid("JPEG")[20:]


def webp_header_on_a_gif() -> bytes:
    return valid("WEBP")[:16] + valid("GIF")[13:]


def tiff_header_on_a_bmp() -> bytes:
    return b"II*\0" + valid("BMP")[4:]


def _cut(file_format: str, part: float) -> Callable[[], bytes]:
    def make() -> bytes:
        whole = valid(file_format)
        return whole[: int(len(whole) * part)] if part else whole[:-1]

    return make


def _cases() -> dict[str, Case]:
    refused: dict[Callable[[], bytes], str] = {
        **dict.fromkeys(
            (
                nothing, one_byte, a_megabyte_of_zeros, noise, svg, postscript, ppm_bomb,
                pdf_that_is_a_jpeg_too, jpeg_header_on_a_png, webp_header_on_a_gif,
                png_without_width, png_without_height, png_with_a_text_bomb,
                png_of_a_wrong_header_checksum, png_of_an_unknown_depth,
                tiff_without_width,
                bmp_without_width, ppm_without_height, ppm_of_a_number_without_end,
                tiff_of_no_known_compression, big_tiff_of_strips,
            ),
            NO_IMAGE,
        ),
        **dict.fromkeys(
            (
                png_bomb, png_of_the_largest_sides, png_of_two_headers, jpeg_bomb, gif_bomb,
                webp_bomb, tiff_bomb, bmp_bomb, bmp_of_the_lowest_height, jpeg2000_bomb,
            ),
            TOO_LARGE,
        ),
        **dict.fromkeys(
            (
                png_of_fewer_pixels_than_its_header_says, png_of_pixels_before_the_header,
                tiff_of_pixels_beyond_its_end,
            ),
            DAMAGED,
        ),
        **dict.fromkeys(
            (
                png_of_sides_beyond_the_largest, png_without_pixels, png_header_on_a_jpeg,
                jpeg_without_height, tiff_header_on_a_bmp, png_of_a_chunk_longer_than_the_file,
            ),
            REFUSED,
        ),
    }  # fmt: skip
    read = (
        png_of_sixteen_bits, png_with_a_broken_profile, png_with_a_page_in_its_text,
        apng_of_a_hundred_frames, jpeg_of_cyclic_exif, jpeg_of_deep_exif,
        jpeg_of_an_orientation_that_is_a_text, jpeg_of_a_huge_profile,
        jpeg_of_a_broken_profile, jpeg_of_four_inks, jpeg_that_is_a_zip_too,
        gif_that_is_a_script_too, gif_of_five_hundred_frames,
        webp_of_a_hundred_frames, png_of_empty_chunks, jpeg_of_empty_segments, jpeg_of_fill_bytes,
        tiff_of_a_tag_of_four_thousand_million, gif_of_a_comment_without_end,
        tiff_whose_next_directory_is_the_same,
    )  # fmt: skip
    either = (
        png_of_more_pixels_than_its_header_says, png_with_a_profile_bomb,
        png_of_a_wrong_pixel_checksum, gif_without_width,
        png_of_a_palette_that_is_not_there, apng_of_a_billion_frames_that_are_not_there,
        png_of_colours_beyond_its_palette_and_too_much_transparency, apng_of_frames_out_of_order,
        jpeg_of_a_broken_index_of_more_images, webp_longer_than_the_file, tiff_of_huge_tiles,
    )  # fmt: skip
    cases = {make.__name__: Case(make, words) for make, words in refused.items()}
    cases |= {make.__name__: Case(make, None, SIZE) for make in read}
    cases |= {make.__name__: Case(make, REFUSED, SIZE) for make in either}
    # The first of many is valid; it rotates the image.
    turned = jpeg_of_fifteen_thousand_orientations
    cases[turned.__name__] = Case(turned, None, (WIDTH, HEIGHT))
    # The JPEG library fills in the missing rows.
    cases["jpeg_of_more_rows_than_it_has"] = Case(
        jpeg_of_more_rows_than_it_has, REFUSED, (4 * HEIGHT, WIDTH)
    )
    # Its one frame makes it larger than its header says.
    cases["gif_of_a_frame_outside_of_it"] = Case(gif_of_a_frame_outside_of_it, REFUSED)
    for file_format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM"):
        for name, part in (("a_tenth", 0.1), ("half", 0.5), ("nine_tenths", 0.9)):
            cases[f"{file_format.lower()}_cut_to_{name}"] = Case(_cut(file_format, part), REFUSED)
        # Enough for some decoders: only a checksum or the end marker is incomplete.
        last = f"{file_format.lower()}_without_its_last_byte"
        cases[last] = Case(_cut(file_format, 0), REFUSED, SIZE)
    return cases


CASES = _cases()
