"""Search in videos, part "order": which of two events came first.

On each drawn belt two things happen, in one of four ORDERS.  A recurrent cell (RNN, LSTM, GRU)
classifies the order from a sequence; the mean over time is the baseline, which contains no order.
The sequence is either four curves of a search or the features of whole frames.

Symbols: N belts, T frames, E embedding.  Left out: more than two events, real videos.
"""
import statistics
from argparse import Namespace

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.accuracy import spread
from bench.search_belts import INDEX_RATE, features_version
from minilora.baselines.recurrent import RECURRENT_CELLS, SequenceClassifier
from minilora.checkpoint.weights import load_clip
from minilora.io.files import digest_of, load_tensors, save_tensors
from minilora.scenes import belts
from minilora.scenes.scene import seed_for
from minilora.search import query as search
from minilora.search.indexing import FrameEncoder

ORDERS = ("defect, then removal", "removal, then defect", "two defects in a row",
          "two defects, a good part between")
PARTS_ON_BELT, PERIOD = 7, 2.0              # seconds from one part to the next
TRAIN_BELTS, TEST_BELTS = 80, 30            # of each order


# ---- sequences ----------------------------------------------------------------------------------

def first_family(generator: torch.Generator) -> str:
    """Family of the parts on a belt; the first thing that its generator draws."""
    return belts.choose(generator, belts.SEEN_FAMILIES)


def ordered_belt(order: int, number: int) -> belts.Belt:
    """A belt on which two things happen in one of the ORDERS."""
    generator = seed_for("order", order, number)
    style = belts.random_style(generator, first_family(generator))
    plan = [belts.Slot(style) for _ in range(PARTS_ON_BELT)]
    bad = lambda: belts.Slot(style, belts.random_flaw(generator))
    gone = belts.Slot(style, removed=True)
    apart = 1 if order == 2 else 2
    first = int(torch.randint(1, PARTS_ON_BELT - apart, (), generator=generator))
    plan[first] = gone if order == 1 else bad()
    plan[first + apart] = gone if order == 0 else bad()
    return belts.Belt(plan, generator, period=PERIOD)


def encode_belts(threads: int) -> dict[str, Tensor]:
    """{"features" (N, T, E), "orders" (N,)} of all belts, those for training first."""
    torch.set_num_threads(threads)
    encoder, rows, orders = FrameEncoder(load_clip()[0].eval()), [], []
    for number in range(TRAIN_BELTS + TEST_BELTS):
        for order in range(len(ORDERS)):
            pictures = [f.picture for f in ordered_belt(order, number).frames(INDEX_RATE)]
            rows.append(encoder.encode(pictures))
            orders.append(order)
    return {"features": torch.stack(rows), "orders": torch.tensor(orders)}


def cached_features(options: Namespace) -> dict[str, Tensor]:
    """`encode_belts`, from a file if there is one."""
    key = digest_of(load_clip()[1].sha256, features_version(), INDEX_RATE, TRAIN_BELTS, TEST_BELTS,
                    PARTS_ON_BELT, PERIOD)
    path = options.out / "search" / f"order-{key}.pt"
    if not path.exists():
        save_tensors(path, encode_belts(options.threads))
    return load_tensors(path)


def search_curves(features: Tensor) -> Tensor:
    """Four curves of a search, (N, T, 4).  features: (N, T, E).

    The curves: similarity with a damaged part minus that with a flawless one, with a flawless part,
    with a part, with the previous frame.  Each is centred at its median and divided by its median
    deviation, so that products become comparable.
    """
    clip = load_clip()[0]
    names = [first_family(seed_for("order", order, number))
             for number in range(TRAIN_BELTS + TEST_BELTS) for order in range(len(ORDERS))]
    sentences = ("a damaged {}", "a flawless {}", "a {}")
    texts = {name: torch.stack([search.text_features(clip, s.format(name)) for s in sentences])
             for name in set(names)}
    like = torch.einsum("nte,nke->ntk", features, torch.stack([texts[name] for name in names]))
    previous = F.pad((features[:, 1:] * features[:, :-1]).sum(-1), (1, 0), value=1.0)
    four = torch.stack([like[..., 0] - like[..., 1], like[..., 1], like[..., 2], previous], dim=-1)
    centred = four - four.median(1, keepdim=True).values
    deviation = centred.abs().median(1, keepdim=True).values + 1e-4
    return (centred / deviation).clamp(-8, 8)


# ---- classification -----------------------------------------------------------------------------

def order_accuracy(kind: str, features: Tensor, orders: Tensor, seed: int, epochs: int = 60,
                   batch: int = 32) -> list[float]:
    """Accuracy on the test belts of each order, after training on the others.

    kind: of RECURRENT_CELLS, or "mean";  features: (N, T, F).
    """
    generator = torch.Generator().manual_seed(seed)
    cut = TRAIN_BELTS * len(ORDERS)
    mean, deviation = features[:cut].mean((0, 1)), features[:cut].std((0, 1))
    features = (features - mean) / deviation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)             # nn.Linear draws its weights from the global generator
        net = SequenceClassifier(kind, features.shape[-1], 64, len(ORDERS), generator)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(cut, generator=generator).split(batch):
            loss = F.cross_entropy(net(features[rows]), orders[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
    with torch.no_grad():
        right = net(features[cut:]).argmax(1) == orders[cut:]
    return [right[orders[cut:] == k].float().mean().item() for k in range(len(ORDERS))]


def order_tables(options: Namespace) -> tuple[list, list]:
    """(tables, lines for the head), mean and spread over the seeds."""
    torch.set_num_threads(options.threads)
    stored, tables = cached_features(options), []
    features = stored["features"].float()
    for source, sequences in (("four curves of a search", search_curves(features)),
                              ("features of frames", features)):
        rows = []
        for kind in (*RECURRENT_CELLS, "mean"):
            shares = [order_accuracy(kind, sequences, stored["orders"], seed)
                      for seed in options.seeds]
            rows.append([kind if kind in RECURRENT_CELLS else "mean over time",
                         *(spread([s[k] for s in shares]) for k in range(len(ORDERS))),
                         spread([statistics.mean(s) for s in shares])])
        tables.append((f"order of events recognised from {source}, per cent of {TEST_BELTS} new "
                       "belts each", ["", *ORDERS, "mean"], rows))
    return tables, [f"order: {PARTS_ON_BELT} parts a belt, {TRAIN_BELTS} belts of each order to "
                    f"learn from, {INDEX_RATE} frames a second; last state of a recurrent cell, 64 "
                    "wide"]
