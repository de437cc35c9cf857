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
CLASS = "bottle"        # drawn: bottle, nut, cable, board, leather, metal, gear, mesh
SHOTS = 8               # good pictures to learn from
ABLATION = (1, 4)       # other numbers of shots, for the curve
SEEDS = (1, 2)          # a thesis needs three or more
OUT = "thesis"          # folder of the results; in Colab better one in Google Drive (section 1)
REPOSITORY = ""         # Colab: address of the git repository, which is then cloned

# %% [markdown]
# ## 1. Install, and look for a GPU
#
# In Colab: *Runtime, Change runtime type, T4*, and set `REPOSITORY` in the first cell. Missing
# packages are installed; Colab's torch stays. A T4 has 16 GB: with ViT-B/16's shape the whole fit
# took 2.0 GB on a CPU (`bench/whole_fit.py`; on a GPU it was not measured here).
#
# Colab deletes its disk when a session ends. To keep the results and to go on after an
# interruption, run `from google.colab import drive; drive.mount("/content/drive")` first, and set
# `OUT = "/content/drive/MyDrive/thesis"`.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if REPOSITORY and not Path("minilora").exists():
    subprocess.run(["git", "clone", "-q", REPOSITORY, "minilora"], check=True)
places = (Path.cwd(), Path.cwd().parent, Path.cwd() / "minilora")
CHECKOUT = next((p for p in places if (p / "bench" / "thesis_cells.py").is_file()), None)
if CHECKOUT is None:
    raise FileNotFoundError("no clone of minilora here; set REPOSITORY in the first cell")
sys.path.insert(0, str(CHECKOUT))               # minilora and bench of the clone
if any(importlib.util.find_spec(name) is None for name in ("torch", "PIL", "regex", "ftfy")):
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", str(CHECKOUT)], check=True)
    importlib.invalidate_caches()

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
    print(f"no GPU; threads: {torch.get_num_threads()}")

# %%
from io import BytesIO

from IPython.display import SVG, Markdown, display
from IPython.display import Image as Shown
from PIL import Image, ImageDraw

from minilora.charts.plots import heat_plot, line_plot
from minilora.charts.writers import standalone_svg


def show_chart(drawing):
    display(SVG(standalone_svg(drawing)))


def show_row(pictures, names=(), side=150):
    """PIL pictures side by side, below their names."""
    pictures = [p.convert("RGB").resize((round(side * p.width / p.height), side)) for p in pictures]
    top, left = (16 if names else 0), 0
    row = Image.new("RGB", (sum(p.width + 4 for p in pictures), side + top), "white")
    for k, picture in enumerate(pictures):
        row.paste(picture, (left, top))
        if names:
            ImageDraw.Draw(row).text((left + 2, 2), names[k], "black")
        left += picture.width + 4
    file = BytesIO()
    row.save(file, "JPEG", quality=85)
    display(Shown(file.getvalue()))


def as_picture(pixels):
    """A PIL picture of a tensor (3, H, W) in [0, 1]."""
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())


# %% [markdown]
# ## 2. The pictures
#
# A class has good pictures for training, and good and defective ones for the test, with masks that
# mark the defects. Of a drawn product only 32 test pictures are drawn here, so that the notebook
# takes minutes. Below, the first line shows good pictures to learn from, the second one test
# picture of each kind.

# %%
from minilora.data.mvtec import few_shot
from minilora.data.own_and_visa import open_class
from minilora.scenes import scene

root = Path(DATA) if DATA else scene.write_class(Path(OUT) / "scenes", CLASS, test_good=12,
                                                 defective=5).parent
data = open_class(root, CLASS)
shots = few_shot(data.train, SHOTS, seed=SEEDS[0])      # the seed decides which pictures
kinds = sorted({sample.kind for sample in data.test})
print(f"{CLASS}: {len(data.train)} good pictures, {len(data.test)} test pictures: "
      f"{', '.join(kinds)}")
show_row([Image.open(sample.path) for sample in shots[:6]])
show_row([Image.open(next(s.path for s in data.test if s.kind == kind)) for kind in kinds[:6]],
         kinds)

# %% [markdown]
# ## 3. CLIP, zero-shot
#
# Two towers give vectors in the same space. A patch is suspicious if it is more similar to the text
# "a photo of a damaged bottle" than to "a photo of a flawless bottle". No picture of this class is
# used here. But mini-clip has seen other drawings of the same products in its pretraining, except
# gear and mesh: for a fair zero-shot result with mini-clip take one of these two, or photographs.
#
# Letters in the shapes: B images, N prompts, L tokens, P patches, W width, E embedding, r rank.

