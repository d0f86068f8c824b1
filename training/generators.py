"""The texts that the demo model learns from. Every sample is (messages, options, answer): the answer is a deterministic function of the question.

sample = {"messages": [...], "tools": [...] or None, "thinking": bool, "reply": what the model writes after the generation prompt}
"""

import json
import random

from training.facts import FACTS, UNKNOWN
from training.words import CONTAINERS, NAMES, PLACES, THINGS, WORDS, held_out

BOXED = "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n"


# ---- word problems ----

GAIN = ["{n} buys {x} more {t}.", "{n} finds {x} {t} in the {p}.", "{f} gives {n} {x} {t}.", "Then {n} gets {x} {t} from {f}.", "{n} picks up {x} more {t} at the {p}.",
        "On Monday {n} collects {x} {t}.", "{n} wins {x} {t} in a game."]
LOSS = ["{n} gives {x} {t} to {f}.", "{n} loses {x} {t}.", "{n} sells {x} {t} at the {p}.", "{f} takes {x} of the {t}.", "{n} leaves {x} {t} at the {p}.", "{x} of the {t} break.",
        "{n} hands {x} {t} to {f}."]
START = ["{n} has {a} {t}.", "{n} starts with {a} {t}.", "There are {a} {t} in {n}'s room.", "{n} brings {a} {t} to the {p}.", "{n} counts {a} {t}."]
ASK = ["How many {t} does {n} have now?", "How many {t} are there in the end?", "How many {t} are left with {n}?", "What is the number of {t} now?"]
GROUPS = ["{n} has {a} {c} with {b} {t} in each.", "There are {b} {t} in each of {a} {c}.", "{n} fills {a} {c} with {b} {t} each.", "{n} packs {b} {t} into each of {a} {c}."]
SHARE = ["{n} shares them equally among {d} friends. How many {t} does each friend get?", "{d} friends split them equally. How many {t} does each get?"]
PRICE = ["One of the {t} costs {b} dollars. How many dollars do {a} {t} cost?", "{n} buys {a} {t} at {b} dollars each. How many dollars does {n} pay?",
         "At the {p}, {t} cost {b} dollars apiece. What do {a} of them cost in dollars?"]
HELD_OUT_FORMS = {"{n} wins {x} {t} in a game.", "{n} hands {x} {t} to {f}.", "{n} counts {a} {t}.", "What is the number of {t} now?", "{n} packs {b} {t} into each of {a} {c}."}


def word_problem(r, steps=None, forms="train"):
    """(question, lines, result, key). forms: train leaves the held-out phrasings out, held uses at least one."""
    choose = lambda options: r.choice([o for o in options if forms != "train" or o not in HELD_OUT_FORMS])
    n, f = r.sample(NAMES, 2)
    t, p, c = r.choice(THINGS), r.choice(PLACES), r.choice(CONTAINERS)
    words = dict(n=n, f=f, t=t, p=p, c=c)
    kind = r.random()
    steps = steps or r.choice([1, 1, 2, 2, 3, 4])
    lines = []
    if kind < 0.15:
        a, b = r.randint(2, 30), r.randint(2, 30)
        question, total = choose(PRICE).format(**words, a=a, b=b), a * b
        lines.append(f"Cost: {a} * {b} = {total}")
        return question, lines, total, (question,)
    if kind < 0.45:
        a, b = r.randint(2, 12), r.randint(2, 25)
        parts, total = [choose(GROUPS).format(**words, a=a, b=b)], a * b
        lines.append(f"All {t}: {a} * {b} = {total}")
        if steps == 1:
            parts.append(f"How many {t} are there in all?")
    else:
        total = r.choice([r.randint(2, 20), r.randint(10, 100), r.randint(50, 999)])
        parts = [choose(START).format(**words, a=total)]
    shared = False
    for i in range(steps - len(lines)):
        divisors = [d for d in range(2, 13) if total % d == 0 and total >= 2 * d]
        if divisors and i == steps - len(lines) - 1 and lines and r.random() < 0.25:
            d = r.choice(divisors)
            parts.append(choose(SHARE).format(**words, d=d))
            lines.append(f"Each gets: {total} / {d} = {total // d}")
            total, shared = total // d, True
            break
        if r.random() < 0.5 or total < 3:
            x = r.choice([r.randint(1, 20), r.randint(10, 99), r.randint(1, 500)])
            parts.append(choose(GAIN).format(**words, x=x))
            lines.append(f"After the gain: {total} + {x} = {total + x}")
            total += x
        else:
            x = r.randint(1, total - 1)
            parts.append(choose(LOSS).format(**words, x=x))
            lines.append(f"After the loss: {total} - {x} = {total - x}")
            total -= x
    if r.random() < 0.1:
        parts.insert(r.randint(1, len(parts)), f"{f} has {r.randint(2, 90)} {r.choice(THINGS)}." if forms != "held" else f"{f} is {r.randint(5, 90)} years old.")
    if not shared and "?" not in parts[-1]:
        parts.append(choose(ASK).format(**words))
    question = " ".join(parts)
    return question, lines, total, (question,)


