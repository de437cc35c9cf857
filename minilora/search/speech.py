"""Says aloud what a search has found, as an extra.

    pip install minilora[speech]        pyttsx3, offline; on Linux it needs espeak-ng as well
    pip install gTTS                    the other way, where there is a network; it writes files

Leaves out: languages other than English.
"""
from pathlib import Path

from minilora.io.files import whole_file

SPEAKING = []                   # engines: espeak's goes on after runAndWait, and must not be freed


def spoken(seconds):
    """A time as it is said: 75.5 -> "1 minute 16 seconds"."""
    minutes, rest = divmod(round(seconds), 60)
    name = lambda n, unit: f"{n} {unit}{'' if n == 1 else 's'}"
    return " ".join(([name(minutes, "minute")] if minutes else []) + [name(rest, "second")])


def spoken_summary(words, found, most=5):
    """A few sentences on the best events.  words: what was looked for;  found: [Event]."""
    if not found:
        return f"Nothing found for {words}."
    parts = [f"{len(found)} event{'' if len(found) == 1 else 's'} for {words}."]
    for number, event in enumerate(found[:most], 1):
        when = "" if event.start == event.end == 0 else (
            f", from {spoken(event.start)} to {spoken(event.end)}")
        parts.append(f"Number {number}: {Path(event.file).stem}{when}.")
    return " ".join(parts)


def speak(text, path=None):
    """Says a text aloud, or writes it to a sound file.  Raises ValueError if no engine is there."""
    try:
        import pyttsx3
        engine = pyttsx3.init()
        SPEAKING.append(engine)
    except (ImportError, OSError, RuntimeError) as error:
        return speak_by_network(text, path, error)
    if path is None:
        engine.say(text)
    else:
        engine.save_to_file(text, str(path))
    engine.runAndWait()


def speak_by_network(text, path, error):
    """By gTTS.  error: why the offline engine could not."""
    try:
        from gtts import gTTS
    except ImportError:
        gTTS = None
    if gTTS is None or path is None:
        raise ValueError(f"no voice ({error}); pip install minilora[speech], on Linux espeak-ng as "
                         "well; or pip install gTTS and give --speak-to FILE.mp3") from error
    with whole_file(path) as file:
        gTTS(text).write_to_fp(file)


def demo():
    from minilora.search.events import Event
    found = [Event("belt-003.mp4", 61.2, 63.9, 62.5, 0.31), Event("part.png", 0, 0, 0, 0.28)]
    print(spoken_summary("a damaged gear", found))
    print(spoken_summary("a red cable", []))


if __name__ == "__main__":
    demo()