# %%
from minilora import Detector, load_clip
from minilora.bpe import default_tokenizer
from minilora.clip import similarity_logits

clip, weights = load_clip(MODEL, DEVICE, download=bool(MODEL))
tokenizer = default_tokenizer()
texts = [f"a photo of a flawless {CLASS}.", f"a photo of a damaged {CLASS}."]
ids = tokenizer.tokenize(texts, clip.config.context).to(DEVICE)
defective = next(sample for sample in data.test if sample.label)
with torch.no_grad():
    text = clip.encode_text(ids)
    detector = Detector(clip, CLASS)                    # LoRA is added here and does nothing yet
    pixels = detector.prepare(detector.read(defective.path))
    features = detector.encode(pixels[None].to(DEVICE))
    temperature = 1 / clip.logit_scale.exp()
    image_logits = similarity_logits(features.image, text, temperature)
    patch_logits = similarity_logits(features.text_patches, text, temperature)
tokens = [tokenizer.decode([i]).strip() for i in tokenizer.encode(texts[1])]
print(f"weights        {weights.name}, sha256 {weights.sha256[:12]}")
print(f"tokens         {' '.join(tokens)}")
print(f"ids            {tuple(ids.shape)}  (N, L), padded to the context length")
print(f"text features  {tuple(text.shape)}  (N, E)")
print(f"picture        {(1, *pixels.shape)}  (B, 3, H, W), kind {defective.kind}")
print(f"image feature  {tuple(features.image.shape)}  (B, E)")
print(f"patch features {tuple(features.text_patches.shape)}  (B, P, E), comparable with texts")
print(f"patch logits   {tuple(patch_logits.shape)}  (B, P, N), cosine / temperature "
      f"{temperature:.3f}")
print(f"P(the image is damaged) {image_logits.softmax(-1)[0, 1]:.3f}")
damaged = patch_logits.softmax(-1)[0, :, 1].cpu()       # (P,)
lines = pixels.shape[1] // clip.visual.patch            # of patches
show_chart(heat_plot("P(patch is damaged), zero-shot", damaged.view(lines, -1), (0, 1), "",
                     as_picture(pixels)))

# %% [markdown]
# ## 4. LoRA
#
# In the last third of the blocks, each projection of the attention gets a second, small path:
# `W x + ΔW x` with `ΔW = (alpha / r) B A`. `W` stays frozen; `A` is random and `B` zero, so at first
# nothing changes (`minilora/lora.py`).

# %%
from minilora.lora import lora_layers

layers = lora_layers(clip.visual)
for name, layer in layers.items():
    print(f"{name:20s} W {tuple(layer.weight.shape)}  A {tuple(layer.lora_A.shape)}  "
          f"B {tuple(layer.lora_B.shape)}  |ΔW| {layer.delta_weight().norm():.3f}")
layer = next(iter(layers.values()))
with torch.no_grad():
    x = torch.randn(1, features.text_patches.shape[1] + 1, layer.in_features, device=DEVICE)
    low = x @ layer.lora_A.T                            # (B, L, r)
    high = layer.scale * low @ layer.lora_B.T           # (B, L, W)
    frozen = torch.nn.functional.linear(x, layer.weight, layer.bias)
    print(f"x {tuple(x.shape)} -> A x {tuple(low.shape)} -> ΔW x {tuple(high.shape)}, "
          f"alpha / r = {layer.scale:g}")
    print(f"the layer gives W x + ΔW x: {torch.allclose(layer(x), frozen + high, atol=1e-4)}")
    print(f"nothing has changed yet:    {torch.equal(layer(x), frozen)}")
trained, total = detector.count_parameters()
print(f"trained, with the context vectors of section 5: {trained:,} of {total:,} parameters "
      f"({trained / total:.2%})")

# %% [markdown]
# ## 5. CoOp
#
# The words "a photo of a" in front of the class name become vectors that are learned
# (`minilora/coop.py`), separately for the normal and the anomalous prompt.