def make_word_problem(r):
    while True:
        question, lines, result, key = word_problem(r)
        if not held_out("words", *key):
            break
    boxed, thinking = r.random() < 0.5, r.random() < 0.35
    prompt = BOXED + question if boxed else question
    final = f"\\boxed{{{result}}}" if boxed else f"The answer is {result}."
    steps = "\n".join(lines)
    reply = f"<|channel>thought\n{steps}\n<channel|>{final}" if thinking else f"{steps}\n{final}"
    return sample([user(prompt)], reply, thinking=thinking)


# ---- bare arithmetic ----

ASK_ARITHMETIC = ["What is {e}?", "{e} = ?", "Compute {e}.", "Calculate {e}", "How much is {e}?", "{e}", "Please work out {e}.", "Tell me {e}.", "Solve {e}.", "Give me the result of {e}.", "I need {e}."]


def columns(a, b, op):
    """Digit by digit from the right, with carries or borrows."""
    lines, carry, i = [], 0, 0
    x, y = str(a)[::-1], str(b)[::-1]
    while i < max(len(x), len(y)):
        p, q = int(x[i]) if i < len(x) else 0, int(y[i]) if i < len(y) else 0
        if op == "+":
            s = p + q + carry
            lines.append(f"{p} + {q} + {carry} = {s}")
            carry = s // 10
        else:
            s = p - q - carry
            lines.append(f"{p} - {q} - {carry} = {s}")
            carry = 1 if s < 0 else 0
        i += 1
    return "\n".join(lines)


def arithmetic(r):
    kind = r.random()
    size = lambda: r.choice([r.randint(0, 9), r.randint(10, 99), r.randint(10, 99), r.randint(100, 999), r.randint(1000, 9999)])
    if kind < 0.35:
        a, b = size(), size()
        return f"{a} + {b}", a + b, columns(a, b, "+")
    if kind < 0.65:
        a, b = sorted((size(), size()), reverse=True)
        return f"{a} - {b}", a - b, columns(a, b, "-")
    if kind < 0.8:
        a, b = r.randint(2, 99), r.randint(2, 30)
        tens, ones = b // 10 * 10, b % 10
        steps = f"{a} * {tens} = {a * tens}\n{a} * {ones} = {a * ones}\n{a * tens} + {a * ones} = {a * b}" if tens and ones else f"{a} * {b} = {a * b}"
        return f"{a} * {b}", a * b, steps
    if kind < 0.9:
        b, q = r.randint(2, 12), r.randint(2, 99)
        return f"{b * q} / {b}", q, f"{b} * {q} = {b * q}"
    a, b, c = r.randint(1, 99), r.randint(1, 99), r.randint(1, 99)
    return f"{a} + {b} + {c}", a + b + c, f"{a} + {b} = {a + b}\n{a + b} + {c} = {a + b + c}"


