#!/usr/bin/env python3
"""Writes the project's own load-test prompts: 11 categories x 80, original text, the same bytes for the same seed.

    tools/make_prompts.py --out bench/workloads/qualitative.jsonl
    tools/make_prompts.py --throughput 2k --count 1536 --tokenizer DIR --out throughput_2k.jsonl
    tools/make_prompts.py --measure bench/workloads/qualitative.jsonl --tokenizer DIR

Every sentence here was written for this project; names and facts are invented. One object a line: question_id (32 characters), category, messages.
"""
import argparse
import hashlib
import json
import random
import statistics

PEOPLE = "Amara Bo Celia Dmitri Elif Farid Greta Hugo Ines Jun Kofi Lena Mateo Nadia Oskar Priya Quentin Rosa Samir Tove Ulrich Vera Wim Xenia Yusuf Zofia".split()
TOWNS = "Alderhaven Brightmoor Calder Dunmere Eastvale Fernhollow Greywater Harrowgate Inverlock Juniper Kestrelford Lowmarsh Millbrook Northwick Oakhurst Pinecrest".split()
THINGS = ["lighthouse", "bakery", "greenhouse", "ferry", "observatory", "bicycle workshop", "community library", "water mill", "tram depot", "printing house", "seed bank", "radio station"]
GOODS = ["lamps", "notebooks", "pears", "bricks", "tickets", "candles", "maps", "batteries", "cups", "ropes", "seedlings", "tiles"]
MATERIALS = ["copper", "oak", "glass", "wool", "clay", "steel", "cork", "bamboo"]
TOPICS = ["tidal power", "beekeeping", "night trains", "soil erosion", "public lighting", "paper recycling", "bird migration", "bread making", "urban trees", "flood defence", "wind tunnels", "cold storage"]
MONTHS = "January February March April May June July August September October November December".split()


class Writer:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def pick(self, items):
        return self.r.choice(items)

    def some(self, items, n):
        return self.r.sample(items, n)

    def fill(self, text):
        """{person} {town} {thing} {goods} {material} {topic} {month} and {n:low:high}."""
        out = ""
        while "{" in text:
            head, _, rest = text.partition("{")
            slot, _, text = rest.partition("}")
            name, *bounds = slot.split(":")
            pools = {"person": PEOPLE, "town": TOWNS, "thing": THINGS, "goods": GOODS, "material": MATERIALS, "topic": TOPICS, "month": MONTHS}
            out += head + (str(self.r.randint(int(bounds[0]), int(bounds[1]))) if name == "n" else self.pick(pools[name]))
        return out + text

    def passage(self, sentences):
        """A made-up local report: an opening, then details in a random order, then an end."""
        town, thing, person, other = self.pick(TOWNS), self.pick(THINGS), *self.some(PEOPLE, 2)
        body = [s.replace("TOWN", town).replace("THING", thing).replace("P1", person).replace("P2", other) for s in self.some(DETAILS, min(sentences, len(DETAILS)))]
        opening = self.pick(OPENINGS).replace("TOWN", town).replace("THING", thing).replace("P1", person)
        return self.fill(" ".join([opening, *body]))


