# %% [markdown]
# # Few-shot anomaly detection with CLIP, step by step
#
# This notebook goes through the whole method of minilora on one product: CLIP zero-shot, LoRA,
# CoOp, training, maps, comparison with other methods, and what LoRA saves. At its end stand tables
# for a thesis. **Run all** works as it is: with the embedded drawn pictures and the embedded small
# model `mini-clip` it takes about three minutes on two CPU cores. For a thesis, change the first
# cell: the official ViT-B/16 and MVTec AD are one variable each.

# %%
MODEL = None            # None: the embedded mini-clip.  "ViT-B/16": OpenAI's weights, 350 MB
DATA = None             # None: drawn pictures.  Or the folder of MVTec AD (<class>/train/good/...)
CLASS = "bottle"
SHOTS = 8               # good pictures to learn from
ABLATION = (1, 4)       # other numbers of shots, for the curve
SEEDS = (1, 2)          # a thesis needs three or more
OUT = "thesis"          # folder of the results
REPOSITORY = ""         # address of the git repository, if it has not been cloned yet (Colab)

# %% [markdown]
# ## 1. Install, and look for a GPU
#
# In Colab: *Runtime, Change runtime type, T4*, and set `REPOSITORY` in the first cell. A T4 has 16
# GB; with ViT-B/16's shape the whole fit took 2.0 GB on a CPU (`bench/whole_fit.py`; on a GPU it was
# not measured here).

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

if REPOSITORY and not Path("minilora").exists():
    subprocess.run(["git", "clone", "-q", REPOSITORY, "minilora"], check=True)
places = (Path.cwd(), Path.cwd().parent, Path.cwd() / "minilora")
CHECKOUT = next((p for p in places if (p / "bench" / "thesis_cells.py").is_file()), None)
if CHECKOUT is None:
    raise FileNotFoundError("no clone of minilora here; set REPOSITORY in the first cell")
if importlib.util.find_spec("minilora") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", str(CHECKOUT)], check=True)
sys.path.insert(0, str(CHECKOUT))               # for bench/, which is not installed

import torch

import minilora
from minilora.io.cli import device_name

DEVICE = device_name("auto")
print(f"minilora {minilora.__version__}, torch {torch.__version__}, device {DEVICE}")
if DEVICE == "cuda":
    name = torch.cuda.get_device_name()
    memory = torch.cuda.get_device_properties(0).total_memory
    print(f"{name}, {memory / 2**30:.0f} GB")
else:
    print(f"no GPU; {torch.get_num_threads()} threads")

# %%
from io import BytesIO

from IPython.display import SVG, Markdown, display
from IPython.display import Image as Shown
from PIL import Image

from minilora.charts.plots import line_plot
from minilora.charts.writers import standalone_svg


def show_chart(drawing):
    display(SVG(standalone_svg(drawing)))


def show_row(pictures, side=150):
    """PIL pictures side by side."""
    pictures = [p.convert("RGB").resize((round(side * p.width / p.height), side)) for p in pictures]
    row = Image.new("RGB", (sum(p.width + 4 for p in pictures), side), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + 4
    file = BytesIO()
    row.save(file, "JPEG", quality=85)
    display(Shown(file.getvalue()))


# %% [markdown]
# ## 2. The pictures
#
# A class has good pictures for training, and good and defective ones for the test, with masks. Of
# the drawn products only 32 test pictures are drawn here, so that the notebook takes minutes.

# %%
from minilora.data.mvtec import few_shot
from minilora.data.own_and_visa import open_class
from minilora.scenes import scene

root = Path(DATA) if DATA else scene.write_class(Path(OUT) / "scenes", CLASS, test_good=12,
                                                 defective=5).parent
data = open_class(root, CLASS)
shots = few_shot(data.train, SHOTS, seed=1)             # the same pictures for everybody
kinds = sorted({sample.kind for sample in data.test})
print(f"{CLASS}: {len(data.train)} good pictures, {len(data.test)} test pictures: {', '.join(kinds)}")
show_row([Image.open(sample.path) for sample in shots[:6]])
show_row([Image.open(next(s.path for s in data.test if s.kind == kind)) for kind in kinds[:6]])

# %% [markdown]
# ## 3. CLIP, zero-shot
#
# Two towers give vectors in the same space. A patch is suspicious if it is more similar to the text
# "a damaged bottle" than to "a flawless bottle". No picture of the product has been used so far.
#
# Letters in the shapes: B images, N prompts, L tokens, P patches, W width, E embedding.

# %%
from minilora import Detector, DetectorConfig, load_clip
from minilora.bpe import default_tokenizer

torch.manual_seed(0)
clip, weights = load_clip(MODEL, DEVICE, download=bool(MODEL))
tokenizer = default_tokenizer()
texts = [f"a photo of a flawless {CLASS}.", f"a photo of a damaged {CLASS}."]
ids = tokenizer.tokenize(texts, clip.config.context).to(DEVICE)
print(f"weights        {weights.name}, sha256 {weights.sha256[:12]}")
print(f"tokens         {' '.join(tokenizer.decode([i]).strip() for i in tokenizer.encode(texts[1]))}")
print(f"ids            {tuple(ids.shape)}  (N, L), padded to the context length")
with torch.no_grad():
    print(f"text features  {tuple(clip.encode_text(ids).shape)}  (N, E)")
    detector = Detector(clip, CLASS)                    # LoRA is added here and does nothing yet
    first = detector.prepare(detector.read(data.test[0].path))[None].to(DEVICE)
    features = detector.encode(first)
print(f"picture        {tuple(first.shape)}  (B, 3, H, W)")
print(f"patch features {tuple(features.text_patches.shape)}  (B, P, E), comparable with texts")
print(f"image feature  {tuple(features.image.shape)}  (B, E)")

# %% [markdown]
# ## 4. LoRA
#
# In the last third of the blocks, each projection of the attention gets a second, small path:
# `W x + (alpha / r) B A x`. `W` stays frozen; `A` is random and `B` zero, so at first nothing
# changes (`minilora/lora.py`).

# %%
from minilora.lora import lora_layers

for name, layer in lora_layers(clip.visual).items():
    print(f"{name:20s} W {tuple(layer.weight.shape)}  A {tuple(layer.lora_A.shape)}  "
          f"B {tuple(layer.lora_B.shape)}  |BA| {layer.delta_weight().norm():.3f}")
trained, total = detector.count_parameters()
print(f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%})")

