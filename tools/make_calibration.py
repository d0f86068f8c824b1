#!/usr/bin/env python3
"""Writes models/calibration.jsonl, the text that `nibble quantize` calibrates with when no file is named: our own words, of many kinds.

    tools/make_calibration.py            prose and conversations from this file, excerpts of this repository's documents and code, its prompts and evaluation items
"""
import json
import pathlib

REPO = pathlib.Path(__file__).resolve().parent.parent

PROSE = [
    "The ferry from the mainland was late again, and by the time it reached the harbour the market had half emptied. Fishermen were hosing down the stones. A boy sold the last of the plums from a wooden crate, two coins a bag, and would not be bargained with. Above the roofs the bells struck six, though everyone knew the clock ran seven minutes fast; it had been set that way in 1931 so that the night watch would never miss its boat, and nobody since had found a reason to change it.",
    "City council approves river crossing after nine years of debate. The bridge, which will carry two tram lines and a cycle path but no cars, is expected to cost 148 million and to open in the spring of 2029. Opponents had argued that the money would be better spent on the three existing crossings, two of which close whenever the water rises above 4.2 metres. In the end the vote was 31 to 24, with five members absent. Construction of the approach roads begins in October.",
    "Photosynthesis stores the energy of light in chemical bonds. In the first stage, pigments in the thylakoid membranes absorb photons and pass electrons along a chain of carriers; water is split, oxygen leaves, and a difference in proton concentration builds up across the membrane. That gradient drives the synthesis of ATP. In the second stage, which needs no light of its own, the enzyme RuBisCO fixes carbon dioxide onto a five-carbon sugar, and the products are reduced to the triose phosphates from which the plant builds everything else.",
    "To bake a plain loaf you need 500 g of strong flour, 340 g of water, 10 g of salt and 5 g of dry yeast. Mix until no dry flour is left, rest for twenty minutes, then fold the dough over itself four times at intervals of half an hour. Let it rise until it has doubled, shape it, and let it rise once more while the oven heats to 240 degrees. Bake for 35 minutes; the crust should sound hollow when you knock on the bottom. Wait an hour before cutting, hard as that may be.",
    "Let f be continuous on [a, b] and differentiable inside. We claim that some point c satisfies f'(c) = (f(b) - f(a)) / (b - a). Put g(x) = f(x) - f(a) - (x - a)(f(b) - f(a)) / (b - a). Then g(a) = g(b) = 0. If g is constant, every inner point will do. Otherwise g takes an extreme value at some inner point c, where g'(c) must vanish, and that equation is the claim. Note that continuity at the end points cannot be dropped: take f(x) = x for x < 1 and f(1) = 0.",
    "This Agreement is made between the Lessor and the Lessee for the premises at 14 Quarry Lane. The term is thirty-six months from the date of signature. Rent is payable in advance on the first working day of each month; a payment that arrives more than ten days late bears interest at four per cent per annum. The Lessee shall keep the premises in good repair, fair wear and tear excepted, and shall not sublet any part of them without the prior written consent of the Lessor, which shall not be unreasonably withheld.",
    "Patient, 58, was seen for shortness of breath on exertion over the past six weeks. No chest pain, no fever. Blood pressure 152/88, pulse 84 regular, saturation 96 % on room air. Fine crackles at both bases. The ECG shows sinus rhythm with voltage criteria for left ventricular hypertrophy. NT-proBNP is raised at 940. Plan: echocardiogram this week, start a loop diuretic, recheck potassium and creatinine in seven days, return at once if symptoms worsen at rest.",
    "Dear Ms Okafor, thank you for your letter of 3 March about the delayed refund. I have looked into it: the parcel reached our warehouse in Ghent on 11 February, but its label had come off and it was booked under another number. The 64.90 went back to your card this morning and should appear within three working days. I am sorry for the trouble, and for the two standard replies that helped nobody. If anything else is amiss, please write to me directly. With kind regards, Tomas Lindqvist",
    "MARA: You kept the letters? JON: Some. The ones that could be read. MARA: And the others? JON: (shrugs) The cellar floods every other spring. You know that. MARA: I know that you know it. A pause. Somewhere below them a pump starts, coughs, and settles into its rhythm. JON: I could tell you what they said. I read them often enough. MARA: No. I would rather remember them wrongly by myself.",
    "Die Brücke über den Fluss war seit dem Hochwasser gesperrt, und so nahmen wir den Umweg durch das Dorf. Vor der Bäckerei standen die Leute bis auf die Straße. Drinnen roch es nach Kümmel und warmem Teig; eine alte Frau zählte ihre Münzen, während der Lehrling die Bleche wechselte. Man sprach über das Wetter, über die Wahl und über den Preis von Heizöl, und niemand hatte es eilig.",
    "Le musée a rouvert ses portes au printemps, après quatre ans de travaux. On y entre désormais par la cour, sous une verrière qui laisse tomber la lumière du matin sur les dalles claires. Les collections n'ont pas changé, mais elles respirent : moins d'objets, plus d'espace, et des cartels que l'on peut lire sans se pencher. Le gardien, qui travaille là depuis trente ans, dit qu'il redécouvre chaque salle.",
    "El tren nocturno salió de la estación con veinte minutos de retraso. En el compartimento viajaban una maestra jubilada, dos estudiantes de medicina y un hombre que llevaba una jaula cubierta con una manta. Nadie preguntó qué había dentro. A eso de las tres, cuando las luces de la costa ya habían quedado atrás, la jaula empezó a cantar.",
    "No inverno a serra amanhece coberta de geada e os pastores descem com o gado para o vale. As casas de pedra, fechadas durante meses, guardam o cheiro da lenha. Quem fica conta as semanas pelas feiras: a de São Martinho, a das castanhas, a do fim do ano, quando se matam os porcos e se fecham as contas com os vizinhos.",
    "В конце улицы стоял дом с зелёной крышей, где раньше была школа. Теперь в нём жили две семьи и учитель музыки, который по вечерам открывал окно и играл на виолончели. Соседи привыкли и даже сверяли по нему часы: если звучала сарабанда, значит, пора ужинать.",
    "山の小さな駅には、一日に四本しか列車が来ない。駅長はもういないが、待合室の花はいつも新しい。近くに住む人が交代で水をやり、冬にはストーブに火を入れておく。旅人はたいてい驚き、それから時刻表を見て、もう一度腰を下ろす。",
    "图书馆在河边，门前有两棵很老的银杏。秋天的时候，学生们把落叶夹在书里，于是第二年春天，借书的人常常会翻到一片金黄的叶子。管理员从不把它们取走，她说，书也需要记住季节。",
    "في الصباح الباكر يفتح بائع الكتب دكانه قرب الجامع القديم، ويرتب الكتب على الرصيف صفا بعد صف. يعرف كل زبون باسمه، ويعرف ما قرأه في العام الماضي، وإذا سأله أحد عن كتاب لا يملكه قال: عد بعد صلاة الجمعة، وسأجده لك.",
    "पहाड़ी गाँव में बिजली शाम को ही आती थी, इसलिए बच्चे दिन के उजाले में पढ़ते और रात को कहानियाँ सुनते थे। दादी हर कहानी को थोड़ा बदल देतीं, और बच्चे हर बार पूछते कि पिछली बार तो राजा बच गया था।",
    "| quarter | units | revenue | returns |\n| --- | --- | --- | --- |\n| Q1 | 12,480 | 1.92 M | 2.1 % |\n| Q2 | 13,015 | 2.04 M | 1.8 % |\n| Q3 | 11,870 | 1.77 M | 2.6 % |\n| Q4 | 16,240 | 2.61 M | 3.0 % |\n\nThe third quarter suffered from the strike at the port; the fourth made up for it, at the price of more returns, most of them for transport damage.",
    "Release notes. Fixed: the importer no longer drops the last row of a file without a final newline. Fixed: time zones with half-hour offsets are shown correctly. Changed: exports are written to a temporary file and renamed, so a full disk never leaves half a report. New: `--since 2d` accepts durations. Known problem: on file systems without hard links the cache is rebuilt at every start; we are working on it.",
    "Question: A tank holds 600 litres. One pipe fills it in 20 minutes, another empties it in 30. Both are opened at once when the tank is a quarter full. When is it full? Answer: The first pipe brings 30 litres a minute, the second takes 20, so the tank gains 10 litres a minute. It lacks 450 litres, so it is full after 45 minutes.",
    "Abstract. We study how the rounding of weights to four bits changes the distribution of a language model's next token. Over 2,000 passages the mean divergence is 0.02 nats and the most likely token agrees in 95 % of positions; most disagreements happen where the original model itself gives its two best tokens nearly equal probability. We conclude that the usual benchmarks are too coarse to see the difference, and propose to report divergence beside accuracy.",
    "Moss on the north wall,\nthe gutter keeping its slow count,\na letter I meant to answer\nsoft now at the fold.\nWhoever lived here before us\nleft nails in all the right places.",
    "Safety data: store below 25 degrees in the original container, away from acids. In case of contact with eyes, rinse with plenty of water for fifteen minutes and seek medical advice. Do not empty into drains. Suitable extinguishing media: dry powder, carbon dioxide, alcohol-resistant foam. Decomposition above 180 degrees may release nitrogen oxides. UN number 1479, class 5.1, packing group II.",
]

