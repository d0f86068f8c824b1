"""Word problems and bare arithmetic. Every answer is a deterministic function of the question: one line per step, then the result."""

from training.words import CONTAINERS, PLACES, THINGS, any_name, held_out

BOXED = "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n"

# ---- sentences ----
# {n} the one it is about ({s}: he or she), {f} another, {t} things, {p} a place, {c} containers, {x} {a} {b} {d} numbers, {w} a lead-in that says nothing.

WHEN = ["Then ", "Later ", "After that, ", "On Monday ", "On Friday ", "Next ", "In the evening ", "The next day ", "Yesterday ", "In May "]
GAIN_VERBS = "buys finds wins collects gets picks receives earns gathers makes borrows catches takes".split()
LOSS_VERBS = "gives hands sends sells lends passes mails brings donates".split()
GONE_VERBS = "loses drops breaks sells donates spends forgets uses".split()
GAIN = (["{w}{n} buys {x} more {t}.", "{w}{n} finds {x} {t} in the {p}.", "{f} gives {n} {x} {t}.", "{w}{n} gets {x} {t} from {f}.", "{w}{n} picks up {x} more {t} at the {p}.",
         "On Monday {n} collects {x} {t}.", "{n} wins {x} {t} in a game.", "{w}{f} hands {n} {x} {t}.", "{w}{f} brings {n} {x} more {t}.", "{w}{s} buys {x} more {t}.", "{w}{s} finds {x} more {t}.",
         "{w}{s} gets {x} more.", "{w}{n} receives another {x} {t}.", "{x} more {t} arrive.", "{w}{f} puts {x} more {t} there.", "{w}{n} adds {x} {t} to the collection.",
         "{n} is given {x} {t} by {f}.", "{f} sends {n} {x} {t}.", "{w}{n} wins {x} more {t}.", "{w}{n} makes {x} more {t}.", "{w}{n} gets {x} {t} as a present.", "{n} then earns {x} {t}."]
        + ["{w}{n} %s {x} more {t} at the {p}." % v for v in GAIN_VERBS] + ["{w}{s} %s another {x} {t}." % v for v in GAIN_VERBS]
        + ["{w}{n} %s {x} {t} from {f}." % v for v in "buys borrows gets receives wins takes collects".split()]
        + ["{w}{n} is %s {x} {t} by {f}." % v for v in "handed sent lent brought offered left".split()] + ["{w}{s} is %s {x} more {t}." % v for v in "given handed sent brought".split()]
        + ["{w}{f} %s {n} {x} {t}." % v for v in "lends passes mails brings offers".split()] + ["{w}{f} %s {x} of the {t} to {n}." % v for v in "gives hands sends passes".split()]
        + ["{w}{s} is given {x} {t} by {f}.", "{w}{n} is given another {x} {t}."]
        + ["{n} then %s {x} more {t}." % v for v in "buys finds gets makes wins".split()] + ["{n} also %s {x} {t}." % v for v in "earns gets buys collects finds".split()])
