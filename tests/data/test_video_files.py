import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, noise, png
from PIL import Image, ImageSequence

from igpt_jax.data.card_faces import Card, draw_card
from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.video_files import (
    contact_sheet,
    count_frames,
    read_video,
    write_gif,
    write_mp4,
    write_video,
)
from igpt_jax.errors import UserError


def drawn(image_size: int = 64, count: int = 6) -> np.ndarray:
    cards = [Card((17 + i,), colour="red", background="navy") for i in range(count)]
    return np.stack([draw_card(card, image_size) for card in cards])


def smooth(height: int = 40, width: int = 56, count: int = 4) -> np.ndarray:
    """Colours that run into each other: far more than 256 in each frame."""
    t, y, x = np.mgrid[:count, :height, :width]
    channels = [x / width, y / height, (x + y + 9 * t) / (width + height + 9 * count)]
    return (np.stack(channels, axis=-1) * 255).astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def ffmpeg(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Runs the program FFmpeg, a build apart from the libraries in PyAV."""
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    command = [program, "-nostdin", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True)


def read_by_ffmpeg(path: Path) -> tuple[str, np.ndarray]:
    """The frames, and what FFmpeg tells of the file."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"]
    done = ffmpeg("-i", path, *raw)
    told = done.stderr.decode()
    width, height = map(int, re.findall(r"rawvideo.*?, (\d+)x(\d+)", told)[0])
    return told, np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def pillow_file(fmt: str, frames: np.ndarray, **options: object) -> bytes:
    first, *rest = map(Image.fromarray, frames)
    return encode(first, fmt, save_all=True, append_images=rest, **options)


def mp4(tmp_path: Path, frames: np.ndarray, **options) -> bytes:
    pytest.importorskip("av")
    write_mp4(tmp_path / "made.mp4", frames, **options)
    return (tmp_path / "made.mp4").read_bytes()


def error_of(data: bytes, **options) -> str:
    with pytest.raises(BrokenImageError) as error:
        read_video(data, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_gif_of_few_colours_keeps_every_pixel_and_every_frame(tmp_path):
    video = drawn()
    video[3] = video[2]  # a frame that repeats stays a frame
    write_gif(tmp_path / "a.gif", video, fps=8)
    np.testing.assert_array_equal(read_video(tmp_path / "a.gif"), video)
    assert count_frames(tmp_path / "a.gif") == len(video)


def test_ffmpeg_reads_a_gif_alike(tmp_path):
    video = drawn()
    video[3] = video[2]
    write_gif(tmp_path / "a.gif", video, fps=10)
    told, frames = read_by_ffmpeg(tmp_path / "a.gif")
    np.testing.assert_array_equal(frames, video)
    assert "10 fps" in told


def test_a_gif_of_many_colours_stays_close(tmp_path):
    video = smooth()
    assert len(np.unique(video[0].reshape(-1, 3), axis=0)) > 1000
    write_gif(tmp_path / "a.gif", video)
    assert psnr(read_video(tmp_path / "a.gif"), video) > 32


@pytest.mark.parametrize("fps", [1, 3, 8, 24, 50])
def test_a_gif_lasts_as_long_as_its_frames(tmp_path, fps: int):
    write_gif(tmp_path / "a.gif", smooth(4, 4, 12), fps=fps, comment="how it was made")
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.info["loop"] == 0
        assert picture.info["comment"] == b"how it was made"
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(picture)]
    assert len(durations) == 12
    assert abs(sum(durations) - 12_000 / fps) <= 5
    assert max(durations) - min(durations) <= 10


@pytest.mark.parametrize("zoom", [1, 3])
def test_pixels_are_drawn_as_squares(tmp_path, zoom: int):
    video = drawn(32, 3)
    write_gif(tmp_path / "a.gif", video, zoom=zoom)
    expected = np.kron(video, np.ones((1, zoom, zoom, 1), np.uint8))
    np.testing.assert_array_equal(read_video(tmp_path / "a.gif"), expected)


@pytest.mark.parametrize(("size", "zoom", "written"), [(32, 4, 128), (64, 2, 128), (50, 4, 200)])
def test_ffmpeg_reads_an_mp4_with_the_colours_of_small_pictures(tmp_path, size, zoom, written):
    pytest.importorskip("av")
    video = drawn(size)
    write_mp4(tmp_path / "a.mp4", video, fps=8, comment="how it was made")
    told, frames = read_by_ffmpeg(tmp_path / "a.mp4")
    assert "Video: h264" in told
    assert "yuv420p(tv, smpte170m/bt709/iec61966-2-1" in told
    assert "8 fps" in told
    assert "how it was made" in told
    assert frames.shape[1:3] == (written, written)
    assert len(frames) == len(video)
    assert psnr(frames[:, ::zoom, ::zoom], video) > 38
    ours = read_video(tmp_path / "a.mp4")
    assert psnr(ours, frames) > 40