# %%
learner = detector.prompts
words = [*(f"[V]{k + 1}" for k in range(learner.context.shape[1])), "damaged", CLASS]
start = learner.context.detach().clone()
print(f"anomalous prompt    {' '.join(words)}")
print(f"context vectors [V] {tuple(start.shape)}  (state, vectors, W), normal and anomalous")
print(f"whole prompts       {tuple(learner.embeddings.shape)}  (state, L, W)")
with torch.no_grad():
    print(f"text features       {tuple(learner().shape)}  (state, E)")

# %% [markdown]
# ## 6. Training
#
# There are no defective pictures to learn from, so defects are pasted into copies of the good ones
# (`minilora/synthetic/`). The loss compares the score of each patch with the pasted mask. The first
# figure shows such copies, with the kind of the defect; the second one shows how the loss falls.

# %%
from minilora.synthetic.pasting import paste_anywhere
from minilora.synthetic.sampling import choose

generator = torch.Generator().manual_seed(3)
prepared = [detector.prepare(detector.read(sample.path)) for sample in shots]
chosen = [choose(generator, detector.config.defect_kinds) for _ in prepared[:6]]
show_row([as_picture(paste_anywhere(picture, generator, kind, prepared)[0])
          for picture, kind in zip(prepared, chosen)], chosen)

detector.fit([sample.path for sample in shots])
smooth = [sum(detector.losses[k:k + 10]) / 10 for k in range(len(detector.losses) - 9)]
show_chart(line_plot("training loss", "step", "loss, mean of the last 10 steps",
                     {"loss": list(enumerate(smooth, 10))}))
norms = detector.delta_norms().values()
moved = (learner.context.detach() - start).norm(dim=-1)     # (state, vectors)
print(f"LoRA changed {len(norms)} projections, |ΔW| {min(norms):.2f} to {max(norms):.2f}")
print(f"CoOp moved {moved.numel()} vectors of mean length {start.norm(dim=-1).mean():.2f} by "
      f"{moved.min():.2f} to {moved.max():.2f}")
print(f"threshold {detector.threshold:.3f}, from the good pictures only")

# %% [markdown]
# ## 7. Maps side by side
#
# One defective picture of each kind: the picture, its mask, then the maps of four rows of the
# tables below. `zero-shot` is CLIP with hand-written prompts, `lora-only` adds LoRA, `memory`
# compares each patch with the patches of the good pictures, `adapted` is everything together. Each
# column has its own colour scale, from dark blue (lowest value) to light yellow (highest), the same
# for all pictures. With the default pictures no map marks the whole dent, a weak change of shading
# over half the product; it lowers the pixel AUROC of all methods below.

# %%
from minilora.charts.colours import heat_colours
from minilora.data.samples import load_mask

examples = [next(s for s in data.test if s.kind == kind) for kind in kinds if kind != "good"][:4]
pictures = [detector.prepare(detector.read(s.path)) for s in examples]
found = [detector.rows(p[None].to(DEVICE)) for p in pictures]
names = ("zero-shot", "lora-only", "memory", "adapted")
for sample, picture, maps in zip(examples, pictures, found):
    columns = {sample.kind: as_picture(picture)}
    mask = load_mask(sample, tuple(picture.shape[1:]))
    if mask is not None:
        columns["mask"] = Image.fromarray((mask * 255).byte().numpy())
    for name in names:
        low = min(other[name][0].min() for other in found)
        high = max(other[name][0].max() for other in found)
        columns[name] = Image.fromarray(heat_colours((maps[name][0][0] - low) / (high - low)))
    show_row(list(columns.values()), list(columns), 120)

# %% [markdown]
# ## 8. All rows, several seeds, and the number of shots
#
# The command `minilora fit` does all of the above and measures every row of the table. Rows that
# differ in one part show what this part adds (`text`: learned prompts and LoRA; `lora-off`:
# `adapted` without LoRA). `minilora compare` puts the runs into one table. Finished runs are kept:
# after an interruption the same cell goes on where it was, if the folder `OUT` is still there.

# %%
from contextlib import redirect_stdout
from io import StringIO

from minilora import fit
from minilora.runs.run_class import run_class

runs = []
for count in sorted({*ABLATION, SHOTS}):
    for seed in SEEDS:
        runs.append(Path(OUT) / "runs" / f"{CLASS}-{count}shot-seed{seed}")
        arguments = ["--class", CLASS, "--shots", str(count), "--seed", str(seed),
                     "--data", str(root), "--out", str(runs[-1])]
        arguments += ["--model", MODEL] if MODEL else []
        with redirect_stdout(StringIO()):               # what it prints is long
            metrics = run_class(fit.parse(arguments), say=lambda line: None, again=False)
        print(f"shots {count}, seed {seed}: image AUROC of the row adapted "
              f"{metrics['rows']['adapted']['image_auroc']:.1%}, {metrics['seconds']:.0f} s")