LOSS = (["{w}{n} gives {x} {t} to {f}.", "{w}{n} loses {x} {t}.", "{w}{n} sells {x} {t} at the {p}.", "{f} takes {x} of the {t}.", "{n} leaves {x} {t} at the {p}.", "{x} of the {t} break.",
         "{n} hands {x} {t} to {f}.", "{w}{n} throws {x} {t} away.", "{w}{s} gives {x} of them to {f}.", "{w}{s} sells {x} of them.", "{w}{x} of them get lost.", "{n} gives {f} {x} {t}.",
         "{w}{f} borrows {x} {t} from {n}.", "{w}{f} buys {x} {t} from {n}.", "{w}{x} of the {t} are stolen.", "{w}{n} gives away {x} {t}.", "{n} uses {x} of the {t}.", "{w}{n} has to return {x} {t}.",
         "{x} {t} are sold.", "{x} {t} go missing.", "{n} hands out {x} {t}.", "{f} wins {x} {t} from {n}.", "{f} gets {x} {t} from {n}."]
        + ["{w}{n} %s {x} of the {t} to {f}." % v for v in LOSS_VERBS] + ["{w}{s} %s {x} {t} to {f}." % v for v in LOSS_VERBS]
        + ["{w}{n} %s {x} of them." % v for v in GONE_VERBS] + ["{w}{s} %s {x} {t} at the {p}." % v for v in GONE_VERBS]
        + ["{w}{n} %s {f} {x} {t}." % v for v in "sends lends mails brings passes offers".split()] + ["{w}{s} %s {f} {x} of the {t}." % v for v in "gives hands sends lends".split()]
        + ["{n} %s out {x} {t}." % v for v in "gives lends passes throws".split()] + ["{w}{n} %s {x} {t} to {f}." % v for v in "passes mails lends brings donates".split()]
        + ["{n} then %s {x} {t}." % v for v in "loses sells drops breaks".split()] + ["{w}{f} is %s {x} {t} by {n}." % v for v in "given handed sent lent".split()])
START = ["{n} has {a} {t}.", "{n} starts with {a} {t}.", "There are {a} {t} in {n}'s room.", "{n} brings {a} {t} to the {p}.", "{n} counts {a} {t}.", "{n} owns {a} {t}.", "{n} keeps {a} {t} at the {p}.",
         "At first {n} has {a} {t}.", "{n} had {a} {t}.", "There are {a} {t} at the {p}, and all belong to {n}.", "{n} bought {a} {t} at the {p}.", "{n} carries {a} {t}.", "In the {p}, {n} sees {a} {t}.",
         "{n} counts the {t}: there are {a}.", "{n} has a collection of {a} {t}.", "This morning {n} had {a} {t}.", "{n} holds {a} {t}.", "{n} takes {a} {t} to the {p}.", "{n} stores {a} {t} in the {p}.", "{n} begins with {a} {t}.", "{n} made {a} {t} at the {p}.",
         "At the {p}, {n} counts {a} {t}.", "{n} wants to sell {a} {t}.", "{n} carries {a} {t} to the {p}.", "{n} owns {a} old {t}."]
ASK = ["How many {t} does {n} have now?", "How many {t} are there in the end?", "How many {t} are left with {n}?", "What is the number of {t} now?", "How many {t} does {n} have in the end?", "How many {t} are there now?",
       "How many are there now?", "How many {t} does {s2} have now?", "What number of {t} does {n} have now?", "How many {t} has {n} now?", "Find the number of {t} that {n} has now.", "How many {t} remain?",
       "Now, how many {t} are there?", "What is the total now?", "What is the number of {t} in the end?", "How many {t} are there at the end?", "In the end, how many {t} are there?", "Now, how many {t} does {n} have?",
       "And how many {t} are there now?", "What is the number of {t} that are left?", "What is now the number of {t}?"]
GROUPS = ["{n} has {a} {c} with {b} {t} in each.", "There are {b} {t} in each of {a} {c}.", "{n} fills {a} {c} with {b} {t} each.", "{n} packs {b} {t} into each of {a} {c}.", "{n} has {a} {c}. Each of them holds {b} {t}.",
          "{n} buys {a} {c} of {t}. There are {b} {t} in each.", "Each of the {a} {c} holds {b} {t}.", "{n} puts {b} {t} into each of {a} {c}.", "{a} {c} have {b} {t} each.", "{n} packs {a} {c} with {b} {t} each.", "{n} lays {b} {t} into each of the {a} {c}.", "{b} {t} go into each of {a} {c}.", "{n} packs {b} {t} each into {a} {c}."]
