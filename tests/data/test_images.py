import threading
import warnings

import numpy as np
import pytest
from pictures import encode, noise, png
from PIL import Image, features

from igpt_jax.data.images import BrokenImageError, decode_image, to_float, to_uint8


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_byte(fmt):
    image = noise()
    decoded = decode_image(encode(Image.fromarray(image), fmt))
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
def test_lossy_formats_are_near(fmt):
    if fmt == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    ramp = np.broadcast_to(np.linspace(20, 200, 64).astype(np.uint8)[None, :, None], (48, 64, 3))
    decoded = decode_image(encode(Image.fromarray(np.ascontiguousarray(ramp)), fmt))
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - ramp).mean() < 4


def test_grey_and_one_bit():
    grey = noise()[..., 0]
    decoded = decode_image(encode(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, axis=-1))
    bits = decode_image(png(1, 0, 8, 1, b"\x00\xaa"))
    np.testing.assert_array_equal(bits[0, :, 0], [255, 0] * 4)


def test_palette_with_transparency_is_composited_on_white():
    colors = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])
    data = png(8, 3, 3, 1, b"\x00\x00\x01\x02", b"PLTE" + colors, b"tRNS" + bytes([255, 0, 128]))
    half = 255 - 128
    np.testing.assert_array_equal(
        decode_image(data)[0], [[255, 0, 0], [255] * 3, [half, half, 255]]
    )


def test_palette_without_transparency():
    picture = Image.fromarray(noise()).quantize(16)
    decoded = decode_image(encode(picture, "PNG"))
    np.testing.assert_array_equal(decoded, np.array(picture.convert("RGB")))


def test_colour_key_transparency_of_rgb_and_grey():
    rgb = png(8, 2, 2, 1, b"\x00" + bytes([9, 8, 7, 1, 2, 3]), b"tRNS" + bytes([0, 9, 0, 8, 0, 7]))
    np.testing.assert_array_equal(decode_image(rgb)[0], [[255] * 3, [1, 2, 3]])
    grey = png(8, 0, 2, 1, b"\x00" + bytes([9, 8]), b"tRNS" + bytes([0, 9]))
    np.testing.assert_array_equal(decode_image(grey)[0], [[255] * 3, [8] * 3])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_on_white(mode, fmt):
    color = (40, 80, 120) if mode == "RGBA" else (60,)
    picture = Image.new(mode, (3, 2), (*color, 255))
    picture.putpixel((0, 0), (*color, 0))
    picture.putpixel((1, 0), (*color, 51))
    options = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    if fmt == "WEBP":
        picture = picture.convert("RGBA")
    decoded = decode_image(encode(picture, fmt, **options))
    opaque = np.broadcast_to(np.array(color), (3,))
    np.testing.assert_array_equal(decoded[1, 2], opaque)
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])
    np.testing.assert_allclose(decoded[0, 1], opaque * 0.2 + 255 * 0.8, atol=1)


def test_cmyk_and_ycbcr():
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    np.testing.assert_allclose(decode_image(encode(cmyk, "JPEG"))[4, 4], [0, 255, 255], atol=3)
    np.testing.assert_array_equal(decode_image(encode(cmyk, "TIFF"))[4, 4], [0, 255, 255])
    ycbcr = Image.new("RGB", (8, 8), (200, 30, 30)).convert("YCbCr")
    np.testing.assert_allclose(decode_image(encode(ycbcr, "TIFF"))[4, 4], [200, 30, 30], atol=3)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled(fmt):
    values = np.array([[0, 256, 257, 32768, 65534, 65535]], np.uint16)
    data = encode(Image.fromarray(values), fmt)
    np.testing.assert_array_equal(decode_image(data)[0, :, 0], np.rint(values[0] / 257))


def test_16_bit_rgb_and_alpha_png_are_scaled():
    values = np.array([0, 300, 65535, 32768, 65535, 1000], ">u2")
    decoded = decode_image(png(16, 2, 2, 1, b"\x00" + values.tobytes()))
    np.testing.assert_allclose(decoded.reshape(-1), values / 257, atol=1)
    grey_alpha = np.array([30000, 65535, 30000, 0], ">u2")
    decoded = decode_image(png(16, 4, 2, 1, b"\x00" + grey_alpha.tobytes()))
    np.testing.assert_allclose(decoded[0], [[30000 / 257] * 3, [255] * 3], atol=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([100.0, 600.0, 1100.0], [0, 128, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 0, 255]),
        ([7000.0, 7000.0, 7000.0], [0, 0, 0]),
    ],
)
def test_float_tiff(values, expected):
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    np.testing.assert_array_equal(decode_image(data)[0, :, 0], expected)


def test_32_bit_tiff_is_scaled():
    values = np.array([[0, 2**30, 2**31 - 1]], np.int32)
    decoded = decode_image(encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(fmt, orientation):
    # Where row 0 and column 0 of the stored pixels belong, after EXIF 2.32, section 4.6.4.
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    stored = noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encode(Image.fromarray(stored), fmt, exif=exif, **options)
    np.testing.assert_array_equal(decode_image(data), upright[orientation](stored))


@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"x"]
)
def test_damaged_exif_does_not_lose_the_picture(exif):
    data = encode(Image.fromarray(noise()), "JPEG", exif=exif)
    assert decode_image(data).shape == (6, 9, 3)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = noise()
    np.testing.assert_array_equal(
        decode_image(encode(Image.fromarray(image), "PNG", exif=exif)), image
    )


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_the_first_frame(fmt):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encode(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    assert (decode_image(data) == [255, 0, 0]).all()


def test_transparent_gif_is_composited_on_white():
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    decoded = decode_image(encode(picture, "GIF", transparency=0))
    np.testing.assert_array_equal(decoded[0], [[255] * 3, [200, 100, 50]])


def test_too_many_pixels_are_refused_before_decoding():
    huge = png(8, 2, 50_000, 50_000, b"")
    with pytest.raises(BrokenImageError, match="pixels"):
        decode_image(huge)
    just_over_pillows_limit = png(8, 2, 10_000, 10_000, b"")
    with pytest.raises(BrokenImageError, match="10000 x 10000 pixels are more than the limit"):
        decode_image(just_over_pillows_limit)
    data = encode(Image.fromarray(noise()), "PNG")
    assert decode_image(data, max_pixels=54).shape == (6, 9, 3)
    with pytest.raises(BrokenImageError, match="9 x 6 pixels are more than the limit of 53"):
        decode_image(data, max_pixels=53)


def test_many_threads_decode_without_warnings():
    """Filters are process-wide: decoding in threads must leave those of others as they are."""
    data = encode(Image.fromarray(noise()), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                decode_image(data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", stacklevel=1)


def test_bytes_survive_the_way_through_floats():
    levels = np.arange(256, dtype=np.uint8)
    floats = to_float(levels)
    assert floats.dtype == np.float32
    assert floats[0] == -1
    assert floats[-1] == 1
    np.testing.assert_array_equal(to_uint8(floats), levels)
    outside = np.array([-2.0, -1.0, 0.0, 1.0, 3.0], np.float32)
    np.testing.assert_array_equal(to_uint8(outside), [0, 0, 128, 255, 255])
