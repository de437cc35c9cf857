"""Frames of a file with their times: one of a picture, many of an animation or a video.

    pictures, animated GIF, WebP, APNG      Pillow
    video                                   PyAV, with `pip install ".[video]"`

Claim: only one frame is in memory at a time, however long the video is, and a frame is at most as
large as a picture may be.

Left out: sound, subtitles, seeking (all frames are decoded from the start; only some are kept).
"""
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from minilora.data.decoding import PictureError, check_size, opened_picture, read_image
from minilora.data.listing import IMAGE_SUFFIXES, Listing, listing
from minilora.io.notes import note
from minilora.io.regular_file import open_regular
from minilora.io.text import shown, shown_path

ANIMATION_SUFFIXES = (".gif", ".webp", ".png", ".apng")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
DEFAULT_DURATION = 0.1          # seconds per frame, as in browsers, if an animation states none
THUMBNAIL_SIDE = 32             # of the grey thumbnails that are compared to find a change of scene
TIME_TOLERANCE = 1e-6           # seconds
LOCAL_ONLY = {"protocol_whitelist": "file"}     # of FFmpeg: what a video's content may refer to
MEDIA_SUFFIXES = {*IMAGE_SUFFIXES, *ANIMATION_SUFFIXES, *VIDEO_SUFFIXES}
MASK_FOLDERS = {"ground_truth": "test", "Masks": "Images"}  # beside which folder; MVTec AD, VisA


class Frame:
    """One frame.  time: seconds from the start;  picture: PIL RGB, or a function that returns it.

    A function is called when the picture is first used, since most frames of a video are skipped.
    """

    def __init__(self, time: float, picture: Image.Image | Callable[[], Image.Image]) -> None:
        self.time, self._picture = time, picture

    @property
    def picture(self) -> Image.Image:
        """The picture, PIL RGB."""
        if callable(self._picture):
            self._picture = self._picture()
        return self._picture


def media_in(paths: Iterable[str | Path]) -> Listing:
    """Every file that can hold frames, in order: the files in `paths`, and those in the folders.

    A path that does not exist is among the files, so that the code that reads them can report it.
    """
    found = Listing([], [], [])
    for path in map(Path, paths):
        if path.is_dir():
            for part, more in zip(found, media_listing(path)):
                part.extend(more)
        else:
            found.pictures.append(path)
    return found


def media_listing(folder: Path) -> Listing:
    """The files that can hold frames in a folder and below it; folders of masks are left out."""
    found, kept = listing(folder, MEDIA_SUFFIXES), []
    for path in found.pictures:
        masks = next((p for p in path.parents if p.is_relative_to(folder) and p != folder
                      and (p.parent / MASK_FOLDERS.get(p.name, "\0")).is_dir()), None)
        if masks:
            note("a folder of masks, which are no pictures", masks)
        else:
            kept.append(path)
    return found._replace(pictures=kept)


def all_frames(path: str | Path, bits: int = 0) -> Iterator[Frame]:
    """Every `Frame` of a file, in order.  Raises ValueError or OSError with a message for users.

    bits: how many bits of 16-bit grey are in use; 0: all 16.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        yield from video_frames(path)
    elif path.suffix.lower() in ANIMATION_SUFFIXES and is_animated(path):
        yield from animation_frames(path)
    else:
        yield Frame(0.0, read_image(path, bits))


def is_animated(path: str | Path) -> bool:
    """True if Pillow finds more than one frame; False for a file that it cannot read."""
    try:
        with opened_picture(path) as image:
            return getattr(image, "is_animated", False)
    except (OSError, ValueError):               # read_image reports it
        return False


def animation_frames(path: str | Path) -> Iterator[Frame]:
    """Frames of an animation; a frame's time is the sum of the durations before it."""
    now = 0.0
    with opened_picture(path) as image:
        try:
            for number in range(image.n_frames):
                image.seek(number)
                picture = ImageOps.exif_transpose(image).convert("RGB")
                duration = image.info.get("duration", 0) / 1000 or DEFAULT_DURATION
                yield Frame(now, picture)
                now += duration
        except Exception as error:              # decoders raise OSError, SyntaxError, struct.error
            raise PictureError(
                f"cannot read {shown_path(path)} beyond {now:.1f} s: {type(error).__name__}: "
                f"{shown(error)}; save or copy it again") from error