ASK_ALL = ["How many {t} are there in all?", "How many {t} are there altogether?", "How many {t} does {n} have in total?", "What is the total number of {t}?", "How many {t} is that?", "How many {t} is that in total?", "How many is that?", "How many {t} are that in all?"]
SHARE = ["{n} shares them equally among {d} friends. How many {t} does each friend get?", "{d} friends split them equally. How many {t} does each get?", "{n} divides them equally among {d} children. How many {t} does each child get?",
         "They are put into {d} equal piles. How many {t} are in each pile?", "{d} people share them fairly. How many {t} does each person get?", "{n} puts them into {d} {c}, the same number in each. How many {t} are in each?", "{d} people split them equally. How many {t} does each person get?",
         "{d} children share them equally. How many {t} does each child get?", "They are shared fairly by {d} friends. How many {t} does each one get?"]
PRICE = ["One of the {t} costs {b} dollars. How many dollars do {a} {t} cost?", "{n} buys {a} {t} at {b} dollars each. How many dollars does {n} pay?", "At the {p}, {t} cost {b} dollars apiece. What do {a} of them cost in dollars?",
         "{n} sells {a} {t} for {b} dollars each. How many dollars does {n} get?", "Each of {a} {t} costs {b} dollars. What is the price of all in dollars?", "{n} buys {a} {t}. Each costs {b} dollars. How much does {n} pay in dollars?", "{n} sells {a} {t} at {b} dollars each. How many dollars does {n} earn?",
         "{n} sells {a} {t}. Each brings {b} dollars. How many dollars does {n} get?", "{f} sells {n} {a} {t} for {b} dollars each. How many dollars does {f} get?", "{n} buys {a} {t} for {b} dollars each. How many dollars is that?"]
RATE = ["{n} reads {b} pages a day. How many pages does {n} read in {a} days?", "A machine makes {b} {t} an hour. How many {t} does it make in {a} hours?", "{n} walks {b} miles each day for {a} days. How many miles is that?",
        "{n} earns {b} dollars an hour and works {a} hours. How many dollars does {n} earn?", "A car drives {b} miles per hour for {a} hours. How many miles does it drive?", "{n} saves {b} dollars every week. How many dollars does {n} save in {a} weeks?",
        "Every day {n} makes {b} {t}. How many {t} does {n} make in {a} days?", "Every day {n} finds {b} {t}. How many {t} does {n} find in {a} days?", "Each day {n} makes {b} {t}. How many {t} are that in {a} days?",
        "Every week {n} buys {b} {t}. How many {t} does {n} buy in {a} weeks?", "{n} makes {b} {t} a day. How many {t} does {n} make in {a} days?", "Every hour a machine makes {b} {t}. How many {t} are made in {a} hours?"]
TOGETHER = ["{n} has {a} {t} and {f} has {b} {t}. How many {t} do they have together?", "{n} has {a} {t}. {f} has {b} {t}. How many {t} do they have in total?", "{a} {t} are at the {p} and {b} more are in the {q}. How many {t} are there in all?",
            "{n} found {a} {t} and {f} found {b}. How many {t} did they find together?", "On Monday {n} made {a} {t}, and on Tuesday {b}. How many {t} did {n} make on both days?", "On Monday {n} found {a} {t}, on Friday {b}. How many {t} did {n} find on both days?",
            "{n} sold {a} {t} in May and {b} in June. How many {t} did {n} sell in both months?", "In the morning {n} made {a} {t}, and in the evening {b}. How many {t} did {n} make in all?", "{f} made {a} {t} and {n} made {b}. How many {t} did they make together?"]
MORE_THAN = ["{n} has {a} {t} and {f} has {b} {t}. How many more {t} does {n} have than {f}?", "{n} has {a} {t}, {f} only {b}. How many more {t} does {n} have?", "{f} has {b} {t} and {n} has {a}. How many fewer {t} does {f} have than {n}?",
             "{n} is {a} years old and {f} is {b}. How many years older is {n}?", "{n} needs {a} {t} but has only {b}. How many more {t} does {n} need?", "{f} has {b} {t}. {n} has {a}. How many more {t} does {n} have than {f}?",
             "{n} has {a} {t} and {f} has {b}. How many fewer {t} does {f} have than {n}?", "{f} has only {b} {t}, {n} has {a}. How many fewer does {f} have?", "{f} has {b} {t} and {n} has {a}. How many more does {n} have than {f}?",
             "{f} sold {b} {t} and {n} sold {a}. How many fewer {t} did {f} sell than {n}?", "{f} has {b} {t} and {n} has {a} {t}. How many fewer {t} has {f} than {n}?",
             "{f} has {b} {t}, and {n} has {a}. By how many {t} does {f} have fewer?",
             "{f} found {b} {t} and {n} found {a}. How many fewer {t} did {f} find than {n}?"]
