"""Sounds made here: dialled keys, beeps, sliding tones, single tones and silence, with questions whose answers follow from what was made."""

import numpy as np

from training.images import counted, user
from training.media import RATE
from training.words import held_out

ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477)
KEYS = {k: (ROWS[i // 3], COLUMNS[i % 3]) for i, k in enumerate("123456789*0#")}
FREQUENCIES = ROWS + COLUMNS


def tone(frequencies, seconds, phases):
    t = np.arange(int(seconds * RATE), dtype=np.float32) * np.float32(2 * np.pi / RATE)
    wave = sum(np.sin(t * np.float32(f) + np.float32(p)) for f, p in zip(frequencies, phases)) / np.float32(len(frequencies))
    ramp = min(48, len(wave) // 4)  # 3 ms up and down, as real tones have
    wave[:ramp] *= np.linspace(0, 1, ramp, dtype=np.float32)
    wave[-ramp:] *= np.linspace(1, 0, ramp, dtype=np.float32)
    return wave


def silence(seconds):
    return np.zeros(int(seconds * RATE), np.float32)


def finished(r, pieces):
    """The pieces one after another, at some level, with some noise."""
    wave = np.concatenate(pieces)
    level = 10 ** (r.uniform(-26, -6) / 20)
    noise = np.random.default_rng(r.getrandbits(32)).standard_normal(len(wave), dtype=np.float32) * np.float32(0.7 * 10 ** (-r.uniform(15, 40) / 20)) if r.random() < 0.85 else np.float32(0)
    return dict(kind="audio", samples=np.clip((wave + noise) * np.float32(level), -1, 1).astype(np.float32))


def dialled(r, keys):
    phase = lambda: r.uniform(0, 6.283)
    pieces = [silence(r.uniform(0, 0.15))]
    for k in keys:
        pieces += [tone(KEYS[k], r.uniform(0.08, 0.16), (phase(), phase())), silence(r.uniform(0.06, 0.12))]
    return finished(r, pieces)


def keys_are_held_out(keys):
    return len(keys) >= 4 and held_out("keys", keys)


def clip(r, held=False):
    """(sound, [(question, answer)]): several ways to ask."""
    kind = r.random()
    hear = ["What do you hear?", "Describe the sound.", "What is in the sound?"]
    if held or kind < 0.6:
        while True:
            keys = "".join(r.choice("123456789*0#" if r.random() < 0.3 else "1234567890") for _ in range(r.randint(4, 8) if held else r.randint(1, 8)))
            if keys_are_held_out(keys) == held:
                break
        spaced = " ".join(keys)
        return dialled(r, keys), [(r.choice(["Which keys were dialled?", "Which keys were pressed?", "Which keys do you hear?", "What was dialled?", "Which number was dialled?"]), spaced)] * 4 + [
            ("How many keys were dialled?", f"{spaced}: {len(keys)} keys." if len(keys) > 1 else f"{spaced}: 1 key."), (r.choice(hear), f"I hear dialled keys: {spaced}.")]
    if kind < 0.74:
        count, f = r.randint(1, 6), r.choice([440, 523, 880, 1000, 2000]) * r.uniform(0.95, 1.05)
        pieces = [silence(r.uniform(0.02, 0.2))]
        for _ in range(count):
            pieces += [tone((f,), r.uniform(0.12, 0.25), (r.uniform(0, 6.283),)), silence(r.uniform(0.12, 0.25))]
        return finished(r, pieces), [(r.choice(["How many beeps are there?", "How many beeps do you hear?", "Count the beeps."]), counted(count, "beep")), (r.choice(hear), f"I hear {count} beep{'s' if count > 1 else ''}.")]
    if kind < 0.86:
        low, high = r.uniform(250, 500), r.uniform(900, 2000)
        rises, seconds = r.random() < 0.5, r.uniform(0.5, 1.4)
        a, b = (low, high) if rises else (high, low)
        n = int(seconds * RATE)
        wave = np.sin(np.cumsum(np.linspace(a, b, n) * (2 * np.pi / RATE)) + r.uniform(0, 6.283)).astype(np.float32)
        verb = "rises" if rises else "falls"
        return finished(r, [silence(r.uniform(0, 0.1)), wave, silence(r.uniform(0, 0.1))]), [
            (r.choice(["Does the pitch rise or fall?", "Does the tone rise or fall?", "Is the tone rising or falling?"]), f"The pitch {verb}."), (r.choice(hear), f"I hear a tone that {verb}.")]
    if kind < 0.96:
        name, f = r.choice([("low", r.uniform(150, 300)), ("middle", r.uniform(600, 1000)), ("high", r.uniform(2200, 3600))])
        return finished(r, [silence(r.uniform(0, 0.1)), tone((f,), r.uniform(0.4, 1.2), (r.uniform(0, 6.283),)), silence(r.uniform(0, 0.1))]), [
            (r.choice(["Is the tone low, middle or high?", "How high is the tone?", "Is it a low, a middle or a high tone?"]), f"It is a {name} tone."), (r.choice(hear), f"I hear a {name} tone.")]
    level = r.choice([0.0, 1e-4, 1e-3])
    quiet = np.random.default_rng(r.getrandbits(32)).standard_normal(int(r.uniform(0.3, 1.2) * RATE), dtype=np.float32) * np.float32(level)
    return dict(kind="audio", samples=quiet), [(r.choice(hear + ["How many beeps are there?", "Which keys were dialled?"]), "I hear only silence.")]


def make_audio_sample(r, held=False):
    sound, asked = clip(r, held)
    q, answer = r.choice(asked)
    return dict(messages=[user(r, [sound], q)], media=[sound], reply=answer)
