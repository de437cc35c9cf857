"""python -m minilora: list the commands, one line each."""
from minilora import __version__

COMMANDS = {"fit": "fit a detector to a few good pictures, score test pictures, write a run folder",
            "predict": "score pictures with a run folder: OK or NG",
            "export": "suspicious regions as boxes, polygons or masks, for other programs",
            "search": "find moments in pictures and videos by words or by a picture",
            "explain": "every stage of the score of one picture, as a page",
            "data": "list the contents of a data folder",
            "checkpoint": "list the contents of a checkpoint file; download official ones",
            "scenes": "write the embedded pictures as a data folder",
            "belts": "draw videos of a conveyor belt, as data for search",
            "pretrain": "train the embedded model again",
            "mae": "masked autoencoder: pretraining, linear probe, fine-tuning"}


def main() -> None:
    """Prints the list."""
    print(f"minilora {__version__}: CLIP adapted to detect defects, from a few good pictures\n")
    for name, words in COMMANDS.items():
        print(f"  python -m minilora.{name:11s} {words}")
    print("\n--help after a command lists its options; every other module has a demo,\n"
          "for example python -m minilora.lora")


if __name__ == "__main__":
    main()
