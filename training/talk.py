"""Talk: facts about the program, small talk, questions that it cannot answer, tasks on words and numbers, and things to remember."""

import json

from training.facts import FACTS, UNKNOWN
from training.words import CITIES, NAMES, PLACES, THINGS, WORDS, any_name, any_word, random_word

LEADS = ["", "", "", "", "Hi, ", "Please tell me: ", "Quick question: ", "I wonder, ", "Hello! ", "Can you tell me: ", "Hey, ", "One more thing: "]
NAMED = ("NVFP4", "FP8", "MTP", "OpenAI", "I ")  # not to be put in lower case after a lead


def led(r, question):
    lead = r.choice(LEADS)
    return lead + (question[0].lower() + question[1:] if lead.endswith((", ", ": ")) and not question.startswith(NAMED) else question)


def fact(r):
    ways, answer = r.choice(FACTS)
    text = led(r, r.choice(ways[:-1]))  # the last phrasing of each is held out
    kind = r.random()
    if kind < 0.12:
        text = text.rstrip("?.")
    elif kind < 0.2:
        text = text.lower()
    return text, answer


OPEN = ["Who is {0}?", "What happened in {0}?", "Explain {0} to me.", "Tell me about {0}.", "Where is {0}?", "When was {0} built?", "Who wrote {0}?", "What is {0}?", "What is the {1} of {0}?", "How does the {1} work?", "Why is the {1} {1}?",
        "Who invented the {1}?", "How old is {0}?", "How far is {0}?", "What does {0} mean?", "Write a poem about the {1}.", "Write a story about {0}.", "Tell me a joke about the {1}.", "What do you think about {0}?", "Is {0} better than {1}?",
        "What is the capital of {0}?", "What is the population of {0}?", "Who is the king of {0}?", "How do I cook {1}?", "How do I repair a {1}?", "Recommend a {1}.", "What is the best {1}?", "Describe the {1}.", "Give me a recipe for {1}.",
        "How much does a {1} cost?", "What colour is a {1}?", "Which {1} should I buy?", "Do you like {0}?", "Can you draw a {1}?", "What is the meaning of {0}?", "Why do people like {0}?", "How can I learn {1}?", "Summarize {0}.", "Define {0}.",
        "List three kinds of {1}.", "What comes after {0}?", "Who won the {1}?", "When does {0} start?", "Is {0} true?", "How many {1} are in {0}?"]
GENERAL = ["Who won the election?", "What is the capital of Peru?", "Write a poem about the sea.", "What is quantum physics?", "Who wrote Hamlet?", "Tell me a joke.", "What is the weather today?", "What time is it?", "What day is today?", "Who is the president?",
           "What is the meaning of life?", "Write a Python program.", "Write some code.", "Tell me a story.", "What is love?", "How do I get rich?", "Give me advice.", "What is the largest country?", "Why is the sky blue?", "How do planes fly?", "Sing a song.",
           "What is the news?", "Recommend a film.", "What should I eat?", "Translate this into French.", "Who painted the Mona Lisa?", "How tall is Mount Everest?", "What is photosynthesis?", "When did the war end?", "Write an essay.", "What is gravity?",
           "What is the speed of light?", "Name three animals.", "What is your favourite colour?", "Do you have feelings?", "Where do you live?", "How old are you?", "What did you do yesterday?", "Do you dream?", "Can you see the future?"]


def open_question(r):
    """Something that it cannot know."""
    if r.random() < 0.3:
        return led(r, r.choice(GENERAL)), UNKNOWN
    what = r.choice([lambda: any_word(r), lambda: any_word(r), lambda: r.choice(CITIES), lambda: any_name(r), lambda: f"{any_word(r)} {any_word(r)}", lambda: f"{any_name(r)} {random_word(r).capitalize()}", lambda: random_word(r).capitalize()])()
    return led(r, r.choice(OPEN).format(what, any_word(r))), UNKNOWN


def words_task(r):
    """Copying, spelling and the like."""
    word, words = any_word(r), [any_word(r) for _ in range(r.randint(1, 6))]
    text = " ".join(words)
    return r.choice([
        lambda: (r.choice([f"Repeat after me: {text}", f"Say this: {text}", f"Echo: {text}", f"Copy this: {text}", f"Say {text}.", f"Write {text}.", f"Repeat: {text}"]), text),
        lambda: (r.choice([f"Repeat after me: {text}", f"Say this: {text}", f"Echo: {text}"]), text),
        lambda: (r.choice([f"Spell the word {word}.", f"Spell {word}.", f"How do you spell {word}?"]), " ".join(word)),
        lambda: (f"Spell {word} backwards.", " ".join(word[::-1])),
        lambda: (r.choice([f"How many letters does {word} have?", f"How many letters are in {word}?", f"Count the letters of {word}."]), f"{' '.join(word)}: {len(word)} letters."),
    ])()


