"""Tool calls: hand-made tools, tools put together from common words, and tools whose names mean nothing, so that names and values must be copied."""

import json

from training.words import CITIES, NAMES, TEST_SYLLABLES, WORDS, any_name, any_word, random_word

ROOMS = "kitchen bedroom hall office cellar bathroom garage garden".split()
LANGUAGES = "German French Spanish Italian Dutch Polish Greek Latin".split()
HAND_MADE = {
    "get_weather": ("Current weather of a city", {"city": ("string", "name of the city")}, ["city"],
                    [("What is the weather in {city}?", {"city": CITIES}), ("Is it raining in {city}?", {"city": CITIES}), ("How warm is it in {city} today?", {"city": CITIES}), ("What's the weather like in {city}?", {"city": CITIES}),
                     ("Weather in {city}, please.", {"city": CITIES})]),
    "set_timer": ("Starts a timer", {"minutes": ("integer", "how long")}, ["minutes"], [("Set a timer for {minutes} minutes.", {"minutes": range(1, 90)}), ("Wake me in {minutes} minutes.", {"minutes": range(1, 90)})]),
    "web_search": ("Searches the web", {"query": ("string", "what to look for")}, ["query"], [("Search the web for {query}.", {"query": None}), ("Look up {query} online.", {"query": None})]),
    "send_email": ("Sends an e-mail", {"to": ("string", "receiver"), "subject": ("string", "subject")}, ["to", "subject"],
                   [("Send an e-mail to {to} about {subject}.", {"to": NAMES, "subject": None}), ("Mail {to}, subject {subject}.", {"to": NAMES, "subject": None})]),
    "light_switch": ("Turns a light on or off", {"room": ("string", "which room"), "on": ("boolean", "true: on")}, ["room", "on"],
                     [("Turn on the light in the {room}.", {"room": ROOMS, "on": [True]}), ("Switch off the {room} light.", {"room": ROOMS, "on": [False]})]),
    "convert_currency": ("Converts money", {"amount": ("number", "how much"), "from": ("string", "currency"), "to": ("string", "currency")}, ["amount", "from", "to"],
                         [("Convert {amount} {from} to {to}.", {"amount": range(1, 999), "from": ["EUR", "USD", "CAD"], "to": ["GBP", "JPY", "CHF"]})]),
    "translate": ("Translates a word", {"text": ("string", "the word"), "language": ("string", "target language")}, ["text", "language"],
                  [("Translate {text} into {language}.", {"text": None, "language": LANGUAGES}), ("What is {text} in {language}?", {"text": None, "language": LANGUAGES})]),
    "add_note": ("Writes a note", {"text": ("string", "the note")}, ["text"], [("Note down {text}.", {"text": None}), ("Make a note: {text}.", {"text": None})]),
    "stock_price": ("Price of a share", {"symbol": ("string", "ticker symbol")}, ["symbol"], [("What does {symbol} trade at?", {"symbol": "ACME NIBL ORCA ZETA LUNA PIKO".split()})]),
    "play_music": ("Plays music", {"artist": ("string", "who"), "volume": ("integer", "0 to 10")}, ["artist"], [("Play {artist} at volume {volume}.", {"artist": NAMES, "volume": range(11)}), ("Play something by {artist}.", {"artist": NAMES})]),
    "calculator": ("Works out an expression", {"expression": ("string", "what to work out")}, ["expression"], [("Use the calculator for {expression}.", {"expression": "e"}), ("Calculate {expression} with the tool.", {"expression": "e"})]),
    "add_event": ("Puts an event into the calendar", {"title": ("string", "what"), "day": ("string", "when")}, ["title", "day"],
                  [("Put {title} into my calendar on {day}.", {"title": None, "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()})]),
}
VERBS = {"get": "Gets", "find": "Finds", "show": "Shows", "list": "Lists", "create": "Creates", "delete": "Deletes", "update": "Updates", "check": "Checks", "open": "Opens", "close": "Closes", "book": "Books", "cancel": "Cancels", "order": "Orders", "start": "Starts", "stop": "Stops", "rate": "Rates"}
PARAMETERS = "name city date count text title id color size amount level mode user path price code email query day hour unit weight speed".split()


def phrase(r):
    return " ".join(any_word(r) for _ in range(r.choice([1, 1, 1, 2, 2, 3])))


def joined(r, words):
    """Two or three words as programmers write them."""
    style = r.random()
    return words[0] + "".join(w.capitalize() for w in words[1:]) if style < 0.2 else "-".join(words) if style < 0.25 else "_".join(words)


def test_word(r):
    return "".join(r.choice(TEST_SYLLABLES) for _ in range(r.randint(1, 2)))


def value_of(r, kind, choices=None):
    if kind == "enum":
        return r.choice(choices)
    if kind == "array":
        return [any_word(r) for _ in range(r.randint(1, 3))]
    if kind == "integer":
        return r.choice([r.randint(0, 20), r.randint(0, 999), r.randint(1000, 99999), -r.randint(1, 50)])
    if kind == "number":
        return r.choice([r.randint(1, 99) + 0.5, r.randint(0, 9999) / 100, r.randint(1, 500)])
    if kind == "boolean":
        return r.random() < 0.5
    return r.choice([lambda: any_word(r), lambda: any_word(r), lambda: phrase(r), lambda: r.choice(CITIES), lambda: any_name(r), lambda: f"20{r.randint(10, 39)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}",
                     lambda: f"{random_word(r)}{r.randint(1, 99)}", lambda: random_word(r).upper()])()


def spoken(value):
    if isinstance(value, list):
        return " and ".join(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def made_up_parameters(r, word, at_most=3):
    """({name: schema}, {name: value})"""
    schemas, values = {}, {}
    for _ in range(r.randint(1, at_most)):
        name = word(r) if r.random() < 0.6 else r.choice(PARAMETERS)
        if name in schemas:
            continue
        kind = r.choice(["string", "string", "string", "integer", "integer", "number", "boolean", "enum", "array"])
        schema = {"type": {"enum": "string"}.get(kind, kind), "description": f"the {name}"}
        choices = None
        if kind == "enum":
            choices = [any_word(r) for _ in range(r.randint(2, 4))]
            schema["enum"] = choices
        if kind == "array":
            schema["items"] = {"type": "string"}
        schemas[name], values[name] = schema, value_of(r, kind, choices)
    return schemas, values


def declare(name, description, schemas, required):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {"type": "object", "properties": schemas, "required": required}}}


def made_up_tool(r, word=random_word):
    """(name, declaration, request, arguments)"""
    if r.random() < 0.3 and word is random_word:
        verb, noun = r.choice(list(VERBS)), r.choice(WORDS)
        name, description = joined(r, [verb, noun]), f"{VERBS[verb]} the {noun}"
        way = r.choice(["{v} the {n} with {a}.", "Please {v} the {n} with {a}.", "{v} the {n}: {a}.", "Can you {v} the {n} with {a}?", "I want to {v} the {n} with {a}."])
    else:
        verb = noun = ""
        name = joined(r, [word(r) for _ in range(r.choice([1, 2, 2, 3]))])
        description = f"Does {name.replace('_', ' ')}" if r.random() < 0.7 else phrase(r).capitalize()
        way = r.choice(["Run {f} with {a}.", "Call {f}: {a}.", "Please use {f} with {a}.", "{f} with {a}, please.", "Use the tool {f} with {a}.", "Can you call {f} with {a}?"])
    schemas, values = made_up_parameters(r, word)
    said = r.choice([" and ", ", "]).join(f"{p} {spoken(v)}" for p, v in values.items())
    request = way.format(v=verb, n=noun, f=name, a=said)
    return name, declare(name, description, schemas, list(schemas)), request[0].upper() + request[1:] if verb else request, values


def hand_made(name):
    description, parameters, required, _ = HAND_MADE[name]
    return declare(name, description, {p: {"type": t, "description": d} for p, (t, d) in parameters.items()}, required)


def native(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ",".join(map(native, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{native(value[k])}" for k in sorted(value, key=str.lower)) + "}"
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else str(value)


def call_text(name, arguments):
    return "<|tool_call>call:" + name + native(arguments) + "<tool_call|>"


def ask_hand_made(r, name):
    template, options = r.choice(HAND_MADE[name][3])
    draw = lambda v: phrase(r) if v is None else f"{r.randint(2, 999)} {r.choice('+-*')} {r.randint(2, 99)}" if v == "e" else any_name(r) if v is NAMES else r.choice(list(v))
    values = {k: draw(v) for k, v in options.items()}
    return template.format(**values), values


def tool_request(r, word=random_word):
    """(question, tools, [(name, arguments)])"""
    if r.random() < 0.65:
        name, tool, question, arguments = made_up_tool(r, word)
        tools = [tool] + [made_up_tool(r, word)[1] if r.random() < 0.7 else hand_made(r.choice(list(HAND_MADE))) for _ in range(r.choice([0, 0, 1, 2]))]
        tools = list({t["function"]["name"]: t for t in reversed(tools)}.values())
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


RESULTS = [lambda r: str(r.randint(1, 999)), lambda r: phrase(r), lambda r: f"{r.randint(-10, 40)} degrees", lambda r: "done", lambda r: f"{r.randint(1, 9999) / 100}", lambda r: any_name(r), lambda r: f"{r.randint(1, 40)} degrees and {r.choice(WORDS)}"]


def answer_of(value):
    return "Done." if value == "done" else f"The result is {value}."


def make_tool_sample(r, plain):
    """A dict of messages, tools, reply, stop and thinking. plain(r): a question that needs no tool, with its reply."""
    question, tools, calls = tool_request(r)
    thinking = r.random() < 0.12
    kind = r.random()
    if kind < 0.12:  # nothing fits
        text, reply = plain(r)
        return dict(messages=[{"role": "user", "content": text}], reply=reply, tools=tools, thinking=False)
    if kind < 0.16:  # something is missing
        name = r.choice([n for n in HAND_MADE if n not in ("light_switch", "calculator")])
        missing = HAND_MADE[name][2][0]
        asks = {"get_weather": "What is the weather?", "set_timer": "Set a timer.", "web_search": "Search the web.", "send_email": "Send an e-mail.", "convert_currency": "Convert some money.", "translate": "Translate something.",
                "add_note": "Make a note.", "stock_price": "What is the stock price?", "play_music": "Play some music.", "add_event": "Put something into my calendar."}
        return dict(messages=[{"role": "user", "content": asks[name]}], reply=f"Please tell me: {missing}.", tools=[hand_made(name)], thinking=False)
    if kind < 0.72:
        thought = "<|channel>thought\nI call " + " and ".join(n for n, _ in calls) + ".\n<channel|>" if thinking else ""
        return dict(messages=[{"role": "user", "content": question}], reply=thought + "".join(call_text(n, a) for n, a in calls) + "<|tool_response>", tools=tools, stop="", thinking=thinking)
    # The result comes back, and is put into a sentence.
    name, arguments = calls[0]
    value = r.choice(RESULTS)(r)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}]},
                {"role": "tool", "tool_call_id": "c1", "content": value}]
    return dict(messages=messages, reply=answer_of(value), tools=tools, thinking=False)
