"""Accuracy against the number of good pictures: a table and a curve.

    python -m bench.shots --class bottle --data FOLDER --seeds 1 2 3

Cells are computed and stored as in accuracy.py.  The chart NAME.png shows the image AUROC of each
row, mean over classes and seeds; bars show one standard deviation over the seeds.
Left out: other metrics (they are in the CSV file).
"""
import statistics
import time
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from bench import accuracy
from minilora import __version__
from minilora.charts.plots import ticks
from minilora.data.mvtec import find_data
from minilora.io.files import atomic_write
from minilora.report import results

SHOTS = (0, 1, 2, 4, 8, 16, "all")
COLOURS = {"zero-shot": "#6d7681", "memory": "#b3450b", "text": "#7a4fb5", "lora-off": "#2e7d32",
           "adapted": "#0b62c4"}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 1200, 760, 110, 100, 60, 230


def curve(series: dict[str, dict], shots: Sequence, title: str) -> Image.Image:
    """The chart.  series: {row: {shots: (mean, deviation)}}, both in [0, 1]."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(22)
    values = [m + sign * d for points in series.values() for m, d in points.values()
              for sign in (-1, 1)]
    low, high = max(0, min(values) - 0.01), min(1, max(values) + 0.01)
    x_of = {k: LEFT + 40 + (WIDTH - LEFT - RIGHT - 80) * i / max(1, len(shots) - 1)
            for i, k in enumerate(shots)}
    y_of = lambda v: HEIGHT - BOTTOM - (v - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
    for v in ticks(low, high):
        draw.line((LEFT, y_of(v), WIDTH - RIGHT, y_of(v)), "#d5dbe1")
        draw.text((LEFT - 12, y_of(v)), f"{100 * v:.3g}", "black", font, anchor="rm")
    draw.line((LEFT, TOP, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM), "black", 2)
    for k, x in x_of.items():
        draw.text((x, HEIGHT - BOTTOM + 12), str(k), "black", font, anchor="ma")
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 24), "good pictures to learn from", "black",
              font, anchor="ms")
    draw.text((LEFT - 80, 14), "image AUROC, %", "black", font)
    draw.text((WIDTH - 20, 14), title, "black", font, anchor="ra")
    for number, (row, points) in enumerate(series.items()):
        colour = COLOURS.get(row, "black")
        places = [(x_of[k], y_of(m)) for k, (m, _) in points.items()]
        draw.line(places, colour, 4)
        for (x, y), (mean, deviation) in zip(places, points.values()):
            draw.line((x, y_of(mean - deviation), x, y_of(mean + deviation)), colour, 2)
            draw.ellipse((x - 6, y - 6, x + 6, y + 6), colour)
        y = TOP + 20 + 34 * number
        draw.line((WIDTH - RIGHT + 20, y, WIDTH - RIGHT + 60, y), colour, 4)
        draw.text((WIDTH - RIGHT + 70, y), row, "black", font, anchor="lm")
    return image


def points_of(found: dict, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """{row: (mean, deviation over the seeds)} of the image AUROC, for one number of shots."""
    out = {}
    for row in dict.fromkeys(row for row, _ in found):
        seeds = zip(*(found[row, name] for name in names))
        means = [statistics.mean(m["image_auroc"] for m in metrics) for metrics in seeds]
        deviation = statistics.stdev(means) if len(means) > 1 else 0.0
        out[row] = (statistics.mean(means), deviation)
    return out


def main() -> None:
    p = accuracy.parser(shots=SHOTS)
    p.prog, p.description = "python -m bench.shots", __doc__.split("\n")[0]
    p.set_defaults(name="shots", methods=["minilora"])
    options = p.parse_args()
    chosen, series, table = options.shots, {}, {}
    for k in chosen:
        options.shots = k
        found, weights = accuracy.collect(options, lambda line: print(line, flush=True))
        for row, point in points_of(found, options.names).items():
            series.setdefault(row, {})[k] = point
        for (row, name), metrics in found.items():
            table[f"{row}, {k} shots", name] = metrics
    where = "pictures" if find_data(options.data) else "embedded scenes"
    head = [f"{where}; seeds {' '.join(map(str, options.seeds))}; weights {weights.name} (sha256 "
            f"{weights.sha256[:12]}…); minilora {__version__}; {time.strftime('%Y-%m-%d')}"]
    accuracy.publish(table, head, options)
    with atomic_write(options.out / f"{options.name}.png") as file:
        curve(series, chosen, ", ".join(options.names)).save(file, "PNG")
    for row, points in series.items():
        print(row, "  ".join(f"{k}: {results.percent(m).strip()}" for k, (m, _) in points.items()))


if __name__ == "__main__":
    main()
