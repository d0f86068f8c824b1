"""Names and things that the generators draw from, and the hash that decides what is held out."""

import hashlib

NAMES = ("Mia Tom Ana Leo Eva Max Ida Ben Zoe Sam Amy Dan Lena Omar Ruth Finn Nora Hugo Iris Paul Vera Carl Lucy Erik Maya Ivan Rosa Alan Dora Kurt Elsa Noah Jane Otto Lily Adam "
         "Cleo Theo Anna Mark Sara Hans Kate Luis Gina Rolf Tara Igor June Axel Faye Dirk Myra Seth Olga Wade Hope Karl Edna Troy").split()
THINGS = ("apples pears books pens coins cards stamps shells marbles stickers cookies candles buttons ribbons pencils tickets cups plates roses tulips eggs nuts plums lemons beads "
          "balls kites boxes bottles stones keys lamps masks maps toys bricks tiles ropes socks hats gloves scarves bowls spoons forks carrots onions melons grapes figs").split()
CONTAINERS = "boxes bags baskets shelves trays drawers crates jars".split()
PLACES = "market shop school library garden park farm bakery museum station".split()
WORDS = ("river stone cloud maple ember lantern meadow copper violet harbor pepper saddle winter marble falcon candle island thunder velvet orchid timber canyon silver ribbon "
         "cactus pebble walnut magnet puzzle rocket button dragon spider garlic planet mirror tunnel anchor basil comet").split()


def held_out(*key, modulus=10):
    """True for one key in `modulus`, always the same ones."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % modulus == 0