def test_an_mp4_of_even_size_and_zoom_1_is_as_large_as_its_frames(tmp_path):
    video = smooth(40, 56)
    assert read_video(mp4(tmp_path, video, zoom=1)).shape == video.shape
    assert psnr(read_video(mp4(tmp_path, video, zoom=1)), video) > 35


@pytest.mark.parametrize("size", [(41, 56), (40, 57), (1, 1), (33, 35)])
def test_an_mp4_of_odd_size_repeats_its_border(tmp_path, size: tuple[int, int]):
    video = smooth(*size)
    frames = read_video(mp4(tmp_path, video, zoom=1))
    assert frames.shape == (4, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert psnr(frames[:, : size[0], : size[1]], video) > 30


def test_an_mp4_has_its_index_first_so_that_browsers_start_at_once(tmp_path):
    data = mp4(tmp_path, drawn())
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("codec", "container"),
    [("libx264", "mov"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"), ("libx264", "avi")],
)
def test_a_piece_of_a_video_is_what_the_whole_has_there(tmp_path, codec: str, container: str):
    av = pytest.importorskip("av")
    path = str(tmp_path / "a")
    with av.open(path, "w", format=container) as file:
        stream = file.add_stream(codec, 25, options={"g": "7", "bf": "2"})
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for frame in smooth(48, 48, 30):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    whole = read_video(path)
    assert whole.shape == (30, 48, 48, 3)
    assert count_frames(path) == 30
    for frames in (range(0, 5), range(6, 9), range(7, 30, 4), range(29, 30), range(13, 14)):
        np.testing.assert_array_equal(read_video(path, frames=frames), whole[frames])


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_videos_of_a_turned_camera_are_upright(tmp_path, degrees: int):
    """FFmpeg turns them by what the file says too."""
    mp4(tmp_path, smooth(40, 56), zoom=2)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", degrees, "-i", tmp_path / "made.mp4", "-c", "copy", turned)
    _, frames = read_by_ffmpeg(turned)
    ours = read_video(turned)
    assert ours.shape == frames.shape
    assert ours.shape[1:3] == ((80, 112) if degrees % 180 == 0 else (112, 80))
    assert psnr(ours, frames) > 40


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG"])
def test_animations_of_other_programs_are_read(fmt: str):
    video = drawn(32, 5)
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = pillow_file(fmt, video, **options)
    assert count_frames(data) == 5
    whole = read_video(data)
    assert psnr(whole, video) > (30 if fmt == "GIF" else 90)
    np.testing.assert_array_equal(read_video(data, frames=range(1, 5, 2)), whole[1:5:2])
    assert read_video(encode(Image.fromarray(video[0]), fmt)).shape == (1, 32, 32, 3)


def test_transparent_frames_lie_on_paper():
    frames = []
    for left in (0, 4):
        picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        picture.paste((200, 10, 20, 255), (left, 0, left + 4, 8))
        frames.append(picture)
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2)
    video = read_video(data, paper=(1, 2, 3))
    assert video.shape == (2, 8, 8, 3)
    for number, (inked, bare) in enumerate(((0, 7), (7, 0))):
        assert tuple(video[number, 4, inked]) == (200, 10, 20)
        assert tuple(video[number, 4, bare]) == (1, 2, 3)
    assert tuple(read_video(data)[0, 4, 7]) == (255, 255, 255)


def damaged(data: bytes, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(60):
        spoiled = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 20)):
            spoiled[place] = int(rng.integers(256))
        files.append(bytes(spoiled))
    return files


