"""A page on this computer that says OK or NG: `minilora serve runs/mine`.

Start with `server.py` (from a request to a reply); then `answer.py` (from the bytes of a picture to
what the page shows).  The others:

    security   access.py (token, Host, Origin, headers), uploads.py (limits of bytes and of time)
    page       page.py (HTML, style, script), history.py (the pictures of this session)
    command    run.py (python -m minilora.serve)

Not here: the score (detector.py, prediction/), folders that are watched (prediction/watch.py),
encryption, users, several runs at once.
"""