# %% [markdown]
# ## 5. CoOp
#
# The words "a photo of a" in front of the class name become vectors that are learned
# (`minilora/coop.py`), separately for the normal and the anomalous prompt.

# %%
context = detector.prompts.context
print(f"context vectors {tuple(context.shape)}  (state, vectors, W): normal and anomalous")
with torch.no_grad():
    print(f"their prompts give text features {tuple(detector.prompts().shape)}  (2, E)")

# %% [markdown]
# ## 6. Training
#
# There are no defective pictures to learn from, so defects are pasted into copies of the good ones
# (`minilora/synthetic/`). The loss compares each patch with the pasted mask.

# %%
from minilora.synthetic.pasting import paste_anywhere
from minilora.synthetic.sampling import choose

generator = torch.Generator().manual_seed(3)
prepared = [detector.prepare(detector.read(sample.path)) for sample in shots]
pasted = [paste_anywhere(p, generator, choose(generator, detector.config.defect_kinds), prepared)[0]
          for p in prepared[:6]]
show_row([Image.fromarray((p * 255).byte().permute(1, 2, 0).numpy()) for p in pasted])

detector.fit([sample.path for sample in shots])
smooth = [sum(detector.losses[k:k + 10]) / 10 for k in range(len(detector.losses) - 9)]
show_chart(line_plot("training loss", "step", "loss, mean of 10 steps",
                     {"loss": list(enumerate(smooth))}))
norms = detector.delta_norms()
print(f"LoRA changed {len(norms)} projections, |BA| {min(norms.values()):.2f} to "
      f"{max(norms.values()):.2f}")

# %% [markdown]
# ## 7. Maps side by side
#
# One defective picture of each kind: the picture, its mask, then the maps of four rows. Colours are
# scaled for each row, the same for all pictures.

# %%
from minilora.charts.colours import heat_colours
from minilora.data.samples import load_mask

examples = [next(s for s in data.test if s.kind == kind) for kind in kinds if kind != "good"][:4]
pixels = [detector.prepare(detector.read(s.path)) for s in examples]
found = [detector.rows(p[None].to(DEVICE)) for p in pixels]
names = ("zero-shot", "lora-only", "memory", "adapted")
print("picture, mask, " + ", ".join(names))
for sample, picture, rows in zip(examples, pixels, found):
    shown = [Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy())]
    mask = load_mask(sample, tuple(picture.shape[1:]))
    if mask is not None:
        shown.append(Image.fromarray((mask * 255).byte().numpy()))
    for name in names:
        low = min(other[name][0].min() for other in found)
        high = max(other[name][0].max() for other in found)
        shown.append(Image.fromarray(heat_colours((rows[name][0][0] - low) / (high - low))))
    show_row(shown, 120)

# %% [markdown]
# ## 8. All rows, several seeds, and the number of shots
#
# The command `minilora fit` does all of the above and measures every row of the table. Rows that
# differ in one part show what this part adds. `minilora compare` puts the runs into one table.
# Finished runs are kept, so after an interruption of the session (Colab ends one after some hours)
# the same cell goes on where it was.

# %%
from contextlib import redirect_stdout
from io import StringIO

from minilora import fit
from minilora.runs.run_class import run_class

for count in sorted({*ABLATION, SHOTS}):
    for seed in SEEDS:
        arguments = ["--class", CLASS, "--shots", str(count), "--seed", str(seed),
                     "--data", str(root), "--out", f"{OUT}/runs/{CLASS}-{count}shot-seed{seed}"]
        arguments += ["--model", MODEL] if MODEL else []
        with redirect_stdout(StringIO()):               # what it prints is long
            metrics = run_class(fit.parse(arguments), say=lambda line: None, again=False)
        print(f"{count} shots, seed {seed}: {metrics['rows']['adapted']['image_auroc']:.1%}, "
              f"{metrics['seconds']:.0f} s")

