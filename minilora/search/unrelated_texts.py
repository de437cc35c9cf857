"""Texts that have nothing to do with what is usually indexed: with them search/floor.py calibrates.

Everyday things, animals, places and events.  None is a class of Caltech-101 or a product of the
drawn scenes, because such things may well be in an index.  A few of them in an index do no harm:
the floor is made of a median and a mean.

Left out: other languages; texts of several sentences.
"""

UNRELATED_TEXTS = tuple(" ".join("""
a violin, a volcano, the parliament, a waterfall, a church, a bridge, a castle, a lighthouse, a
windmill, a stadium, a beach, a desert, a glacier, a forest, a meadow, a swamp, an island, a
cave, a cliff, a canyon, a rainbow, a thunderstorm, a snowman, a sunset, the moon, a comet, a
galaxy, a cloud, fog over a lake, a frozen river, a wedding, a funeral, a birthday party, a
classroom, a courtroom, a library, a museum, a theatre, a concert, a circus, a baby, a
grandmother, a policeman, a nurse, a soldier, a farmer, a king, a clown, a ballet dancer, a
priest, a boxer, a surfer, a skier, a goalkeeper, a marathon, a chess player, a juggler, a
choir, an orchestra, a magician, a pony, a cow, a sheep, a goat, a pig, a donkey, a camel, a
giraffe, a zebra, a lion, a tiger, a bear, a wolf, a fox, a deer, a moose, a rabbit, a squirrel,
a mouse, a bat, a monkey, a gorilla, a koala, a walrus, a seal, a whale, a shark, a tuna, a
jellyfish, a snail, a spider, a bee, a caterpillar, a ladybird, a frog, a snake, a lizard, an
owl, an eagle, a parrot, a penguin, a swan, a duck, a peacock, an ostrich, a turkey, a dog, a
kitten, a hamster, a goldfish, an oak, a coconut palm, a cactus, a rose, a tulip, a mushroom, a
vineyard, a hedge, moss, a fern, an apple, a banana, a pineapple, a watermelon, a lemon, grapes,
a carrot, a cabbage, a pumpkin, corn, a sandwich, a bowl of soup, spaghetti, a steak, fried
eggs, a birthday cake, ice cream, cheese, a loaf of bread, sushi, a glass of wine, a teapot, a
frying pan, a fork, a refrigerator, an oven, a bathtub, a toilet, a bed, a sofa, a curtain, a
carpet, a bookshelf, a fireplace, a staircase, a balcony, a garden gate, a swimming pool, a
greenhouse, a barn, a shirt, a wedding dress, a hat, a glove, a shoe, a necktie, a raincoat, a
swimsuit, a crown, a necklace, a bicycle, a tractor, a fire engine, a school bus, a taxi, a
train, a tram, a submarine, a canoe, a hot-air balloon, a rocket, a satellite, a parachute, a
hang glider, a hot spring, an oil rig, a harbour, an airport, a motorway, a tunnel, a harp, a
trumpet, a drum kit, a flute, a bagpipe, a statue, an oil painting, a fresco, a mosaic, a
tapestry, a newspaper, a map of Europe, a postage stamp, a love letter, a chessboard, a deck of
cards, a kite, a doll, a teddy bear, a swing, a tent, a campfire, a sleeping bag, a fishing rod,
a tennis racket, a golf course, a basketball, a sailing race, a rodeo, a carnival, a traffic
jam, a street corner, a skyscraper, a slum, a ruined temple, a graveyard, a prison, a hospital
room, a pharmacy, a bakery, a mosque, a shipwreck, an avalanche, a forest fire, a flood, an
earthquake, a tornado, an iceberg, a coral reef, a rice field
""".split()).split(", "))


def demo() -> None:
    """How many texts there are, and some of them."""
    print(f"{len(UNRELATED_TEXTS)} texts: {', '.join(UNRELATED_TEXTS[::40])}")


if __name__ == "__main__":
    demo()