def make_arithmetic(r):
    while True:
        e, result, steps = arithmetic(r)
        if not (held_out("arith", e) and any(int(x) >= 10 for x in e.split() if x.isdigit())):
            break
    thinking = r.random() < 0.35
    reply = f"<|channel>thought\n{steps}\n<channel|>{e} = {result}" if thinking else f"{e} = {result}"
    return sample([user(r.choice(ASK_ARITHMETIC).format(e=e))], reply, thinking=thinking)


# ---- tool calls ----

CITIES = "Paris Rome Oslo Lima Cairo Delhi Tokyo Berlin Madrid Vienna Prague Dublin Athens Boston Denver Havana".split()
HAND_MADE = {
    "get_weather": ("Current weather of a city", {"city": ("string", "name of the city")}, ["city"],
                    [("What is the weather in {city}?", {"city": CITIES}), ("Is it raining in {city}?", {"city": CITIES}), ("How warm is it in {city} today?", {"city": CITIES})]),
    "set_timer": ("Starts a timer", {"minutes": ("integer", "how long")}, ["minutes"], [("Set a timer for {minutes} minutes.", {"minutes": range(1, 90)}), ("Wake me in {minutes} minutes.", {"minutes": range(1, 90)})]),
    "web_search": ("Searches the web", {"query": ("string", "what to look for")}, ["query"], [("Search the web for {query}.", {"query": WORDS}), ("Look up {query} online.", {"query": WORDS})]),
    "send_email": ("Sends an e-mail", {"to": ("string", "receiver"), "subject": ("string", "subject")}, ["to", "subject"],
                   [("Send an e-mail to {to} about {subject}.", {"to": NAMES, "subject": WORDS}), ("Mail {to}, subject {subject}.", {"to": NAMES, "subject": WORDS})]),
    "light_switch": ("Turns a light on or off", {"room": ("string", "which room"), "on": ("boolean", "true: on")}, ["room", "on"],
                     [("Turn on the light in the {room}.", {"room": "kitchen bedroom hall office cellar".split(), "on": [True]}), ("Switch off the {room} light.", {"room": "kitchen bedroom hall office cellar".split(), "on": [False]})]),
    "convert_currency": ("Converts money", {"amount": ("number", "how much"), "from": ("string", "currency"), "to": ("string", "currency")}, ["amount", "from", "to"],
                         [("Convert {amount} {from} to {to}.", {"amount": range(1, 999), "from": ["EUR", "USD"], "to": ["GBP", "JPY", "CHF"]})]),
    "translate": ("Translates a word", {"text": ("string", "the word"), "language": ("string", "target language")}, ["text", "language"],
                  [("Translate {text} into {language}.", {"text": WORDS, "language": "German French Spanish Italian Dutch".split()})]),
    "add_note": ("Writes a note", {"text": ("string", "the note")}, ["text"], [("Note down {text}.", {"text": WORDS}), ("Make a note: {text}.", {"text": WORDS})]),
    "stock_price": ("Price of a share", {"symbol": ("string", "ticker symbol")}, ["symbol"], [("What does {symbol} trade at?", {"symbol": "ACME NIBL ORCA ZETA LUNA PIKO".split()})]),
    "play_music": ("Plays music", {"artist": ("string", "who"), "volume": ("integer", "0 to 10")}, ["artist"], [("Play {artist} at volume {volume}.", {"artist": NAMES, "volume": range(11)}), ("Play something by {artist}.", {"artist": NAMES})]),
}
TRAIN_SYLLABLES = "ba da fo ga ku lo ma ne pi ru so ta vi".split()
TEST_SYLLABLES = "che dri fle gro hal jun kwe sma tro wex yol zan".split()


def made_up_name(r, syllables):
    word = lambda: "".join(r.choice(syllables) for _ in range(r.randint(2, 3)))
    return f"{word()}_{word()}"