# %%
from minilora.compare.page import curves
from minilora.compare.run_results import differing_facts, read_result_of
from minilora.compare.seed_statistics import compared
from minilora.compare.tables import latex_escaped, latex_table, latex_text, markdown_text

results = [read_result_of(folder) for folder in runs]
comparison = compared(results, differing_facts(results))
display(Markdown(markdown_text(comparison, f"Model {weights.name}.")))
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
own = next(r for r in results if (r.shots, r.seed) == (SHOTS, SEEDS[0])).rows
methods = [[name, *("–" if row[key] is None else f"{100 * row[key]:.1f}"
                    for key in ("image_auroc", "pixel_auroc", "aupro"))]
           for name, row in {**peers, **{f"minilora, {n}": row for n, row in own.items()}}.items()]
methods_head = ["method", "image AUROC", "pixel AUROC", "AUPRO"]
methods_caption = (f"{CLASS}, per cent, shots: {SHOTS}, seed {SEEDS[0]}, model {weights.name}. "
                   "WinCLIP, AnomalyCLIP and zero-shot use no shots.")
display(Markdown(f"{methods_caption}\n\n{markdown_table(methods_head, methods)}"))

# %% [markdown]
# ## 10. What LoRA saves
#
# One training step with 8 pictures, for towers of the same shape as the model above but random
# weights, since time and memory do not depend on the values. Each peak is measured in a process of
# its own. `python -m bench.memory` measures more rows and the shape of ViT-B/16; on a GPU, with
# `--device cuda --all`, it also tries the largest batch.

# %%
import json
from dataclasses import asdict

from bench import cost, measure

METHODS = ("full, image tower", "LoRA r=4 q,k,v,out all blocks", "minilora, plain step",
           "minilora, with reuse")
shape = asdict(clip.config)
conditions = {"batch": 8, "pool": 32, "device": "cuda" if DEVICE == "cuda" else "cpu"}
threads = torch.get_num_threads()
times = cost.rivals(list(METHODS), shape, conditions, threads, 5)
costs = [[name, "–", "–", "–", f"{sorted(times[name])[2]:.3f} s"] for name in METHODS]
if DEVICE == "cuda" or sys.platform == "linux":         # elsewhere no peak can be measured
    for line in costs:
        peak = measure.fresh(cost.memory, line[0], shape, conditions, threads, returning=True)
        line[1:4] = [f"{peak['trainable']:,}", f"{peak['file'] / 1e6:.2f} MB",
                     f"{peak['allocated'] / 1e6:.0f} MB"]
costs_head = ["method", "trained", "file", "peak", "step"]
run = Path(OUT) / "runs" / f"{CLASS}-{SHOTS}shot-seed{SEEDS[0]}"
size = json.loads((run / "metrics.json").read_text())["run_bytes"]
costs_caption = ("Peak: memory above the weights; step: time, median of 5; file: what was trained; "
                 f"the whole run on {SHOTS} shots, with its memory bank, takes {size / 1e6:.1f} "
                 f"MB. Shape of {weights.name}; {measure.conditions(conditions['device'])}.")
display(Markdown(f"{costs_caption}\n\n{markdown_table(costs_head, costs)}"))

# %% [markdown]
# ## 11. Tables for a thesis
#
# The tables of sections 8 to 10 in LaTeX; they need no package. They are also in the file
# `tables.tex` of the folder `OUT`. `minilora compare` with the folders of the runs writes those of
# section 8, with a page, CSV, Markdown and the curves as SVG and PNG. Before you rely on a
# difference, look at the standard deviation, and use three or more seeds.

# %%
def escaped(lines):
    return [[latex_escaped(cell) for cell in line] for line in lines]


tables = [latex_text(comparison, f"Model {weights.name}."),
          latex_table(methods_caption, "methods", methods_head, [escaped(methods)], wide=True),
          latex_table(costs_caption, "cost", costs_head, [escaped(costs)], wide=True)]
(Path(OUT) / "tables.tex").write_text("\n".join(tables), "utf-8")
print("\n".join(tables))
