"""python -m minilora: the commands, one line each."""
from minilora import __version__

COMMANDS = {"fit": "adapt to a few good pictures, judge test pictures, write a run folder",
            "predict": "OK or NG for pictures, by a run folder",
            "export": "boxes, polygons and masks of what is suspicious, for other programs",
            "search": "find moments in pictures and videos by words or by a picture",
            "explain": "one picture step by step, as a page",
            "data": "what is in a data folder",
            "checkpoint": "what is in a checkpoint file; download official ones",
            "scenes": "write the embedded pictures as a data folder",
            "belts": "draw videos of a conveyor belt, to try the search on",
            "pretrain": "train the embedded model anew",
            "mae": "masked autoencoder: pretraining, probe, fine-tuning"}


def main():
    print(f"minilora {__version__}: CLIP adapted to find defects with a handful of good pictures\n")
    for name, words in COMMANDS.items():
        print(f"  python -m minilora.{name:11s} {words}")
    print("\n--help after any of them lists its options; every other module shows its mechanism,\n"
          "for example python -m minilora.lora")


if __name__ == "__main__":
    main()