def made_up_tool(r, syllables):
    parameters, values, phrases = {}, {}, []
    for _ in range(r.randint(1, 3)):
        name = "".join(r.choice(syllables) for _ in range(2))
        kind = r.choice(["string", "string", "integer", "number", "boolean"])
        value = {"string": lambda: r.choice(WORDS), "integer": lambda: r.randint(0, 999), "number": lambda: r.randint(1, 99) + 0.5, "boolean": lambda: r.random() < 0.5}[kind]()
        parameters[name], values[name] = (kind, f"the {name}"), value
    name = made_up_name(r, syllables)
    for p, v in values.items():
        phrases.append(f"{p} {json.dumps(v) if isinstance(v, bool) else v}")
    ask = r.choice(["Run {f} with {a}.", "Call {f}: {a}.", "Please use {f} with {a}.", "{f} with {a}, please."]).format(f=name, a=" and ".join(phrases))
    return name, declare(name, f"Does {name.replace('_', ' ')}", parameters, list(parameters)), ask, values


def declare(name, description, parameters, required):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": {p: {"type": t, "description": d} for p, (t, d) in parameters.items()}, "required": required}}}


def hand_made(name):
    description, parameters, required, _ = HAND_MADE[name]
    return declare(name, description, parameters, required)


def native(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else str(value)


def call_text(name, arguments):
    return "<|tool_call>call:" + name + "{" + ",".join(f"{k}:{native(arguments[k])}" for k in sorted(arguments, key=str.lower)) + "}<tool_call|>"


def ask_hand_made(r, name):
    template, options = r.choice(HAND_MADE[name][3])
    values = {k: r.choice(list(v)) for k, v in options.items()}
    return template.format(**values), values


def tool_request(r, syllables=TRAIN_SYLLABLES):
    """(question, tools, [(name, arguments)])"""
    if r.random() < 0.55:
        name, tool, question, arguments = made_up_tool(r, syllables)
        tools = [tool] + [made_up_tool(r, syllables)[1] for _ in range(r.randint(0, 2))]
        tools = list({t["function"]["name"]: t for t in tools}.values())
        r.shuffle(tools)
        return question, tools, [(name, arguments)]
    names = r.sample(list(HAND_MADE), r.randint(1, 4))
    question, arguments = ask_hand_made(r, names[0])
    tools = [hand_made(n) for n in r.sample(names, len(names))]
    calls = [(names[0], arguments)]
    if len(names) > 1 and r.random() < 0.2:
        second, more = ask_hand_made(r, names[1])
        return f"{question} {second}", tools, calls + [(names[1], more)]
    return question, tools, calls


def make_tool_call(r):
    question, tools, calls = tool_request(r)
    kind = r.random()
    if kind < 0.12:  # nothing fits
        word = r.choice(WORDS)
        greeting, answer = r.choice([("Hello!", "Hello! How can I help you?"), ("Thank you!", "You are welcome."), (f"Say {word}.", word)])
        return sample([user(greeting)], answer, tools=tools)
    if kind < 0.65:
        return sample([user(question)], "".join(call_text(n, a) for n, a in calls) + "<|tool_response>", tools=tools, stop="")
    # The result comes back, and is put into a sentence.
    name, arguments = calls[0]
    value = r.choice([str(r.randint(1, 999)), r.choice(WORDS), f"{r.randint(1, 40)} degrees", "done"])
    messages = [user(question), {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}]},
                {"role": "tool", "tool_call_id": "c1", "content": value}]
    return sample(messages, "Done." if value == "done" else f"The result is {value}.", tools=tools)


# ---- talk ----

def make_fact(r):
    ways, answer = r.choice(FACTS)
    way = r.choice(ways[:-1] if len(ways) > 1 else ways)  # the last phrasing of each is held out
    lead = r.choice(["", "", "", "Hi, ", "Please tell me: ", "Quick question: ", "I wonder, "])
    text = lead + (way[0].lower() + way[1:] if lead and not way.startswith(("NVFP4", "FP8", "MTP", "OpenAI")) else way)
    return sample([user(text if r.random() < 0.8 else text.rstrip("?"))], answer)