CHANGE = ["{n} pays with {m} dollars for {a} {t} at {b} dollars each. How many dollars does {n} get back?", "{n} has {m} dollars and buys {a} {t} for {b} dollars each. How many dollars are left?",
          "{a} {t} cost {b} dollars each. {n} pays with {m} dollars. How much change does {n} get in dollars?"]
TWICE = ["{n} has {a} {t}. {f} has {k} as many. How many {t} does {f} have?", "{f} has {k} as many {t} as {n}. {n} has {a} {t}. How many {t} does {f} have?", "{n} made {a} {t}, and {f} made {k} as many. How many {t} did {f} make?", "{n} found {a} {t}, and {f} found {k} as many. How many {t} did {f} find?", "{n} sold {a} {t}. {f} sold {k} as many. How many {t} did {f} sell?",
         "{n} made {a} {t} and {f} {k} as many. How many {t} are that for {f}?"]
HALF = ["{n} has {a} {t} and gives half of them to {f}. How many {t} are left?", "Half of {n}'s {a} {t} are old. How many {t} are old?", "{n} has {a} {t}. {f} has half as many. How many {t} does {f} have?"]
TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times", 10: "ten times"}
IDLE = ["{f} has {y} {u}.", "{f} is {y} years old.", "The {p} is {y} miles away.", "It is {y} degrees today.", "{f} also saw {y} {u}."]

HELD_OUT_FORMS = {"{n} wins {x} {t} in a game.", "{n} hands {x} {t} to {f}.", "{n} counts {a} {t}.", "What is the number of {t} now?", "{n} packs {b} {t} into each of {a} {c}.",
                  "{n} gives {f} {x} {t}.", "{n} is given {x} {t} by {f}.", "{n} then earns {x} {t}.", "{n} hands out {x} {t}.", "{n} carries {a} {t}.", "How many {t} is that?", "Now, how many {t} are there?",
                  "{d} people share them fairly. How many {t} does each person get?", "{n} sells {a} {t} for {b} dollars each. How many dollars does {n} get?",
                  "Every day {n} makes {b} {t}. How many {t} does {n} make in {a} days?", "On Monday {n} made {a} {t}, and on Tuesday {b}. How many {t} did {n} make on both days?",
                  "{f} has {b} {t} and {n} has {a}. How many fewer {t} does {f} have than {n}?", "{n} made {a} {t}, and {f} made {k} as many. How many {t} did {f} make?"}


class Teller:
    """Words of one problem, and phrasings: `train` leaves the held-out ones out, `held` takes one wherever there is one and says whether it did."""

    def __init__(self, r, forms):
        self.r, self.forms, self.used_held_out = r, forms, False
        n, f = any_name(r), any_name(r)
        while f == n:
            f = any_name(r)
        s = r.choice(["he", "she"])
        self.words = dict(n=n, f=f, s=s.capitalize(), s2=s, t=r.choice(THINGS), p=r.choice(PLACES), q=r.choice(PLACES), c=r.choice(CONTAINERS))

    def say(self, options, **numbers):
        held = [o for o in options if o in HELD_OUT_FORMS]
        if self.forms == "held" and held and self.r.random() < 0.7:
            form, self.used_held_out = self.r.choice(held), True
        else:
            form = self.r.choice([o for o in options if o not in HELD_OUT_FORMS])
        lead = self.r.choice(WHEN) if self.r.random() < 0.3 else ""
        text = form.format(**self.words, **numbers, w=lead)
        if lead.endswith((" ", ", ")) and form.startswith("{w}{s}"):
            text = lead + text[len(lead)].lower() + text[len(lead) + 1 :]
        return text[0].upper() + text[1:]


