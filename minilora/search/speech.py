"""Speech output of search results, optional.

    pip install ".[speech]"             pyttsx3, offline; on Linux it also needs espeak-ng
    pip install gTTS                    the alternative: needs a network, can only write files

Left out: languages other than English.
"""
from collections.abc import Iterable
from pathlib import Path

from minilora.io.output import atomic_output
from minilora.io.temporary import temporary_folder
from minilora.search.events import Event

ENGINES = []                    # keeps engines alive: espeak still runs after runAndWait returns


def spoken_time(seconds: float) -> str:
    """A time in words: 75.5 -> "1 minute 16 seconds"."""
    minutes, rest = divmod(round(seconds), 60)
    with_unit = lambda n, unit: f"{n} {unit}{'' if n == 1 else 's'}"
    return " ".join(([with_unit(minutes, "minute")] if minutes else [])
                    + [with_unit(rest, "second")])


def spoken_summary(query: str, found: list[Event], most: int = 5) -> str:
    """A few sentences about the best events.  query: in words;  most: at most so many events."""
    if not found:
        return f"Nothing found for {query}."
    sentences = [f"{len(found)} event{'' if len(found) == 1 else 's'} for {query}."]
    for number, event in enumerate(found[:most], 1):
        when = "" if event.start == event.end == 0 else (
            f", from {spoken_time(event.start)} to {spoken_time(event.end)}")
        sentences.append(f"Number {number}: {Path(event.file).stem}{when}.")
    return " ".join(sentences)


def speak(text: str, path: str | Path | None = None, inputs: Iterable[str | Path] = ()) -> None:
    """Speak a text, or write it to a sound file.  inputs: files that must not be replaced.

    Raises ValueError without a speech engine, and for a file that minilora did not write.
    """
    try:
        import pyttsx3
        engine = pyttsx3.init()
        ENGINES.append(engine)
    except (ImportError, OSError, RuntimeError) as error:
        return speak_with_gtts(text, path, error, inputs)
    if path is None:
        engine.say(text)
        engine.runAndWait()
        return
    path = Path(path).absolute()
    with (atomic_output(path, "query", inputs=inputs) as file,
          temporary_folder(path.parent) as folder):
        engine.save_to_file(text, str(folder / path.name))  # engines look at the ending
        engine.runAndWait()
        file.write((folder / path.name).read_bytes())


def speak_with_gtts(text: str, path: str | Path | None, error: Exception,
                    inputs: Iterable[str | Path] = ()) -> None:
    """Write a text to a sound file with gTTS.  error: why the offline engine failed."""
    try:
        from gtts import gTTS
    except ImportError:
        gTTS = None
    if gTTS is None or path is None:
        raise ValueError(f'no speech engine ({error}); in the clone: pip install ".[speech]", on '
                         "Linux also espeak-ng; or pip install gTTS and give --speak-to FILE.mp3"
                         ) from error
    with atomic_output(path, "query", inputs=inputs) as file:
        gTTS(text).write_to_fp(file)


def demo() -> None:
    """Two summaries as text."""
    found = [Event("belt-003.mp4", 61.2, 63.9, 62.5, 0.31), Event("part.png", 0, 0, 0, 0.28)]
    print(spoken_summary("a damaged gear", found))
    print(spoken_summary("a red cable", []))


if __name__ == "__main__":
    demo()