OPENINGS = [
    "The THING in TOWN was built in {n:1820:1985} and has been run by P1 since {n:1990:2019}.",
    "In {month} the council of TOWN decided to keep the old THING open for another {n:3:15} years.",
    "P1 first saw the THING in TOWN as a child and returned {n:12:40} years later to repair it.",
    "A report on the THING of TOWN was presented to {n:40:900} residents in {month}.",
]
DETAILS = [
    "Its roof is made of {material} and was replaced after the storm of {n:1951:2015}.",
    "About {n:200:9000} visitors came last year, most of them in {month}.",
    "P2 keeps the accounts and says that {n:8:35} percent of the budget goes to heating.",
    "A second entrance on the north side was closed because the ground there sinks by {n:2:14} millimetres a year.",
    "The oldest part, a room of {n:20:90} square metres, is still lit by the original lamps.",
    "Schools may visit free of charge if they write at least {n:5:30} days ahead.",
    "Three volunteers from {town} help on weekends and bring {goods} to sell at the gate.",
    "Engineers measured the walls in {month} and found {n:3:60} cracks, none of them dangerous.",
    "The {material} pipes in the cellar carry water at {n:4:60} degrees.",
    "P1 wants to add a small exhibition about {topic}, which would cost {n:4:80} thousand crowns.",
    "Not everyone agrees: P2 would rather spend the money on a ramp and a warmer waiting room.",
    "The last inspection took {n:2:11} hours and ended with a list of {n:4:25} small repairs.",
    "During the war the building stored {goods}, and a painted sign on the east wall still says so.",
    "A bus from {town} stops in front of it every {n:15:90} minutes, except on the first Monday of {month}.",
    "In a letter found behind a shelf, a former owner complains about the price of {material} and the noise of the river.",
    "The THING lends its hall to a choir of {n:9:45} singers on Thursdays.",
    "If the new pump works as planned, the yearly use of electricity falls from {n:60:95} to {n:20:55} megawatt hours.",
    "P2 remembers that the clock once stopped for {n:2:19} weeks because a bird had nested in the gears.",
    "TOWN has promised to pay a third of the costs, provided that the rest is raised before {month}.",
    "The garden behind it holds {n:12:140} kinds of herbs, each with a small {material} label.",
]

LANGUAGES = ["Python", "C", "C++", "Rust", "Go", "JavaScript", "TypeScript", "Java", "SQL", "Bash"]
CODE_TASKS = [
    "reads a file of readings, one `{town},value` pair per line, and prints the mean and the largest value of each place",
    "merges overlapping time intervals and returns them in ascending order",
    "keeps the {n:5:50} most recently used entries and forgets the rest",
    "turns a duration such as `2h{n:1:59}m` into seconds and rejects anything malformed with a clear message",
    "finds the shortest route between two stations in an unweighted map of tram lines",
    "counts how often each word follows another one in a text and prints the {n:3:20} most frequent pairs",
    "validates that brackets of three kinds are balanced and reports the position of the first mistake",
    "splits a list of {goods} orders into batches whose total weight stays below {n:10:90} kilograms",
    "schedules {n:3:12} machines so that no two neighbouring ones start within the same minute",
    "compresses runs of equal bytes and restores them, with a test for the empty input",
    "rotates an n by n matrix in place by a quarter turn",
    "parses a small arithmetic language with plus, times and brackets and evaluates it without using eval",
]
CODE_EXTRAS = ["Explain its running time in one sentence.", "Include three tests that cover the edge cases.", "Do not use any library outside the standard one.", "Comment only what is not obvious.", "Then show how one would call it.", "Point out one input on which a naive version fails.", "Use clear names; avoid global state."]
SNIPPETS = [
    ("def total(prices, rate):\n    sum = 0\n    for p in prices:\n        sum =+ p\n    return sum * (1 + rate)\n", "It returns far too small a result for [{n:3:40}, {n:3:40}] at a rate of 0.{n:10:25}."),
    ("def first_gap(ids):\n    for i in range(len(ids)):\n        if ids[i + 1] - ids[i] > 1:\n            return ids[i] + 1\n    return None\n", "It crashes when there is no gap among {n:3:40} ids."),
    ("int find(const int* a, int n, int key) {\n  int lo = 0, hi = n;\n  while (lo < hi) {\n    int mid = (lo + hi) / 2;\n    if (a[mid] < key) lo = mid; else hi = mid;\n  }\n  return lo;\n}\n", "With {n:3:40} elements it sometimes never returns."),
    ("function unique(list) {\n  const out = [];\n  for (const x in list) {\n    if (!out.includes(x)) out.push(x);\n  }\n  return out;\n}\n", "For a list of {n:3:40} names of {goods} it returns only numbers."),
]