def amount(r):
    return r.choice([r.randint(2, 20), r.randint(10, 100), r.randint(10, 100), r.randint(50, 999), r.randint(1000, 5000)])


def short_problem(r, tell):
    """One or two steps of other kinds than gaining and losing."""
    kind = r.random()
    small = lambda: (r.randint(2, 30), r.randint(2, 30))
    if kind < 0.3:
        a, b = small()
        question = tell.say(PRICE, a=a, b=b)
        return question, [f"Cost: {a} * {b} = {a * b}"], a * b
    if kind < 0.45:
        a, b = small()
        return tell.say(RATE, a=a, b=b), [f"In all: {b} * {a} = {a * b}"], a * b
    if kind < 0.6:
        a, b = amount(r), amount(r)
        return tell.say(TOGETHER, a=a, b=b), [f"Together: {a} + {b} = {a + b}"], a + b
    if kind < 0.75:
        b, a = sorted((amount(r), amount(r)))
        return tell.say(MORE_THAN, a=a, b=b), [f"Difference: {a} - {b} = {a - b}"], a - b
    if kind < 0.85:
        a, b = r.randint(2, 12), r.randint(2, 15)
        m = a * b + r.randint(1, 60)
        return tell.say(CHANGE, a=a, b=b, m=m), [f"Cost: {a} * {b} = {a * b}", f"Left: {m} - {a * b} = {m - a * b}"], m - a * b
    if kind < 0.93:
        k, a = r.choice(list(TIMES)), r.randint(2, 60)
        return tell.say(TWICE, a=a, k=TIMES[k]), [f"{TIMES[k].capitalize()} as many: {a} * {k} = {a * k}"], a * k
    a = 2 * r.randint(1, 60)
    return tell.say(HALF, a=a), [f"Half: {a} / 2 = {a // 2}"], a // 2


def word_problem(r, steps=None, forms="train"):
    """(question, lines, result, uses a held-out form)"""
    tell = Teller(r, forms)
    if r.random() < 0.3:
        question, lines, total = short_problem(r, tell)
        return question, lines, total, tell.used_held_out
    t = tell.words["t"]
    steps = steps or r.choice([1, 1, 2, 2, 3, 4])
    lines = []
    if r.random() < 0.35:
        a, b = r.randint(2, 12), r.randint(2, 25)
        parts, total = [tell.say(GROUPS, a=a, b=b)], a * b
        lines.append(f"All {t}: {a} * {b} = {total}")
        if steps == 1:
            parts.append(tell.say(ASK_ALL))
    else:
        total = amount(r)
        parts = [tell.say(START, a=total)]
    shared = False
    for i in range(steps - len(lines)):
        divisors = [d for d in range(2, 13) if total % d == 0 and total >= 2 * d]
        if divisors and i == steps - len(lines) - 1 and lines and r.random() < 0.25:
            d = r.choice(divisors)
            parts.append(tell.say(SHARE, d=d))
            lines.append(f"Each gets: {total} / {d} = {total // d}")
            total, shared = total // d, True
            break
        if r.random() < 0.5 or total < 3:
            x = r.choice([r.randint(1, 20), r.randint(10, 99), r.randint(1, 500)])
            parts.append(tell.say(GAIN, x=x))
            lines.append(f"After the gain: {total} + {x} = {total + x}")
            total += x
        else:
            x = r.choice([r.randint(1, min(20, total - 1)), r.randint(1, total - 1)])
            parts.append(tell.say(LOSS, x=x))
            lines.append(f"After the loss: {total} - {x} = {total - x}")
            total -= x
    if r.random() < 0.12:
        parts.insert(r.randint(1, len(parts) - 1) if len(parts) > 1 else 1, tell.say(IDLE, y=r.randint(2, 90), u=r.choice([u for u in THINGS if u != t])))
    if not shared and not parts[-1].endswith("?"):
        parts.append(tell.say(ASK))
    return " ".join(parts), lines, total, tell.used_held_out