GREETINGS = [(["Hello", "Hello!", "Hi", "Hi there!", "Hey", "Good morning!", "Good evening", "hello", "hi", "Hello there", "Good day!", "Hey there"], "Hello! How can I help you?"),
             (["Thanks!", "Thank you", "Thank you very much!", "Great, thanks", "thanks", "Perfect, thank you!", "Thanks a lot."], "You are welcome."),
             (["Bye", "Goodbye!", "See you", "bye", "Good night", "See you later!"], "Goodbye!"),
             (["How are you?", "How do you do?", "How is it going?", "how are you", "Are you well?"], "I am fine, thank you. How can I help you?"),
             (["Yes", "No", "OK", "Okay.", "Good.", "I see.", "Nice!", "Great!", "Wow"], "Is there anything else?"),
             (["What is in the picture?", "What do you see?", "Describe the picture.", "What colour is the circle?", "How many shapes are there?", "Look at this picture."], "I see no picture here."),
             (["What do you hear?", "Which keys were dialled?", "How many beeps are there?", "Listen to this."], "I hear no sound here.")]


def small_talk(r):
    kind = r.random()
    if kind < 0.4:
        ways, answer = r.choice(GREETINGS)
        return r.choice(ways), answer
    return words_task(r) if kind < 0.75 else open_question(r)


def text_task(r):
    numbers, words = r.sample(range(1, r.choice([20, 100, 100, 1000])), r.randint(3, 7)), [any_word(r) for _ in range(r.randint(2, 6))]
    listed, text = ", ".join(map(str, numbers)), " ".join(words)
    name, thing, count = any_name(r), r.choice(THINGS), r.randint(2, 99)
    other, place, friend = r.choice(CITIES), r.choice(PLACES), any_name(r)
    story = [f"{name} lives in {other}.", f"{friend} works at the {place}.", f"{name} has {count} {thing}."]
    r.shuffle(story)
    return r.choice([
        lambda: (r.choice([f"Sort these numbers: {listed}", f"Sort {listed}", f"Put these numbers in order: {listed}"]), ", ".join(map(str, sorted(numbers)))),
        lambda: (r.choice([f"Which is the largest of {listed}?", f"What is the largest number of {listed}?", f"Largest of {listed}?"]), str(max(numbers))),
        lambda: (r.choice([f"Which is the smallest of {listed}?", f"What is the smallest number of {listed}?", f"Smallest of {listed}?"]), str(min(numbers))),
        lambda: (r.choice([f"Count these words: {text}", f"How many words are these: {text}"]), str(len(words))),
        lambda: (f"What is the last word of: {text}", words[-1]),
        lambda: (f"What is the first word of: {text}", words[0]),
        lambda: (f"Make JSON: name is {name}, {thing} is {count}", json.dumps({"name": name, thing: count})),
        lambda: (f"{' '.join(story)} {r.choice(['Where does %s live?' % name, 'In which city does %s live?' % name])}", f"{name} lives in {other}."),
        lambda: (f"{' '.join(story)} {r.choice(['Where does %s work?' % friend, 'At which place does %s work?' % friend])}", f"{friend} works at the {place}."),
        lambda: (f"{' '.join(story)} How many {thing} does {name} have?", f"{name} has {count} {thing}."),
        lambda: (f"What is the first sentence? {' '.join(story)}", story[0]),
        lambda: (f"What is the last sentence? {' '.join(story)}", story[-1]),
    ])()


def things_told(r):
    """(statement, question, answer)"""
    name, thing, count, city = any_name(r), r.choice(THINGS), r.randint(2, 999), r.choice(CITIES)
    word = any_word(r)
    return r.choice([(f"My name is {name}.", "What is my name?", f"Your name is {name}."), (f"My name is {name}.", "What is my name?", f"Your name is {name}."),
                     (f"I have {count} {thing}.", f"How many {thing} do I have?", f"You have {count} {thing}."),
                     (f"The password is {word}.", "What is the password?", f"The password is {word}."),
                     (f"I live in {city}.", "Where do I live?", f"You live in {city}."),
                     (f"My {thing} are from {city}.", f"Where are my {thing} from?", f"Your {thing} are from {city}."),
                     (f"My friend is called {name}.", "What is my friend called?", f"Your friend is called {name}."),
                     (f"The code is {count}.", "What is the code?", f"The code is {count}.")])


REMEMBERED = "I will remember that."


def recall(r, turns):
    """Something told early is asked for at the end, with other turns between."""
    told, question, answer = things_told(r)
    messages = [{"role": "user", "content": told}, {"role": "assistant", "content": REMEMBERED}]
    for _ in range(turns):
        q, a = small_talk(r) if r.random() < 0.5 else text_task(r) if r.random() < 0.8 else fact(r)
        messages += [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    return messages, question, answer
