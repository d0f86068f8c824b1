"""What the demo model learns from: all kinds of samples, mixed.

sample = {"messages": [...], "tools": [...] or None, "thinking": bool, "media": [...], "all_turns": supervise earlier model turns too,
          "reply": what the model writes after the generation prompt}
"""

import random

from training import audio, images, problems, talk, tools

SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are nibble, a small model.", "Answer briefly.", "Be kind.", "You are a friendly assistant. Answer the question."]


def user(text):
    return {"role": "user", "content": text}


def sample(messages, reply, tools=None, thinking=False, stop="<turn|>", media=(), all_turns=False):
    return {"messages": messages, "tools": tools, "thinking": thinking, "media": list(media), "all_turns": all_turns, "reply": reply + stop}


def plain_pair(r):
    """A question that needs neither tools nor thoughts, and its reply."""
    kind = r.random()
    if kind < 0.45:
        return talk.small_talk(r)
    if kind < 0.6:
        return talk.fact(r)
    if kind < 0.8:
        return talk.text_task(r)
    while True:
        text, reply, thinking = (problems.make_word_problem if kind < 0.9 else problems.make_arithmetic)(r)
        if not thinking:
            return text, reply


def with_history(r, messages):
    """Now and then other turns before the question, or a system prompt."""
    if r.random() < 0.12:
        before = []
        for _ in range(r.choice([1, 1, 2, 3])):
            q, a = plain_pair(r)
            before += [user(q), {"role": "assistant", "content": a}]
        messages = before + messages
    if r.random() < 0.06:
        messages = [{"role": "system", "content": r.choice(SYSTEM_PROMPTS)}] + messages
    return messages


def make_word_problem(r):
    text, reply, thinking = problems.make_word_problem(r)
    return sample(with_history(r, [user(text)]), reply, thinking=thinking)


def make_arithmetic(r):
    text, reply, thinking = problems.make_arithmetic(r)
    return sample(with_history(r, [user(text)]), reply, thinking=thinking)


def make_tool_call(r):
    s = tools.make_tool_sample(r, plain_pair)
    return sample(s["messages"], s["reply"], tools=s["tools"], thinking=s["thinking"], stop=s.get("stop", "<turn|>"))


def thoughtful(r, text, reply, thought):
    thinking = r.random() < 0.1
    return sample(with_history(r, [user(text)]), f"<|channel>thought\n{thought}\n<channel|>{reply}" if thinking else reply, thinking=thinking)


def make_fact(r):
    return thoughtful(r, *talk.fact(r), "This is about nibble.")


def make_small_talk(r):
    return thoughtful(r, *talk.small_talk(r), "This needs no long thought.")


def make_text_task(r):
    return thoughtful(r, *talk.text_task(r), "I look at the text.")


def make_recall(r, turns=None):
    messages, question, answer = talk.recall(r, turns if turns is not None else r.choice([0, 1, 2, 3, 5, 8, 10, 12]))
    if r.random() < 0.08:
        return sample(messages[:1], talk.REMEMBERED)
    return sample(messages + [user(question)], answer)


def make_image(r, recent=None):
    return sample(**images.make_image_sample(r, recent))


def make_audio(r):
    return sample(**audio.make_audio_sample(r))


# (generator, share of samples): arithmetic is short, tool calls and recall are long. Pictures need the most samples by far: half of all tokens.
GENERATORS = [(make_word_problem, 0.18), (make_arithmetic, 0.12), (make_tool_call, 0.085), (make_fact, 0.06), (make_small_talk, 0.06), (make_text_task, 0.025), (make_recall, 0.03), (make_image, 0.40), (make_audio, 0.04)]


class Source:
    """Endless samples; the same ones for the same seed."""

    def __init__(self, seed):
        self.r, self.recent = random.Random(seed), []
        self.makers = [(lambda r: make_image(r, self.recent)) if g is make_image else g for g, _ in GENERATORS]
        self.weights = [w for _, w in GENERATORS]

    def draw(self):
        return self.r.choices(self.makers, self.weights)[0](self.r)


def stream(seed):
    source = Source(seed)
    while True:
        yield source.draw()
