"""Frames of a file with their times: one of a picture, many of an animation or a video.

    pictures, animated GIF, WebP, APNG      Pillow
    video                                   PyAV, with `pip install minilora[video]`

One frame is in memory at a time, however long the video.
Leaves out: sound, subtitles, seeking (every frame is decoded from the start, some are kept).
"""
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from minilora.data.images import read_image
from minilora.data.mvtec import SUFFIXES

ANIMATED = (".gif", ".webp", ".png", ".apng")
VIDEO = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
USUAL = 0.1                     # seconds of an animation's frame that states none, as in browsers
SMALL = 32                      # side of the grey thumbnail by which scenes are told apart


class Frame:
    """time: seconds from the start;  picture: PIL RGB, or a function that draws it when needed."""

    def __init__(self, time, picture):
        self.time, self.drawn = time, picture

    @property
    def picture(self):
        if callable(self.drawn):
            self.drawn = self.drawn()
        return self.drawn


def files_in(paths):
    """Every file that can hold frames among files and, recursively, folders."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in
                              {*SUFFIXES, *ANIMATED, *VIDEO} and not p.name.startswith("."))
        else:
            yield path                          # also one that is not there: it is reported


def all_frames(path):
    """Every `Frame` of a file.  Raises ValueError or OSError in words for a user."""
    path = Path(path)
    if path.suffix.lower() in VIDEO:
        yield from video_frames(path)
    elif path.suffix.lower() in ANIMATED and is_animated(path):
        yield from animation_frames(path)
    else:
        yield Frame(0.0, read_image(path))


def is_animated(path):
    try:
        with Image.open(path) as image:
            return getattr(image, "is_animated", False)
    except Exception:                           # decoders raise all kinds; read_image names it
        return False


def animation_frames(path):
    """Frames of an animation, their times added up."""
    now = 0.0
    try:
        with Image.open(path) as image:
            for number in range(image.n_frames):
                image.seek(number)
                picture = ImageOps.exif_transpose(image).convert("RGB")
                length = image.info.get("duration", 0) / 1000 or USUAL
                yield Frame(now, picture)
                now += length
    except Exception as error:                  # decoders raise OSError, SyntaxError, struct.error
        raise ValueError(f"cannot read {path} beyond {now:.1f} s: {type(error).__name__}: {error}; "
                         "save or copy it again") from error


def pyav(path):
    """The package.  Raises ValueError if it is not installed."""
    try:
        import av
        return av
    except ImportError as error:
        raise ValueError(f"{path}: video needs PyAV; pip install minilora[video]") from error


def video_frames(path):
    """Frames of a video by PyAV."""
    av = pyav(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; give the path of a video")
    now = 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no pictures: only sound, or it is cut off; give a "
                                 "whole video")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                now = now if frame.time is None else float(frame.time)
                yield Frame(now, frame.to_image)        # most are skipped; colours cost time
    except (av.FFmpegError, MemoryError) as error:
        raise ValueError(f"cannot read video {path} beyond {now:.1f} s: {error}; copy or encode it "
                         "again") from error


def save_video(file, frames, rate, codec="mpeg4"):
    """Writes frames of one size as MP4 to a binary file, `rate` of them a second.  Needs PyAV."""
    av = pyav(file)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for number, frame in enumerate(frames):
            if number == 0:
                stream.width, stream.height = frame.picture.size
            container.mux(stream.encode(av.VideoFrame.from_image(frame.picture)))
        container.mux(stream.encode())


def frames_at(path, times):
    """{time: PIL RGB} of what is shown at each time: the last frame that is not later.

    The file is decoded once.  Raises ValueError if it holds no frame.
    """
    waiting, out, shown = sorted(set(times), reverse=True), {}, None
    for frame in all_frames(path):
        while waiting and shown is not None and frame.time > waiting[-1] + 1e-6:
            out[waiting.pop()] = shown
        if not waiting:
            break
        shown = frame.picture
    if shown is None:
        raise ValueError(f"{path} holds no frame; give a picture or a video")
    return out | {time: shown for time in waiting}


def thumbnail(picture):
    """(SMALL, SMALL) grey values, 0 to 255."""
    small = picture.convert("L").resize((SMALL, SMALL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def sampled(frames, rate=1.0, change=0.0):
    """Some of the frames: at most `rate` a second, and only where the picture has changed.

    change: mean difference of grey values, 0 to 255, from the frame kept before; 0: any.
    """
    due, last = float("-inf"), None
    for frame in frames:
        if frame.time < due - 1e-6:
            continue
        if change:
            seen = thumbnail(frame.picture)
            if last is not None and np.abs(seen - last).mean() < change:
                continue
            last = seen
        late = frame.time - due                     # delays of single frames must not add up
        due = (due if late < 1 / rate else frame.time) + 1 / rate
        yield frame


def demo():
    """An animation of twelve frames a second, three of whose six scenes differ."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "belt.gif"
        greys = [40, 40, 120, 120, 200, 200]
        pictures = [Image.new("L", (64, 48), greys[k // 12]) for k in range(72)]
        for k, picture in enumerate(pictures):
            picture.putpixel((k % 64, 0), 255)          # or equal frames would be saved as one
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=80)
        frames = list(all_frames(path))
        print(f"{len(frames)} frames in {frames[-1].time + 0.08:.2f} s")
        for text, options in (("one a second", {"rate": 1}), ("two a second", {"rate": 2}),
                              ("where it changes", {"rate": 12, "change": 10})):
            kept = sampled(all_frames(path), **options)
            print(f"{text:17s} at", "  ".join(f"{f.time:.2f}" for f in kept), "s")


if __name__ == "__main__":
    demo()
