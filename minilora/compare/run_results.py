"""Read the results of run folders, and refuse what cannot stand in one table.

Claim: two numbers can be compared if everything but one thing is equal.  What differs between the
runs, such as the weights, the data or an option, is named in the heading of a column; two runs that
differ in nothing, or whose test pictures differ, are refused.

Left out: how a run is made (runs/run_class.py).
"""
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from minilora.checkpoint.detector_files import read_detector
from minilora.io.files import read_json
from minilora.io.schema import ListOf, OneOf, Record, Text, check
from minilora.io.text import shown
from minilora.io.transaction import result_path
from minilora.runs.fingerprints import COUNT, METRICS_SCHEMA
from minilora.runs.run_report import EMBEDDED_DATA

SHOWN_METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
NOT_COMPARED = ("seed",)                        # settings over which the mean is taken
RESULT_SCHEMA = Record(
    METRICS_SCHEMA.keys | {"shots": OneOf(COUNT, Text(choices=("all",))), "resolution": COUNT,
                           "drawn": ListOf(Text(10_000)), "data": METRICS_SCHEMA.optional["data"]},
    METRICS_SCHEMA.optional, others=True)
RUNS_DEPTH = 2                                   # folders of runs: runs/, runs/8shot-seed1/


class RunResult(NamedTuple):
    """What `compare` uses of one run."""
    folder: Path
    class_name: str
    shots: int
    seed: int
    facts: dict[str, str]                       # weights, data and every setting, as text
    test_pictures: str                          # how many: "20 good, 63 defective"
    test_digest: str                            # of their content; "" if it is not known
    rows: dict[str, dict[str, float | None]]    # {row: {metric: fraction in [0, 1]}}


def find_runs(paths: Iterable[str | Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """(run folders, (path, why it is none)) of paths: each a run, or a folder of runs."""
    runs, others = [], []
    for path in map(Path, paths):
        found = [path] if is_run(path) else sorted(
            folder for depth in range(1, RUNS_DEPTH + 1)
            for folder in path.glob("/".join("*" * depth))
            if is_run(folder) and not folder.name.startswith("."))
        runs += [folder for folder in found if folder not in runs]
        if not found:
            others.append((path, "holds no run" if path.is_dir() else "no folder"))
    return runs, others


def is_run(folder: Path) -> bool:
    """Whether minilora.fit wrote results into the folder."""
    return (folder / "metrics.json").is_file() and (folder / "detector.safetensors").is_file()


def read_result_of(folder: Path) -> RunResult:
    """The results of one run.  Raises ValueError or OSError, in one line."""
    path = result_path(folder, "metrics.json")
    metrics = check(read_json(path), RESULT_SCHEMA, shown(path))
    detector = read_detector(folder)
    rows = {name: {key: row.get(key) for key in SHOWN_METRICS}
            for name, row in metrics.get("rows", {}).items()}
    if not any(value is not None for row in rows.values() for value in row.values()):
        raise ValueError(f"{shown(folder)} has no metrics, because no labelled pictures were "
                         "scored; fit with --data, or with --test and folders of kinds")
    base, counts = detector["base"], metrics.get("decisions") or {}
    facts = {"weights": f"{base['name']} {base['sha256'][:12]}", "data": metrics["data"]["name"]}
    facts |= {key: setting_text(value) for key, value in detector["config"].items()
              if key not in NOT_COMPARED}
    facts["resolution"] = str(metrics["resolution"])
    facts = {name: shown(value) for name, value in facts.items()}       # of a stranger, perhaps
    pictures = (f"{counts['good']} good, {counts['defective']} defective" if counts else
                "an unknown number")
    # the drawn pictures are the same everywhere, but not always the bytes of their files
    digest = "" if facts["data"] == EMBEDDED_DATA else metrics["data"].get("test", "")
    shots = len(metrics["drawn"]) if metrics["shots"] == "all" else metrics["shots"]
    return RunResult(folder, shown(metrics["class"]), shots, detector["config"]["seed"], facts,
                     pictures, digest, rows)


def setting_text(value: Any) -> str:
    """The value of a setting for a heading: 0.001, "q k v out", "on"."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "default"
    if isinstance(value, bool):                 # a number too in Python: 1 == True
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def differing_facts(results: list[RunResult]) -> list[str]:
    """Names of the facts that are not equal in all runs."""
    return [name for name in results[0].facts
            if len({result.facts[name] for result in results}) > 1]


def check_comparable(results: list[RunResult], differing: list[str]) -> None:
    """Raises ValueError for two equal runs, and for different test pictures of one class."""
    earlier, pictures = {}, {}
    for result in results:
        facts = tuple(result.facts[name] for name in differing)
        cell = result.class_name, result.shots, result.seed, facts
        if cell in earlier:
            raise ValueError(f"{shown(earlier[cell].folder)} and {shown(result.folder)}: expected "
                             f"one run of {shown(result.class_name)}, {result.shots} shots, seed "
                             f"{result.seed}, found two; give one of them")
        earlier[cell] = result
        data = result.class_name, result.facts["data"]
        other = pictures.setdefault(data, result)
        if other.test_pictures != result.test_pictures:
            raise ValueError(
                f"{shown(result.class_name)}: {shown(other.folder)} scored {other.test_pictures} "
                f"pictures, {shown(result.folder)} {result.test_pictures}; expected the same test "
                "pictures; compare them apart")
        if other.test_digest and result.test_digest not in ("", other.test_digest):
            raise ValueError(
                f"{shown(result.class_name)}: the test pictures of {shown(other.folder)} and "
                f"{shown(result.folder)} have other bytes or other masks; expected the same test "
                "pictures; compare them apart")


def column_name(result: RunResult, differing: list[str]) -> str:
    """The heading of the column of a run: "8 shots", "8 shots, steps 0"."""
    facts = [result.facts[name] if name in ("weights", "data") else f"{name} {result.facts[name]}"
             for name in differing]
    return ", ".join([f"{result.shots} shot{'s' * (result.shots != 1)}", *facts])


def demo() -> None:
    """Which facts differ, and what is refused."""
    def run(seed, **facts):
        return RunResult(Path(f"runs/{seed}"), "bottle", 8, seed,
                         {"weights": "mini-clip", "data": "drawn", **facts},
                         "20 good, 40 defective", "", {})
    runs = [run(1, steps="200"), run(2, steps="200"), run(1, steps="0")]
    differing = differing_facts(runs)
    print("columns:", *(column_name(result, differing) for result in runs), sep="  ")
    try:
        check_comparable([*runs, runs[0]], differing)
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    demo()