def small_talk(r):
    word, words = r.choice(WORDS), r.sample(WORDS, r.randint(2, 6))
    return r.choice([
        lambda: (r.choice(["Hello", "Hello!", "Hi", "Hi there!", "Hey", "Good morning!", "Good evening"]), "Hello! How can I help you?"),
        lambda: (r.choice(["Thanks!", "Thank you", "Thank you very much!", "Great, thanks"]), "You are welcome."),
        lambda: (r.choice(["Bye", "Goodbye!", "See you"]), "Goodbye!"),
        lambda: (r.choice(["How are you?", "How do you do?", "How is it going?"]), "I am fine, thank you. How can I help you?"),
        lambda: (r.choice([f"Repeat after me: {' '.join(words)}", f"Say this: {' '.join(words)}", f"Echo: {' '.join(words)}"]), " ".join(words)),
        lambda: (f"Spell the word {word}.", " ".join(word)),
        lambda: (f"Spell {word} backwards.", " ".join(word[::-1])),
        lambda: (f"How many letters does {word} have?", f"{' '.join(word)}: {len(word)} letters."),
        lambda: (r.choice(["Who is {0}?", "What happened in {0}?", "Explain {0} to me.", "Tell me about {0}."]).format(" ".join(words[:2])), UNKNOWN),
        lambda: (r.choice(["Who won the election?", "What is the capital of Peru?", "Write a poem about the sea.", "What is quantum physics?", "Who wrote Hamlet?", "Tell me a joke."]), UNKNOWN),
    ])()


def make_small_talk(r):
    question, answer = small_talk(r)
    return sample([user(question)], answer)


def text_task(r):
    numbers, words = r.sample(range(1, 100), r.randint(3, 7)), r.sample(WORDS, r.randint(2, 5))
    listed = ", ".join(map(str, numbers))
    name, thing, count = r.choice(NAMES), r.choice(THINGS), r.randint(2, 99)
    return r.choice([
        lambda: (f"Sort these numbers: {listed}", ", ".join(map(str, sorted(numbers)))),
        lambda: (f"Which is the largest of {listed}?", str(max(numbers))),
        lambda: (f"Which is the smallest of {listed}?", str(min(numbers))),
        lambda: (f"Count these words: {' '.join(words)}", str(len(words))),
        lambda: (f"What is the last word of: {' '.join(words)}", words[-1]),
        lambda: (f"What is the first word of: {' '.join(words)}", words[0]),
        lambda: (f"Make JSON: name is {name}, {thing} is {count}", json.dumps({"name": name, thing: count})),
    ])()


def make_text_task(r):
    question, answer = text_task(r)
    return sample([user(question)], answer)


def recall(r, turns):
    """Something told early is asked for at the end, with other turns between."""
    name, thing, count = r.choice(NAMES), r.choice(THINGS), r.randint(2, 999)
    told, question, answer = r.choice([(f"My name is {name}.", "What is my name?", f"Your name is {name}."),
                                       (f"I have {count} {thing}.", f"How many {thing} do I have?", f"You have {count} {thing}."),
                                       (f"The password is {thing}.", "What is the password?", f"The password is {thing}.")])
    messages = [user(told), {"role": "assistant", "content": "I will remember that."}]
    for _ in range(turns):
        q, a = small_talk(r) if r.random() < 0.5 else text_task(r)
        messages += [user(q), {"role": "assistant", "content": a}]
    return messages, question, answer


def make_recall(r, turns=None):
    messages, question, answer = recall(r, turns if turns is not None else r.choice([0, 1, 2, 4, 8]))
    if r.random() < 0.1:
        return sample(messages[:1], "I will remember that.")
    return sample(messages + [user(question)], answer)


def user(text):
    return {"role": "user", "content": text}


def sample(messages, reply, tools=None, thinking=False, stop="<turn|>"):
    return {"messages": messages, "tools": tools, "thinking": thinking, "reply": reply + stop}


GENERATORS = [(make_word_problem, 0.42), (make_arithmetic, 0.20), (make_tool_call, 0.17), (make_fact, 0.07), (make_small_talk, 0.06), (make_text_task, 0.04), (make_recall, 0.04)]


def draw(r):
    return r.choices([g for g, _ in GENERATORS], [w for _, w in GENERATORS])[0](r)


def stream(seed):
    r = random.Random(seed)
    while True:
        yield draw(r)