TALKS = [
    [("user", "Can you explain recursion to a ten-year-old?"), ("assistant", "Imagine a stack of boxes, one inside the other. To find the toy in the smallest box you open the first box and say: now do the same thing with the box inside. You keep giving yourself the same, slightly smaller job until a box has no box inside it. That last box is where the job stops by itself. Recursion is just that: a rule that uses itself on something smaller, and knows when to stop.")],
    [("system", "You answer in one short paragraph."), ("user", "Why does ice float?"), ("assistant", "Because frozen water takes up more room than liquid water. In ice every molecule holds four neighbours at fixed angles, which leaves open spaces in the lattice, so the same mass fills about nine per cent more volume. Being less dense than the water around it, ice floats with roughly a tenth of it above the surface.")],
    [("user", "A train leaves at 14:35 and arrives at 17:10. It stands still for 25 minutes on the way. How long does it move?"), ("assistant", "From 14:35 to 17:10 are 2 hours 35 minutes, that is 155 minutes. Without the 25 minutes of standing still, 130 minutes remain. The train moves for 2 hours 10 minutes."), ("user", "And its average speed over 195 km, while moving?"), ("assistant", "130 minutes are 13/6 hours. 195 km divided by 13/6 h is 90 km/h.")],
    [("user", "Write a haiku about compilers."), ("assistant", "Three thousand errors\nfrom one missing semicolon:\nspring rain on the roof.")],
    [("user", "Translate to German: The invoice is due at the end of the month."), ("assistant", "Die Rechnung ist am Ende des Monats fällig.")],
    [("user", "Give me a Python function that returns the n largest words of a text by frequency."), ("assistant", "```python\nfrom collections import Counter\nimport re\n\ndef most_common_words(text, n):\n    words = re.findall(r\"[a-z']+\", text.lower())\n    return [word for word, _ in Counter(words).most_common(n)]\n```\n\nTies keep the order in which the words first appear, since `Counter` remembers insertion order.")],
    [("user", "I have 3 eggs, spinach and feta. What can I cook in 15 minutes?"), ("assistant", "A spinach and feta omelette. Wilt a handful of spinach in a little oil, two minutes, and set it aside. Beat the eggs with a pinch of salt, pour them into the hot pan and pull the edges inwards until the top is barely set. Scatter spinach and crumbled feta over one half, fold, wait thirty seconds, and slide it onto a plate. Pepper and a squeeze of lemon, if you have one.")],
    [("user", "What is the difference between TCP and UDP?"), ("assistant", "TCP gives you a connection: bytes arrive in order, lost ones are sent again, and the sender slows down when the network is full. UDP gives you single datagrams: cheap and immediate, but they may be lost, doubled or reordered, and nobody tells you. Use TCP where every byte counts, UDP where late data is worthless, or where you build your own rules on top, as QUIC does.")],
    [("user", "Summarize: The committee met on Tuesday. It discussed the budget for two hours, postponed the vote on the library, and elected Ms Adeyemi as chair."), ("assistant", "On Tuesday the committee debated the budget, postponed the library vote and elected Ms Adeyemi chair.")],
    [("user", "Extract the fields as JSON: 'Order 7781, two lamps and one rug, to be delivered to 9 Mill Road by Friday.'"), ("assistant", "{\"order\": 7781, \"items\": [{\"name\": \"lamp\", \"quantity\": 2}, {\"name\": \"rug\", \"quantity\": 1}], \"address\": \"9 Mill Road\", \"due\": \"Friday\"}")],
]