TRANSLATED = {  # language: (request about a topic, five topics)
    "German": ("Erkläre in drei kurzen Absätzen, wie {} funktioniert, nenne zwei Vorteile und einen Nachteil und schließe mit einem Beispiel aus dem Alltag.", ["eine Wärmepumpe", "die Gezeitenkraft", "ein Kompass", "die Mülltrennung", "eine Bibliothek"]),
    "French": ("Explique en termes simples {} à un enfant de dix ans, puis propose une petite expérience que l'on peut faire à la maison sans danger.", ["pourquoi le ciel est bleu", "comment pousse un haricot", "ce qu'est l'électricité", "comment naît le vent", "pourquoi la glace flotte"]),
    "Spanish": ("Escribe una carta breve y amable al ayuntamiento para pedir {}. Da dos razones concretas y propone una fecha para hablar del asunto.", ["más árboles en la plaza", "un carril para bicicletas", "una fuente nueva", "un horario más largo de la biblioteca", "menos ruido por la noche"]),
    "Italian": ("Descrivi {} in un testo di circa cento parole, usando almeno tre aggettivi e un paragone, e aggiungi alla fine un titolo adatto.", ["un mercato al mattino", "una stazione vuota", "il mare d'inverno", "una vecchia officina", "un giardino dopo la pioggia"]),
    "Portuguese": ("Faz uma lista de sete conselhos práticos para {} e explica em uma frase por que cada um deles ajuda.", ["poupar água em casa", "aprender uma língua nova", "viajar de comboio", "cuidar de plantas", "organizar uma festa de bairro"]),
    "Dutch": ("Vergelijk {} en geef daarna in twee zinnen je eigen advies voor een klein gezin in een stad met veel regen.", ["de fiets en de tram", "een huurhuis en een koophuis", "papieren boeken en digitale boeken", "thuis koken en uit eten gaan", "een moestuin en een balkon met potten"]),
    "Polish": ("Napisz krótkie opowiadanie o {}. Akcja ma się toczyć zimą, a zakończenie powinno zaskoczyć czytelnika.", ["zegarmistrzu z małego miasta", "zagubionym liście", "starej latarni", "psie, który znał drogę", "pociągu bez pasażerów"]),
    "Czech": ("Vysvětli rozdíl mezi {} a uveď ke každému pojmu jeden příklad ze života.", ["počasím a podnebím", "teplem a teplotou", "hmotností a vahou", "řekou a potokem", "příčinou a následkem"]),
    "Swedish": ("Skriv en dialog mellan två grannar som talar om {}. Den ena är orolig, den andra hoppfull, och till sist hittar de en lösning.", ["den nya bron", "snöröjningen", "en borttappad katt", "trädgården på gården", "sommarens fest"]),
    "Finnish": ("Kerro lyhyesti, miten {} valmistetaan, ja luettele tarvittavat aineet sekä tavallisin virhe, jonka aloittelija tekee.", ["ruisleipä", "mustikkapiirakka", "lohikeitto", "paperi", "kynttilä"]),
    "Turkish": ("{} hakkında beş cümlelik bir tanıtım yazısı yaz ve sonunda okuyucuya düşündürücü bir soru sor.", ["eski bir köprü", "gece pazarı", "bir deniz feneri", "köy okulu", "küçük bir müze"]),
    "Greek": ("Γράψε μια σύντομη περιγραφή για {} και εξήγησε γιατί είναι σημαντικό για την πόλη.", ["ένα παλιό λιμάνι", "τη δημοτική βιβλιοθήκη", "τον βοτανικό κήπο", "ένα μικρό θέατρο", "το τραμ"]),
    "Russian": ("Объясни простыми словами, что такое {}, и приведи два примера, которые поймёт школьник.", ["трение", "фотосинтез", "инфляция", "эхо", "равновесие"]),
    "Ukrainian": ("Напиши короткий лист другові про {}: розкажи, що тебе здивувало, і запроси його приїхати влітку.", ["подорож у гори", "нову роботу в пекарні", "музей годинників", "першу зиму в місті", "сад бабусі"]),
    "Arabic": ("اكتب فقرة قصيرة عن {} واذكر فيها سببين يجعلان الناس يهتمون بهذا الموضوع.", ["القراءة قبل النوم", "الطاقة الشمسية", "الأسواق القديمة", "الحدائق العامة", "السفر بالقطار"]),
    "Hindi": ("{} के बारे में एक छोटा अनुच्छेद लिखो और अंत में तीन उपयोगी सुझाव दो।", ["पानी की बचत", "सुबह की सैर", "पुस्तकालय", "मौसम की भविष्यवाणी", "घर की बागवानी"]),
    "Chinese": ("请用简单的语言解释{}，并举两个生活中的例子，最后用一句话总结。", ["什么是复利", "为什么会有潮汐", "疫苗的作用", "回声的原理", "城市为什么需要树木"]),
    "Japanese": ("{}について、初心者にもわかるように三つの段落で説明し、最後によくある間違いを一つ挙げてください。", ["味噌汁の作り方", "地震への備え", "自転車の手入れ", "図書館の使い方", "星の観察"]),
    "Korean": ("{}에 대해 장점 두 가지와 단점 두 가지를 쓰고, 마지막에 자신의 의견을 한 문장으로 적어 주세요.", ["재택근무", "대중교통", "종이책", "도시 농업", "새벽 운동"]),
    "Vietnamese": ("Hãy viết một đoạn văn ngắn về {} và nêu ba lý do vì sao điều đó quan trọng đối với một thành phố nhỏ.", ["chợ nổi", "cây xanh", "xe buýt điện", "thư viện", "nước sạch"]),
    "Indonesian": ("Buatlah panduan singkat tentang {} untuk pemula, lengkap dengan daftar alat dan satu peringatan keselamatan.", ["merawat sepeda", "menanam cabai", "membuat kompos", "mendaki gunung", "memasak untuk banyak orang"]),
    "Swahili": ("Andika maelezo mafupi kuhusu {} na utoe mifano miwili kutoka maisha ya kila siku.", ["umuhimu wa maji safi", "biashara ndogo", "usafiri wa umma", "kilimo cha mboga", "hadithi za wazee"]),
    "Hebrew": ("כתוב פסקה קצרה על {} והוסף בסוף שתי שאלות שאפשר לשאול תלמידים.", ["חיסכון במים", "שוק ישן", "תחבורה ציבורית", "גינה קהילתית", "ספריה שכונתית"]),
}