@pytest.mark.parametrize("kind", ["gif", "mp4", "webp", "png", "pillow's gif"])
def test_no_file_that_is_cut_short_is_taken_for_a_shorter_one(tmp_path, kind: str):
    video = drawn(32, 3)
    if kind == "mp4":
        data = mp4(tmp_path, video)
    elif kind == "gif":
        write_gif(tmp_path / "a.gif", video)
        data = (tmp_path / "a.gif").read_bytes()
    else:
        data = pillow_file(kind.split()[-1].upper(), video)
    assert len(read_video(data)) == 3
    step = max(1, len(data) // 150)
    ends = {*range(0, len(data) - 20, step), len(data) - 1}
    if kind == "png":  # its last chunk has no pixels
        ends = {end for end in ends if end < len(data) - 12}
    for end in ends:
        error_of(data[:end])


@pytest.mark.parametrize("kind", ["gif", "mp4", "webp", "png"])
def test_damaged_files_raise_one_error_or_are_read(tmp_path, kind: str):
    video = drawn(32, 3)
    data = mp4(tmp_path, video) if kind == "mp4" else pillow_file(kind.upper(), video)
    outcomes = set()
    for spoiled in damaged(data):
        try:
            assert read_video(spoiled).ndim == 4
            outcomes.add("read")
        except BrokenImageError as error:
            outcomes.add(str(error))
    outcomes.discard("read")
    assert outcomes
    assert not any("\n" in message for message in outcomes)


def test_what_is_no_video_is_told(tmp_path):
    pytest.importorskip("av")
    for data in (b"", b"\0" * 500, b"a text\n" * 50, noise(seed=3).tobytes(), b"GIF89a", b"RIFF"):
        error_of(data)
    secret = tmp_path / "secret.gif"
    write_gif(secret, drawn(32, 2))
    play_list = f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    error_of(play_list.encode())  # would open any other file
    error_of(f"ffconcat version 1.0\nfile '{secret}'\n".encode())
    (tmp_path / "a.mp4").write_bytes(b"not one")
    with pytest.raises(BrokenImageError, match=r"a\.mp4: "):
        read_video(tmp_path / "a.mp4")
    with pytest.raises(BrokenImageError, match=r"a\.mp4: "):
        count_frames(tmp_path / "a.mp4")


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    head = b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0) + b"\x08\x01\0\0"
    assert "limit" in error_of(head + frame * 3 + b";")
    assert "limit" in error_of(png(8, 2, 60_000, 60_000, b""))
    tiny = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b",\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\0"
    assert read_video(tiny + frame * 3 + b";").shape == (3, 1, 1, 3)
    assert "100001 frames" in error_of(tiny + frame * 100_001 + b";")
    video = drawn(32, 4)
    data = pillow_file("GIF", video)
    assert "limit" in error_of(data, max_pixels=4 * 32 * 32 - 1)
    assert "limit" in error_of(data, max_pixels=3 * 32 * 32, frames=range(3, 4))
    assert len(read_video(data, max_pixels=4 * 32 * 32)) == 4
    data = mp4(tmp_path, video, zoom=1)
    assert "limit" in error_of(data, max_pixels=4 * 32 * 32 - 1)
    assert len(read_video(data, max_pixels=32 * 32, frames=range(3, 4))) == 1


def test_frames_beyond_the_end_are_missed(tmp_path):
    for data in (pillow_file("GIF", drawn(32, 4)), mp4(tmp_path, drawn(32, 4))):
        assert "at least 9 frames, got 4" in error_of(data, frames=range(0, 10, 2))
        for frames in (range(0), range(-1, 2), range(3, 0, -1)):
            with pytest.raises(UserError, match="rising range"):
                read_video(data, frames=frames)


@pytest.mark.parametrize("name", ["a.gif", "a.MP4"])
def test_a_file_is_chosen_by_its_name_and_whole_or_not_there(tmp_path, monkeypatch, name: str):
    if name != "a.gif":
        pytest.importorskip("av")
    path = tmp_path / "new" / name
    write_video(path, drawn(32, 3), fps=5)
    assert len(read_video(path)) == 3
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_video(path, drawn(32, 2))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [name]


def test_wrong_input_is_told_in_one_line(tmp_path):
    video = drawn(32, 2)
    for name in ("a.avi", "a"):
        with pytest.raises(UserError, match=r"\.gif or \.mp4"):
            write_video(tmp_path / name, video)
    for options in ({"fps": 0.0}, {"fps": float("nan")}, {"fps": 60.0}, {"zoom": 0}):
        with pytest.raises(UserError, match="expected"):
            write_gif(tmp_path / "a.gif", video, **options)
    with pytest.raises(UserError, match="frames with pixels"):
        write_gif(tmp_path / "a.gif", video[:0])
    with pytest.raises(UserError, match="check the path"):
        read_video(tmp_path / "missing.mp4")
    assert not list(tmp_path.iterdir())


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"igpt_jax\[video\]"):
        write_mp4(tmp_path / "a.mp4", drawn(32, 2))
    (tmp_path / "b.mp4").write_bytes(b"\0\0\0\x08ftyp")
    with pytest.raises(UserError, match=r"igpt_jax\[video\]"):
        read_video(tmp_path / "b.mp4")
    write_gif(tmp_path / "a.gif", drawn(32, 2))
    assert len(read_video(tmp_path / "a.gif")) == 2


def test_a_contact_sheet_has_a_row_for_each_video():
    videos = np.zeros((2, 3, 64, 64, 3), np.uint8)
    for video in range(2):
        for frame in range(3):
            videos[video, frame] = 40 * video + 10 * frame + 5
    sheet = contact_sheet(videos)
    height, width, _ = sheet.shape
    assert height > 128
    assert width > 192
    for video in range(2):
        for frame in range(3):
            y, x = (2 * video + 1) * height // 4, (2 * frame + 1) * width // 6
            assert sheet[y, x, 0] == 40 * video + 10 * frame + 5