# %%
from minilora.compare.page import curves
from minilora.compare.run_results import differing_facts, find_runs, read_result_of
from minilora.compare.seed_statistics import compared
from minilora.compare.tables import latex_text, markdown_text

results = [read_result_of(folder) for folder in find_runs([f"{OUT}/runs"])[0]]
comparison = compared(results, differing_facts(results))
display(Markdown(markdown_text(comparison, f"{CLASS}, {weights.name}.")))
for drawing in curves(compared(results, differing_facts(results),
                               ("memory", "text", "lora-off", "adapted"))).values():
    show_chart(drawing)

# %% [markdown]
# ## 9. Other methods on the same tower
#
# WinCLIP (Jeong et al. 2023) compares windows of patches with texts; WinCLIP+ adds a memory of the
# good pictures. AnomalyCLIP (Zhou et al. 2024) learns prompts on *other* products: here on three
# drawn ones, in 100 steps, so that it takes seconds (`python -m bench.accuracy` trains it for
# longer on all of them). Both see square pictures, as in their papers.

# %%
from minilora.baselines.anomalyclip import AnomalyCLIP
from minilora.baselines.winclip import WinCLIP
from minilora.data.images import load_squares
from minilora.data.samples import load_masks
from minilora.report.results import markdown_table, row_metrics
from minilora.training_steps import TrainConfig

plain, _ = load_clip(MODEL, DEVICE)
side = plain.config.resolution
test, good = (load_squares([s.path for s in part], side) for part in (data.test, shots))
labels = torch.tensor([s.label for s in data.test])
masks = load_masks(data.test, [(side, side)] * len(test))


def score_all(score):
    """(maps, scores) of all test pictures, eight at a time."""
    parts = [score(part.to(DEVICE)) for part in test.split(8)]
    return [torch.cat(column).cpu() for column in zip(*parts)]


windows = WinCLIP(plain, CLASS).fit(good)
others = [s for name in [n for n in scene.CLASSES if n != CLASS][:3] for s in open_class(
    scene.write_class(Path(OUT) / "others", name, good=1, test_good=6, defective=3).parent,
    name).test]
agnostic = AnomalyCLIP(plain, train_config=TrainConfig(100, 8, 1e-3))
agnostic.fit(load_squares([s.path for s in others], side),
             torch.stack(load_masks(others, [(side, side)] * len(others))))
scored = {"WinCLIP": score_all(lambda p: windows.rows(p)["WinCLIP"]),
          "WinCLIP+": score_all(windows.score), "AnomalyCLIP": score_all(agnostic.score)}
peers = {name: row_metrics(scores, maps, labels, masks) for name, (maps, scores) in scored.items()}
own = next(r for r in results if (r.shots, r.seed) == (SHOTS, 1)).rows
lines = [[name, *("--" if row[key] is None else f"{100 * row[key]:.1f}"
                  for key in ("image_auroc", "pixel_auroc", "aupro"))]
         for name, row in {**peers, **{f"minilora, {n}": row for n, row in own.items()}}.items()]
display(Markdown(f"{CLASS}, {SHOTS} shots, seed 1, {weights.name}, per cent\n\n"
                 + markdown_table(["method", "image AUROC", "pixel AUROC", "AUPRO"], lines)))

# %% [markdown]
# ## 10. What LoRA saves
#
# One training step with 8 pictures, for towers of the same shape as the model above but random
# weights, since time and memory do not depend on the values. Each peak is measured in a process of
# its own. `python -m bench.memory` measures more rows and the shape of ViT-B/16; on a GPU it also
# tries the largest batch.

# %%
from dataclasses import asdict

from bench import cost, measure

METHODS = ("full, image tower", "LoRA r=4 q,k,v,out all blocks", "minilora, plain step",
           "minilora, with reuse")
shape = asdict(clip.config)
conditions = {"batch": 8, "pool": 32, "device": DEVICE}
threads = torch.get_num_threads()
peaks = {name: measure.fresh(cost.memory, name, shape, conditions, threads, returning=True)
         for name in METHODS}
times = cost.rivals(list(METHODS), shape, conditions, threads, 5)
lines = [[name, f"{peaks[name]['trainable']:,}", f"{peaks[name]['file'] / 1e6:.2f} MB",
          f"{peaks[name]['allocated'] / 1e6:.0f} MB", f"{sorted(times[name])[2]:.3f} s"]
         for name in METHODS]
display(Markdown(f"{measure.conditions(DEVICE)}\n\n" + markdown_table(
    ["method", "trained", "file", "peak above the weights", "a step, median of 5"], lines)))

# %% [markdown]
# ## 11. Tables for a thesis
#
# The table of section 8 in LaTeX; it needs no package. `minilora compare RUNS` writes the same with
# a page, CSV, Markdown and the curves as SVG and PNG. Before you rely on a difference, look at the
# standard deviation, and use three or more seeds.

# %%
print(latex_text(comparison, f"{CLASS}, {weights.name}.").split("\n\n")[0])