def make_word_problem(r):
    while True:
        question, lines, result, _ = word_problem(r)
        if not held_out("words", question):
            break
    boxed, thinking = r.random() < 0.4, r.random() < 0.3
    prompt = BOXED + question if boxed else question
    final = f"\\boxed{{{result}}}" if boxed else f"The answer is {result}."
    steps = "\n".join(lines)
    reply = f"<|channel>thought\n{steps}\n<channel|>{final}" if thinking else f"{steps}\n{final}"
    return prompt, reply, thinking


# ---- bare arithmetic ----

ASK_ARITHMETIC = ["What is {e}?", "{e} = ?", "Compute {e}.", "Calculate {e}", "How much is {e}?", "{e}", "Please work out {e}.", "Tell me {e}.", "Solve {e}.", "Give me the result of {e}.", "I need {e}.", "{e} =", "What does {e} make?",
                  "what is {e}", "Can you calculate {e}?", "Hi, what is {e}?"]


def columns(a, b, op):
    """Digit by digit from the right, with carries or borrows."""
    lines, carry, i = [], 0, 0
    x, y = str(a)[::-1], str(b)[::-1]
    while i < max(len(x), len(y)):
        p, q = int(x[i]) if i < len(x) else 0, int(y[i]) if i < len(y) else 0
        s = p + q + carry if op == "+" else p - q - carry
        lines.append(f"{p} {op} {q} {op} {carry} = {s}")
        carry = s // 10 if op == "+" else (1 if s < 0 else 0)
        i += 1
    return "\n".join(lines)


def product_steps(a, b):
    tens, ones = b // 10 * 10, b % 10
    return f"{a} * {tens} = {a * tens}\n{a} * {ones} = {a * ones}\n{a * tens} + {a * ones} = {a * b}" if tens and ones else f"{a} * {b} = {a * b}"


def arithmetic(r):
    """(expression, result, steps, whether the steps are shown also without thinking)"""
    kind = r.random()
    size = lambda: r.choice([r.randint(0, 9), r.randint(10, 99), r.randint(100, 999), r.randint(100, 999), r.randint(1000, 9999), r.randint(1000, 9999)])
    if kind < 0.31:
        a, b = size(), size()
        return f"{a} + {b}", a + b, columns(a, b, "+"), False
    if kind < 0.61:
        a, b = sorted((size(), size()), reverse=True)
        return f"{a} - {b}", a - b, columns(a, b, "-"), False
    if kind < 0.79:
        a, b = r.randint(2, 99), r.choice([r.randint(2, 9), r.randint(2, 30), r.randint(11, 99)])
        return f"{a} * {b}", a * b, product_steps(a, b), a > 9 and b > 9 and b % 10 > 0
    if kind < 0.91:
        b, q = r.randint(2, 12), r.randint(2, 99)
        return f"{b * q} / {b}", q, f"{b} * {q} = {b * q}", False
    a, b, c = r.randint(1, 99), r.randint(1, 99), r.randint(1, 99)
    return f"{a} + {b} + {c}", a + b + c, f"{a} + {b} = {a + b}\n{a + b} + {c} = {a + b + c}", True


def arithmetic_is_held_out(e):
    return held_out("arith", e) and any(int(x) >= 10 for x in e.split() if x.isdigit())


def make_arithmetic(r):
    while True:
        e, result, steps, shown = arithmetic(r)
        if not arithmetic_is_held_out(e):
            break
    thinking = r.random() < 0.3
    if thinking:
        reply = f"<|channel>thought\n{steps}\n<channel|>{e} = {result}"
    else:
        reply = f"{steps}\n{e} = {result}" if shown else f"{e} = {result}"
    return r.choice(ASK_ARITHMETIC).format(e=e), reply, thinking
