"""Names and things that the generators draw from, words made of random letters, and the hash that decides what is held out."""

import hashlib

NAMES = ("Mia Tom Ana Leo Eva Max Ida Ben Zoe Sam Amy Dan Lena Omar Ruth Finn Nora Hugo Iris Paul Vera Carl Lucy Erik Maya Ivan Rosa Alan Dora Kurt Elsa Noah Jane Otto Lily Adam "
         "Cleo Theo Anna Mark Sara Hans Kate Luis Gina Rolf Tara Igor June Axel Faye Dirk Myra Seth Olga Wade Hope Karl Edna Troy Alice Bob Peter Maria John James Emma Oliver Sophia "
         "Lucas Julia Felix Clara David Laura Simon Helen Victor Diana Martin Susan Robert Linda Thomas Karen Daniel Nancy Kevin Grace Brian Chloe Jason Ella Ryan Ava Eric Mary Henry "
         "Rachel Oscar Ivy Arthur Stella Louis Amber Gavin Molly Ralph Wendy Ahmed Fatima Yusuf Leila Chen Mei Ravi Priya Kenji Yuki Pedro Lucia Marco Elena Pierre Claire Sven Ingrid").split()
THINGS = ("apples pears books pens coins cards stamps shells marbles stickers cookies candles buttons ribbons pencils tickets cups plates roses tulips eggs nuts plums lemons beads "
          "balls kites boxes bottles stones keys lamps masks maps toys bricks tiles ropes socks hats gloves scarves bowls spoons forks carrots onions melons grapes figs bananas oranges "
          "cherries peaches tomatoes potatoes flowers leaves feathers photos letters magazines notebooks erasers crayons magnets badges dolls puzzles robots cars planes trains bikes "
          "chairs tables pillows blankets towels shirts shoes rings bracelets pies cakes muffins sandwiches pizzas candies chocolates fish birds ducks chickens").split()
CONTAINERS = "boxes bags baskets shelves trays drawers crates jars bins packs cartons rows".split()
PLACES = "market shop school library garden park farm bakery museum station store beach zoo theater hotel harbor castle office kitchen fair".split()
WORDS = ("river stone cloud maple ember lantern meadow copper violet harbor pepper saddle winter marble falcon candle island thunder velvet orchid timber canyon silver ribbon "
         "cactus pebble walnut magnet puzzle rocket button dragon spider garlic planet mirror tunnel anchor basil comet summer bridge forest desert mountain valley ocean window door "
         "paper pencil guitar piano violin drum trumpet flute hammer ladder bucket basket blanket pillow carpet curtain kettle teapot saucer spoon butter cheese bread honey sugar "
         "coffee lemon cherry banana orange tomato potato carrot onion spinach pumpkin rabbit turtle monkey tiger lion zebra camel horse donkey goat sheep eagle parrot pigeon sparrow "
         "dolphin whale shark salmon oyster doctor teacher farmer sailor pilot painter writer singer dancer soldier king queen prince castle palace temple tower village city street "
         "market museum theater school office factory garden kitchen cellar attic roof chimney engine wheel bicycle train plane boat ship truck tractor clock watch compass camera "
         "radio phone letter ticket wallet jacket shirt sweater scarf glove boot sandal diamond ruby emerald pearl amber crystal iron gold bronze steel history science physics "
         "chemistry biology music dance poetry grammar number letter story dream shadow light fire water earth wind storm rain snow frost").split()
CITIES = ("Paris Rome Oslo Lima Cairo Delhi Tokyo Berlin Madrid Vienna Prague Dublin Athens Boston Denver Havana London Moscow Sydney Toronto Chicago Dallas Seattle Miami Lisbon Warsaw "
          "Zurich Geneva Munich Hamburg Milan Naples Venice Kyoto Osaka Seoul Mumbai Nairobi Lagos Accra Bogota Quito Santiago Montreal Helsinki Stockholm Copenhagen Brussels").split()

TRAIN_VOWELS, TRAIN_CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"
TEST_SYLLABLES = "che dri fle gro hal jun kwe sma tro wex yol zan".split()  # no made-up word of the training has one


def random_word(r):
    """A word that means nothing: syllables, letters at random, or both."""
    while True:
        kind = r.random()
        c, v = TRAIN_CONSONANTS, TRAIN_VOWELS
        if kind < 0.45:
            word = "".join(r.choice(c) + r.choice(v) for _ in range(r.randint(2, 3)))
        elif kind < 0.75:
            word = "".join(r.choice(["", r.choice(c)]) + r.choice(c) + r.choice(v) + r.choice(["", r.choice(c)]) for _ in range(r.randint(1, 3)))
        elif kind < 0.9:
            word = "".join(r.choice(c + v) for _ in range(r.randint(3, 8)))
        else:
            word = r.choice(WORDS)[: r.randint(2, 5)] + r.choice(WORDS)[-r.randint(2, 4) :]
        if len(word) > 2 and not any(s in word for s in TEST_SYLLABLES):
            return word


def any_name(r):
    """Mostly a name, now and then one that nobody has."""
    return r.choice(NAMES) if r.random() < 0.9 else random_word(r).capitalize()


def any_word(r):
    return r.choice(WORDS) if r.random() < 0.6 else random_word(r)


def held_out(*key, modulus=10):
    """True for one key in `modulus`, always the same ones."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % modulus == 0