def _import_pyav(path):
    """The package `av`.  If it is not installed, raises a ValueError that names the file."""
    try:
        import av
        return av
    except ImportError as error:
        raise ValueError(f"{shown_path(path)}: video needs PyAV; in the clone: pip install "
                         '".[video]"') from error


def video_frames(path: Path) -> Iterator[Frame]:
    """Frames of a video, decoded by PyAV.  Raises FileNotFoundError or ValueError."""
    av, now, name = _import_pyav(path), 0.0, shown_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{name} not found; give the path of a video")
    try:
        # FFmpeg gets the opened file, since it would take the name "concat:a" for a command;
        # LOCAL_ONLY, since it would fetch the addresses that a playlist lists
        with open_regular(path) as file, av.open(file, options=LOCAL_ONLY) as container:
            if not container.streams.video:
                raise ValueError(f"{name} has no pictures: it holds only sound, or its end is "
                                 "missing; give a complete video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            check_size((stream.width or 0, stream.height or 0), f"video {name}")
            for frame in container.decode(stream):
                check_size((frame.width, frame.height), f"a frame of {name}")
                now = now if frame.time is None else float(frame.time)
                yield Frame(now, frame.to_image)        # not called yet: converting costs time
    except (av.FFmpegError, MemoryError) as error:
        raise ValueError(f"cannot read video {name} beyond {now:.1f} s: "
                         f"{shown(getattr(error, 'strerror', None) or error)}; copy or encode it "
                         "again") from error


def save_video(file: BinaryIO, frames: Iterable[Frame], rate: int, codec: str = "mpeg4") -> None:
    """Writes frames of equal size as MP4 to a binary file, `rate` frames a second.  Needs PyAV."""
    av = _import_pyav(file)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for number, frame in enumerate(frames):
            if number == 0:
                stream.width, stream.height = frame.picture.size
            container.mux(stream.encode(av.VideoFrame.from_image(frame.picture)))
        container.mux(stream.encode())


def frames_at(path: str | Path, times: Iterable[float],
              bits: int = 0) -> dict[float, Image.Image]:
    """{time: PIL RGB}: for each time the last frame that is not later than this time.

    bits: as in `all_frames`.  The file is decoded once.  Raises ValueError if it holds no frame.
    """
    waiting, pictures, current = sorted(set(times), reverse=True), {}, None
    for frame in all_frames(path, bits):
        while waiting and current is not None and frame.time > waiting[-1] + TIME_TOLERANCE:
            pictures[waiting.pop()] = current
        if not waiting:
            break
        current = frame.picture
    if current is None:
        raise ValueError(f"{shown_path(path)} holds no frame; give a picture or a video")
    return pictures | dict.fromkeys(waiting, current)


def _grey_thumbnail(picture):
    """(THUMBNAIL_SIDE, THUMBNAIL_SIDE) grey values, 0 to 255."""
    small = picture.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def sample_frames(frames: Iterable[Frame], rate: float = 1.0,
                  change: float = 0.0) -> Iterator[Frame]:
    """Some of the frames: at most `rate` frames a second, and only where the picture has changed.

    change: a frame is kept if its grey values differ by at least so much (0 to 255, mean) from the
    previous kept frame; 0 keeps frames without a change, too.
    """
    due, last = float("-inf"), None
    for frame in frames:
        if frame.time < due - TIME_TOLERANCE:
            continue
        if change:
            thumbnail = _grey_thumbnail(frame.picture)
            if last is not None and np.abs(thumbnail - last).mean() < change:
                continue
            last = thumbnail
        late = frame.time - due                     # delays of single frames must not add up
        due = (due if late < 1 / rate else frame.time) + 1 / rate
        yield frame


def demo() -> None:
    """An animation of 12.5 frames a second that changes its grey value twice."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "belt.gif"
        greys = [40, 40, 120, 120, 200, 200]
        pictures = [Image.new("L", (64, 48), greys[k // 12]) for k in range(72)]
        for k, picture in enumerate(pictures):
            picture.putpixel((k % 64, 0), 255)      # without it Pillow would merge equal frames
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=80)
        frames = list(all_frames(path))
        print(f"{len(frames)} frames in {frames[-1].time + 0.08:.2f} s")
        for text, options in (("one a second", {"rate": 1}), ("two a second", {"rate": 2}),
                              ("after a change", {"rate": 12, "change": 10})):
            kept = sample_frames(all_frames(path), **options)
            print(f"{text:15s} at", "  ".join(f"{f.time:.2f}" for f in kept), "s")


if __name__ == "__main__":
    demo()