MATH = [
    "A workshop in {town} makes {n:12:48} {goods} an hour. After {n:2:6} hours a second machine that is {n:2:3} times as fast joins in. How many {goods} are finished after {n:8:12} hours? Show each step.",
    "{person} cuts a {material} rod of {n:120:480} cm into two pieces so that one is {n:2:5} times as long as the other, then shortens the longer one by {n:1:9} cm. How long are the two pieces?",
    "A tank holds {n:300:900} litres. One pipe fills it in {n:4:9} hours, another empties it in {n:11:19} hours. Both are open. When is the tank full, starting from empty? Give the answer as a fraction and in minutes.",
    "Find all integers x with {n:2:9}x + {n:10:60} < {n:90:200} and x^2 > {n:30:90}. Explain how you excluded the others.",
    "In a class of {n:22:34} pupils, {n:9:14} play chess, {n:8:13} sing, and {n:2:6} do both. One pupil is chosen at random. What is the probability that this pupil does neither?",
    "{person} saves {n:20:60} crowns in {month}, and in each later month {n:3:12} crowns more than in the month before. After how many months are there more than {n:800:2000} crowns? Derive the formula that you use.",
    "A rectangle has a perimeter of {n:40:96} cm and an area that is as large as possible under the condition that one side is at least {n:3:9} cm longer than the other. Determine its sides.",
    "Prove that the sum of {n:3:9} consecutive odd numbers is divisible by that count. Then say whether the same holds for consecutive even numbers, with a reason.",
    "The price of {goods} rises by {n:5:30} percent and later falls by {n:5:30} percent. Is the final price higher or lower than the first one, and by how many percent? Would the order of the changes matter?",
    "Two trains leave {town} and {town}, {n:180:640} km apart, at the same time, at {n:60:110} km/h and {n:70:140} km/h. A bird flies back and forth between them at {n:20:55} km/h until they meet. How far does it fly?",
]
HUMANITIES = [
    "Compare two ways of telling the history of a town: through its buildings and through the letters of its people. Use the invented {thing} of {town} as an example, and say which sources could mislead a historian and how one would notice.",
    "A philosopher claims that a promise made to someone who has forgotten it no longer binds. {person} disagrees. Write both arguments in their strongest form, about a hundred words each, and then name the premise on which they really differ.",
    "Explain how the price of {material} could have shaped the daily life of a harbour town around {n:1500:1900}. Treat trade, work, clothing and language, and mark clearly what you know and what you infer.",
    "Describe how a museum should present an object whose origin is disputed, such as a box of {goods} that two towns claim. Which labels would you write, which voices would you include, and what would you leave out?",
    "What changes in a society when most people learn to read within {n:20:60} years? Discuss law, religion, family and the market, with one cautious generalization for each.",
    "Give a short account of why borders are often drawn along rivers, why that causes trouble, and how a treaty between {town} and {town} might have handled a river that moves by {n:2:30} metres a year.",
    "Interpret this invented proverb: 'Who lends a ladder should not ask about the roof.' Offer three readings, one moral, one political and one comic, and say in what situation a speaker would use each of them.",
    "Outline an essay of {n:800:2000} words on whether a city should rename its streets. Give the thesis, five paragraphs with one claim and one piece of evidence each, and the best objection.",
]
QA = [
    "Why does a {material} spoon feel colder than a wooden one in the same room?",
    "What is the difference between weather and climate, and how many years of data does one usually ask for?",
    "How does a {thing} work, and which part of it fails most often?",
    "Which steps should I take if I lock myself out of a flat in {town} on a Sunday evening in {month}?",
    "Is it safe to store {goods} next to a heater, and what would you check first?",
    "How many hours of daylight are there at the equator in {month}, and why does the number hardly change?",
    "What does a notary do that a lawyer does not?",
    "Why do ships float although they are made of steel, and how much water does a ship of {n:200:9000} tonnes push aside?",
    "Who decides what a word means, and how does a new word enter a dictionary?",
    "What is the safest way to carry {n:12:60} {goods} up {n:3:9} flights of stairs?",
    "How can I tell whether a claim about {topic} that I read online is true?",
    "Why is bread dough kneaded, and what happens if one skips it?",
]
QA_TAIL = ["Answer in at most {n:3:8} sentences.", "Give the short answer first, then the reason.", "If it depends, say on what.", "Mention one common mistake.", "I am {n:9:80} years old, so please choose the words accordingly.", "Name how sure you are."]
REASONING = [
    "{n:4:6} friends sit in a row. {person} is not at an end, {person} sits directly left of {person}, and whoever brought the {goods} sits next to the one who brought the {goods}. Is the order fixed? List all orders that fit, or show that there is a contradiction, and explain every step.",
    "A guard in {town} says: 'If the gate was open at {n:1:11} o'clock, then either the lamp was lit or I was asleep.' We know that the lamp was out. Which of these follow: the gate was closed; the guard slept; nothing at all? Justify each answer.",
    "There are three boxes labelled {goods}, {goods} and mixed. Every label is wrong. You may take one item out of one box. Which box do you choose, and why is that enough? Then say what changes if only two of the labels are wrong.",
    "{person} must bring a wolf-dog, a goat and a sack of {goods} across the river near {town} in a boat that holds one of them. The dog and the goat, and the goat and the sack, cannot be left alone. Find a shortest plan and prove that no shorter one exists.",
    "A report says that people who own {goods} live {n:2:6} years longer. Give four explanations that do not involve the {goods} causing anything, and design a study for {n:200:900} people that would tell them apart.",
    "Two clocks in the {thing} differ: one gains {n:2:9} minutes a day, the other loses {n:2:9}. Both were right at noon on the first of {month}. When do they next show the same time, and when do both show the right one? Beware of the difference between 12 and 24 hours.",
    "Plan a day for {person}: {n:4:7} errands in {town}, of which two need daylight, one must happen before the shop closes at {n:15:19} o'clock, and one takes exactly {n:35:95} minutes. State your assumptions, give the timetable, and name the first thing that you would drop.",
    "Someone argues: 'All who repair the {thing} are careful. {person} is careful. So {person} repairs the {thing}.' Name the mistake, show it with a small diagram in words, and change one sentence so that the conclusion follows.",
]
ROLES = ["a patient lighthouse keeper who has not spoken to anyone for {n:3:30} days", "a retired tram driver from {town} who answers with small stories", "the night clerk of a small hotel who suspects that a guest is not who they claim to be", "a ship's cook who explains everything through soup", "a strict but fair chess teacher", "a talking {thing} that is proud of its {material} parts", "a detective who solves cases only by asking polite questions", "a botanist on the first ship to a far island in {n:1700:1850}"]
ROLE_LINES = ["Good evening. My {goods} have vanished, and I was told that you notice everything.", "I have to give a speech in {town} tomorrow and I am afraid. What should I do?", "People say that you once met {person}. Is that true, and what happened?", "It is raining, the last bus has gone, and I have {n:2:40} crowns. Help me.", "Teach me the one thing that you wish you had known at my age.", "I do not believe a word of what you told me in {month}."]
ROLE_TAIL = ["Stay in character, and end with a question.", "Answer in no more than {n:60:160} words.", "Never mention that you are a model.", "Use one image from your trade.", "Let me feel that you are hiding something."]
STEM = [
    "Explain why a {material} bar of {n:1:4} metres gets longer when it is warmed by {n:10:60} degrees. Estimate by how much, with the constant that you assume, and say why a bridge near {town} has gaps in its road.",
    "Describe how a cell copies its DNA, which errors can happen, and how about one in {n:2:9} billion letters still goes wrong. Use an analogy with the printing of a book, and say where the analogy ends.",
    "A circuit has a battery of {n:3:24} volts and three resistors of {n:2:9}, {n:10:40} and {n:50:99} ohms. Compare all of them in series with all of them in parallel: total resistance, total current, and the power in the smallest resistor.",
    "Why does water in {town} boil at {n:88:98} degrees? Derive roughly how high the town lies, name the assumption that matters most, and explain what it means for cooking beans.",
    "What is the difference between precision and accuracy? Illustrate it with {n:5:12} made-up readings of a thermometer in the {thing}, compute mean and standard deviation, and interpret them.",
    "Explain to a first-year student how a hash table works, why it is fast, and what happens as it fills to {n:60:95} percent. Include a small example with {n:5:11} buckets.",
    "Describe the life of a star of about {n:2:20} solar masses from cloud to end. For each stage say what balances gravity, and how we know, since nobody has watched it.",
    "A ball is thrown at {n:8:30} metres per second at an angle of {n:20:70} degrees. Ignoring the air, compute how high and how far it flies. Then discuss how wind across a field near {town} would change your answer.",
    "Compare lithium cells and lead batteries for a boat that carries {n:2:9} people: energy per kilogram, cost, cold weather in {month}, safety and recycling. Finish with a recommendation for {person}, who sails once a week.",
]
WRITING = [
    "Write a short story of about {n:150:400} words in which {person} finds a box of {goods} in the {thing} of {town}. It must contain one lie, one weather report and no dialogue, and the last sentence should change how we understand the first.",
    "Write a poem of {n:3:6} stanzas about {topic} as seen by someone who works at night. Use plain words, no rhyme in the first stanza and a full rhyme in the last.",
    "Draft an e-mail from {person} to the staff of the {thing}: the opening is delayed by {n:2:9} weeks, the reason is embarrassing but harmless, and the tone should be calm. Add a subject line and a version for the notice board in two sentences.",
    "Write the opening page of a novel set in {town} in {month}. The narrator repairs {goods} for a living, distrusts {person}, and has {n:2:9} hours to leave the town. Show, do not explain.",
    "Compose a product description for a set of {material} {goods} that is honest about one weakness. About {n:80:160} words, then three slogans, of which one is deliberately too long.",
    "Rewrite this sentence in five styles, a fairy tale, a police report, a sports commentary, a letter to a child, and a legal clause: '{person} carried the {goods} across the bridge at {town} before the rain came.'",
    "Write a dialogue between an old {thing} and the engineer who wants to replace it. Twelve lines, no names before the lines, and both of them must be right about something.",
    "Write a speech of {n:120:260} words for the opening of a {thing} in {town}. Thank {person}, mention the delay, make one joke about {goods}, and close with a picture that the audience will remember.",
]
READERS = ["I will read it aloud to {person} on the way to {town}.", "It is for {person}, who asked me in {month} and is still waiting.", "{person} and {person} will compare it with their own attempt.", "I have {n:5:50} minutes before the bus to {town} leaves.",
           "Please write as if for the {thing} of {town}.", "I failed at this once in {month}, so take your time.", "A group of {n:4:30} people will discuss it afterwards.", "Keep {person} in mind, who sells {goods} and likes short words."]