# (file, lines of an excerpt): what the program's own authors wrote.
EXCERPTS = [("README.md", 30), ("CONTRIBUTING.md", 30), ("docs/architecture.md", 24), ("docs/formats/checkpoint.md", 24), ("docs/formats/tasks.md", 24), ("docs/formats/grading.md", 24),
            ("docs/decisions/*.md", 40), ("src/engine/*.cpp", 40), ("src/model/*.cpp", 40), ("src/text/*.cpp", 40), ("src/kernels/cuda/*.cu", 40), ("src/server/*.cpp", 40),
            ("src/kernels/*.h", 40), ("src/engine/*.h", 40), ("training/*.py", 40), ("bench/*.py", 40), ("tests/e2e/*.py", 40), ("dev", 40), ("CMakeLists.txt", 30)]


def excerpts():
    for pattern, lines in EXCERPTS:
        for path in sorted(REPO.glob(pattern)):
            text = path.read_text().split("\n")
            # One a file, from a third of the way in.
            begin = len(text) // 3 if len(text) > 2 * lines else 0
            yield "\n".join(text[begin:begin + lines]).strip()


def prompts():
    rows = [json.loads(line) for line in (REPO / "bench/workloads/qualitative.jsonl").read_text().splitlines()]
    for row in rows[::22]:
        yield row["messages"]


def items():
    for name in ("wordmath-templates", "facts", "tools-seen", "chat"):
        rows = [json.loads(line) for line in (REPO / f"models/demo/eval/{name}.jsonl").read_text().splitlines()]
        for row in [row for row in rows if "messages" in row][::9][:8]:
            yield row["messages"]


def main():
    kinds = [[{"text": t} for t in PROSE], [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in TALKS], [{"text": t} for t in excerpts()],
             [{"messages": m} for m in prompts()], [{"messages": m} for m in items()]]
    # Mixed evenly, so that the first few samples are of all kinds.
    longest = max(map(len, kinds))
    placed = [((i + 0.5) * longest / len(kind), k, row) for k, kind in enumerate(kinds) for i, row in enumerate(kind)]
    out = REPO / "models/calibration.jsonl"
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for _, _, row in sorted(placed, key=lambda p: p[:2])))
    print(f"{out}: {len(placed)} samples, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