FOLLOW_UPS = ["Now make it half as long.", "Which part of your answer are you least sure of?", "Give the same answer to a child of eight.", "Turn that into a numbered list.", "What would someone who disagrees say?"]
SUMMARY_ASKS = ["Summarize the text in {n:2:4} sentences for a local newspaper.", "Summarize the text as five bullet points, numbers included.", "Write a headline and a summary of at most {n:30:70} words.", "Sum up who wants what in this text, and what is still undecided."]
RAG_ASKS = ["Using only the passages, answer: how is the {thing} in the first passage financed, and what is disputed? Quote the words that you rely on, with the number of the passage. If the passages do not say it, say so.",
            "Using only the passages, answer: which of the places was inspected or measured, and with what result? Give the number of the passage for every claim.",
            "Using only the passages, list every number that concerns visitors, money or repairs, with its passage. Do not add anything from outside.",
            "Using only the passages, say which of the places would suit a school class of {n:18:30} children, and name what is not known."]


def prompt_of(category, w, index):
    if category == "coding":
        if index % 4 == 3:
            code, symptom = w.pick(SNIPPETS)
            return w.fill("The following function does not do what it should. " + symptom) + f"\n\n```\n{code}```\n\n" + w.fill("Find the mistake, explain it in one or two sentences, and give a corrected version. " + w.pick(CODE_EXTRAS))
        return w.fill(f"Write a function in {w.pick(LANGUAGES)} that {w.pick(CODE_TASKS)}. It is part of a small tool that {{person}} uses in the {{thing}} of {{town}}, where the input can have up to {{n:2:90}} thousand lines and is sometimes empty. "
                      + " ".join(w.some(CODE_EXTRAS, 3)))
    if category == "multilingual":
        language = list(TRANSLATED)[index % len(TRANSLATED)]
        pattern, topics = TRANSLATED[language]
        return pattern.format(topics[index // len(TRANSLATED) % len(topics)])
    if category == "rag":
        passages = [w.passage(w.r.randint(3, 5)) for _ in range(3)]
        return "\n\n".join(f"[{i + 1}] {p}" for i, p in enumerate(passages)) + "\n\n" + w.fill(w.pick(RAG_ASKS))
    if category == "summarization":
        return w.fill(w.pick(SUMMARY_ASKS)) + "\n\n" + w.passage(w.r.randint(9, 14))
    if category == "roleplay":
        return w.fill(f"You are {w.pick(ROLES)}. I am a visitor who has come a long way to see you, and it is late in {{month}}. {' '.join(w.some(ROLE_TAIL, 2))}\n\nWhat you know about the place: ") + w.passage(2) + w.fill(f"\n\nI say: \"{w.pick(ROLE_LINES)}\"")
    if category == "qa":
        return w.fill(w.pick(QA) + " " + " ".join(w.some(QA_TAIL, 2)) + " I ask because I read this today: ") + w.passage(2)
    pool = {"math": MATH, "humanities": HUMANITIES, "reasoning": REASONING, "stem": STEM, "writing": WRITING}[category]
    extra = {"math": " State the result on a line of its own, and check it by putting it back into the problem. If a number turns out not to be whole, round it only at the very end and say so.",
             "stem": " Keep the units in every line, and finish with one sentence on what you left out. A drawing in plain text is welcome where it helps.",
             "reasoning": " Do not guess: if something is not determined, say which further fact would settle it. Number your steps so that I can refer to them.",
             "humanities": " Write for a reader who is curious but has no background in the subject, avoid jargon, and do not invent quotations.", "writing": " Avoid clichés, and do not explain afterwards what you did."}[category]
    text = w.fill(pool[index % len(pool)] + extra + " " + w.pick(READERS))
    if category in ("writing", "humanities"):
        text += "\n\nYou may draw on this note from the archive, but need not: " + w.passage(2)
    return text


CATEGORIES = ["coding", "humanities", "math", "multilingual", "qa", "rag", "reasoning", "roleplay", "stem", "summarization", "writing"]


def row(category, index, turns):
    name = hashlib.sha256(f"nibble {category} {index}".encode()).hexdigest()[:32]
    return {"question_id": name, "category": category, "messages": [{"role": "user", "content": t} for t in turns]}


def qualitative(seed):
    rows, seen = [], set()
    for category in CATEGORIES:
        w = Writer(f"{seed} {category}")
        for index in range(80):
            text = prompt_of(category, w, index)
            for _ in range(50):
                if text not in seen:
                    break
                text = prompt_of(category, w, index)
            seen.add(text)
            turns = [text]
            if index % 8 == 5:
                turns.append(w.pick(FOLLOW_UPS))
            rows.append(row(category, index, turns))
    assert len(seen) == 880, len(seen)
    return rows


def throughput(size, count, seed, tokenizer):
    """Prompts of one length in three tiers of entropy: sorting lists, passages with questions, open writing."""
    tokens = int(size.rstrip("k")) * 1024
    rows = []
    for index in range(count):
        tier = ["low_entropy", "mixed", "high_entropy"][index * 3 // count]
        w = Writer(f"{seed} {size} {index}")
        pieces = {"low_entropy": lambda: ", ".join(w.some([f"{g} {n}" for g in GOODS for n in range(10, 90)], 12)) + ",\n", "mixed": lambda: w.passage(8) + "\n\n", "high_entropy": lambda: w.fill(w.pick(WRITING)) + "\n"}[tier]
        ask = {"low_entropy": "Sort this list by name and then by number:\n", "mixed": "Read the passages and list every number with its meaning.\n\n", "high_entropy": "Write one long text that does all of the following, in order:\n"}[tier]
        text = ask
        while len(tokenizer(text)) < tokens:
            text += pieces()
        low, high = 0, len(text)
        while low < high:  # the longest start with so many tokens
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(tokenizer(text[:middle])) <= tokens else (low, middle - 1)
        rows.append(row(tier, index, [text[:low]]))
    return rows


def load_tokenizer(folder):
    from tokenizers import Tokenizer

    t = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return lambda text: t.encode(text, add_special_tokens=False).ids


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out")
    p.add_argument("--seed", default="nibble-1")
    p.add_argument("--throughput", choices=["1k", "2k", "8k", "16k", "32k"])
    p.add_argument("--count", type=int, default=1536)
    p.add_argument("--tokenizer")
    p.add_argument("--measure")
    a = p.parse_args()
    if a.measure:
        count = load_tokenizer(a.tokenizer)
        rows = [json.loads(line) for line in open(a.measure)]
        lengths = sorted(len(count(r["messages"][0]["content"])) for r in rows)
        print(f"{len(lengths)} prompts, mean {statistics.mean(lengths):.1f}, p50 {lengths[len(lengths) // 2]}, p90 {lengths[int(0.9 * (len(lengths) - 1))]}, max {lengths[-1]}")
        for c in sorted({r['category'] for r in rows}):
            print(f"  {c}: {statistics.mean(len(count(r['messages'][0]['content'])) for r in rows if r['category'] == c):.1f}")
        return
    rows = throughput(a.throughput, a.count, a.seed, load_tokenizer(a.tokenizer)) if a.throughput else qualitative(a.seed)
    with open(a.out, "w") as f:
        for r in rows:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
