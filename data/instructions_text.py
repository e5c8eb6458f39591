"""The requests of `instructions` in plain English, and answers that meet their constraints."""

import json
import random

from r1lab.rewards.constraints import num_sentences, num_words

TOPICS = (
    "tea rain bread music trees chess winter bicycles cats cities coffee dreams friendship gardens glass history ice "
    "islands kites lakes language libraries light maps markets memory mirrors money mountains numbers oceans owls "
    "painting paper patience planets poetry rivers roads salt schools shoes silence sleep snow soup stars stories "
    "summer sunlight swimming teachers theatre time toys trains travel villages voices walking water weather wind "
    "windows wine wood work"
).split()
REQUESTS = (
    "Write about {topic}.",
    "Tell me something about {topic}.",
    "Say what you think of {topic}.",
    "Explain {topic} to a friend.",
    "Give some advice on {topic}.",
    "Describe {topic} to a child.",
)
KEYWORDS = (
    "anchor basket candle dragon engine feather hammer jacket kettle ladder magnet needle orange pencil rabbit saddle "
    "tunnel velvet wallet yellow"
).split()
# Of each length in words, sentences without commas, keywords, capitals within, and the rarest letters.
SENTENCES = {
    2: ("This helps.", "It matters.", "Try it.", "Time passes.", "People differ.", "Start small."),
    3: ("That is true.", "It takes time.", "We all learn.", "There is more.", "Look around you."),
    4: ("It is worth it.", "You can see that.", "There is no hurry.", "We often forget this."),
    5: ("Many people agree with this.", "It can be very simple.", "The rest will come later.", "Each day is a start."),
    6: ("You can start with small steps.", "There is a lot to like.", "Some days are better than others."),
    7: ("It is good to share what helps.", "We learn most of it from others.", "There is much more to it than that."),
    8: ("A good plan makes the rest much easier.", "You will find that it gets better soon."),
    9: ("The best part is that it can be shared.", "Some people like it a lot and some do not."),
    10: ("It is hard to say more about it in one line.", "There are not many things that can make us feel better."),
}
FIRST = ("Let me start here.", "Here is my view.", "This is what I think.", "There is a lot to say.")
LAST = ("That is all.", "I hope this helps.", "This is the end.", "Thank you for your time.")
OPENERS = ("However", "Still", "Often", "Today", "Sometimes")
PLACEHOLDERS = ("name", "place", "date", "address", "number", "title")
HIGHLIGHTS = ("patience", "practice", "care", "courage", "a plan", "a friend")
CAPITALS = ("VERY", "REALLY", "TRULY", "ALWAYS", "OFTEN", "NEVER")
LETTERS = {"z": "A lazy breeze is amazing.", "j": "Just enjoy it.", "q": "Be quite quiet.", "x": "Relax and mix it."}
_ON_TOPIC = ("I like", "I often think of", "There is much to say of")
OPTIONS = (["Yes", "No", "Maybe"], ["True", "False"], ["Good", "Bad"], ["More", "Less", "The same"])

KINDS = (
    "num_words", "num_sentences", "num_paragraphs", "num_bullets", "num_placeholders", "num_highlights",
    "num_sections", "num_capital_words", "keyword_count", "letter_count", "keywords", "forbidden_words", "lower_case",
    "upper_case", "title", "json_only", "starts_with", "ends_with", "quoted", "no_commas", "script", "two_responses",
    "postscript", "repeat_prompt", "paragraph_starts", "one_of",
)  # fmt: skip


def draw_request(kinds: list[str], rng: random.Random) -> tuple[str, list[dict], str, str]:
    """A request for these kinds of constraint: the prompt, the constraints, a thinking and an answer.

    The answer meets the constraints unless they contradict each other or are too hard for it, which the caller checks.
    """
    request = rng.choice(REQUESTS).format(topic=rng.choice(TOPICS))
    asked, phrases = zip(*(_constraint(kind, request, rng) for kind in kinds))
    prompt = " ".join([request, *phrases])
    notes = "; ".join(phrase.rstrip(".") for phrase in phrases)
    return prompt, list(asked), f"What is asked: {notes}.", _answer(topic_of(request), list(asked), rng)


def topic_of(prompt: str) -> str:
    """The topic of a request.

    >>> topic_of("Explain tea to a friend. Use no commas.")
    'tea'
    """
    return next(word for word in prompt.partition(".")[0].split() if word in TOPICS)


def _constraint(kind: str, request: str, rng: random.Random) -> tuple[dict, str]:
    """A constraint of a kind, and how it is asked for."""
    if kind in _COUNTED:
        lowest, highest, bounds, what = _COUNTED[kind]
        bound = rng.choice(bounds)
        n = rng.randint(lowest, highest)
        given = {}
        if kind == "keyword_count":
            given = {"keyword": rng.choice(KEYWORDS)}
        elif kind == "letter_count":
            given = {"letter": rng.choice(list(LETTERS))}
        elif kind == "num_sections":
            given = {"name": rng.choice(["Section", "Part"])}
        said = what.format(bound=bound.replace("_", " "), n=n, s="" if n == 1 else "s", **given)
        return {"kind": kind, **given, bound: n}, said
    if kind in ("keywords", "forbidden_words"):
        words = rng.sample(KEYWORDS if kind == "keywords" else [*KEYWORDS, "good", "people", "time", "day"], 2)
        said = "Use the words {}." if kind == "keywords" else "Do not use the words {}."
        return {"kind": kind, "words": words}, said.format(" and ".join(words))
    if kind == "starts_with":
        prefix = rng.choice(FIRST)
        return {"kind": kind, "prefix": prefix}, f'Start with "{prefix}"'
    if kind == "ends_with":
        suffix = rng.choice(LAST)
        return {"kind": kind, "suffix": suffix}, f'End with "{suffix}"'
    if kind == "paragraph_starts":
        number, word = rng.randint(1, 3), rng.choice(OPENERS)
        return {"kind": kind, "number": number, "word": word}, f"Begin paragraph {number} with the word {word}."
    if kind == "one_of":
        options = rng.choice(OPTIONS)
        listed = f"{', '.join(options[:-1])} or {options[-1]}"
        return {"kind": kind, "options": options}, f"Answer with {listed} and nothing else."
    if kind == "repeat_prompt":
        return {"kind": kind, "prompt": request}, f'First repeat "{request}" word for word.'
    if kind == "script":
        return {"kind": kind, "name": "latin"}, "Use the Latin script only."
    return {"kind": kind}, _PLAIN[kind]


_MORE = ("at_least", "exactly")
_COUNTED = {  # the lowest and the highest number, the bounds, and how it is asked for
    "num_words": (8, 60, ("at_least", "at_most", "exactly"), "Use {bound} {n} words."),
    "num_sentences": (1, 8, ("at_least", "at_most", "exactly"), "Write {bound} {n} sentence{s}."),
    "num_paragraphs": (2, 5, _MORE, "Write {bound} {n} paragraphs, with a blank line between two."),
    "num_bullets": (1, 5, _MORE, "Give {bound} {n} bullet point{s} with a hyphen before each."),
    "num_placeholders": (1, 4, _MORE, "Leave {bound} {n} placeholder{s} in square brackets, such as [address]."),
    "num_highlights": (1, 4, _MORE, "Highlight {bound} {n} part{s} in *stars*."),
    "num_sections": (2, 4, _MORE, "Write {bound} {n} sections, each opening with {name} and its number."),
    "num_capital_words": (1, 4, _MORE, "Write {bound} {n} word{s} in capital letters."),
    "keyword_count": (1, 4, _MORE, "Use the word {keyword} {bound} {n} time{s}."),
    "letter_count": (1, 6, ("at_least", "at_most"), "Use the letter {letter} {bound} {n} time{s}."),
}
_PLAIN = {
    "lower_case": "Use no capital letters.",
    "upper_case": "Use capital letters only.",
    "title": "Give it a title in double angular brackets, such as <<title>>.",
    "json_only": "Answer in JSON and nothing else.",
    "quoted": "Put the whole answer in double quotation marks.",
    "no_commas": "Use no commas.",
    "two_responses": "Give two different responses with a line of six asterisks, ******, between them.",
    "postscript": "End with a postscript that opens with P.S.",
}


def _answer(topic: str, asked: list[dict], rng: random.Random) -> str:
    """An answer put together from sentences, with as many more of them as the counts ask for."""
    by_kind = {constraint["kind"]: constraint for constraint in asked}
    sentences = [f"{rng.choice(_ON_TOPIC)} {topic}.", *_needed(by_kind)]
    if "one_of" in by_kind:
        answer = rng.choice(by_kind["one_of"]["options"])
    elif "json_only" in by_kind:
        answer = json.dumps({topic: " ".join(sentences)})
    else:
        blocks = _blocks(sentences, by_kind, rng)
        _fill(blocks, by_kind, rng)
        answer = _laid_out(topic, blocks, by_kind)
    return answer.lower() if "lower_case" in by_kind else answer.upper() if "upper_case" in by_kind else answer


def _wanted(by_kind: dict[str, dict], kind: str) -> int:
    """How many of a kind there must be, at the least."""
    constraint = by_kind.get(kind, {})
    return constraint.get("exactly", constraint.get("at_least", 0))


def _needed(by_kind: dict[str, dict]) -> list[str]:
    """The sentences that hold what must be in the text."""
    needed = []
    if words := by_kind.get("keywords", {}).get("words"):
        needed.append(f"Think of the {words[0]} and the {words[1]}.")
    for _ in range(_wanted(by_kind, "keyword_count")):
        needed.append(f"Look at the {by_kind['keyword_count']['keyword']}.")
    if letters := _wanted(by_kind, "letter_count"):
        letter = by_kind["letter_count"]["letter"]
        needed += [LETTERS[letter]] * -(-letters // LETTERS[letter].lower().count(letter))
    needed += [f"Fill in [{word}]." for word in PLACEHOLDERS[: _wanted(by_kind, "num_placeholders")]]
    needed += [f"It takes *{word}*." for word in HIGHLIGHTS[: _wanted(by_kind, "num_highlights")]]
    needed += [f"This is {word} helpful." for word in CAPITALS[: _wanted(by_kind, "num_capital_words")]]
    return needed


def _blocks(sentences: list[str], by_kind: dict[str, dict], rng: random.Random) -> list[list[str]]:
    """As many paragraphs as are asked for, with these sentences shared out; some may still be empty."""
    apart = ("postscript" in by_kind) + ("two_responses" in by_kind)  # paragraphs of their own
    number = by_kind.get("paragraph_starts", {}).get("number", 1)
    count = max(1, number, _wanted(by_kind, "num_paragraphs") - apart, _wanted(by_kind, "num_sections"))
    blocks: list[list[str]] = [[] for _ in range(count)]
    for i, sentence in enumerate(sentences):
        blocks[0 if i == 0 else rng.randrange(count)].append(sentence)
    if "paragraph_starts" in by_kind:
        blocks[number - 1].insert(0, f"{by_kind['paragraph_starts']['word']} it matters.")
    return blocks


def _fill(blocks: list[list[str]], by_kind: dict[str, dict], rng: random.Random) -> None:
    """Add sentences, so that no paragraph is empty and the numbers of sentences and words are those asked for."""
    empty = [block for block in blocks if not block]
    for block in empty:
        block.append("")
    text = _laid_out("topic", [[s or "It matters." for s in block] for block in blocks], by_kind)
    sentences, words = by_kind.get("num_sentences"), by_kind.get("num_words")
    lacking = max(0, _wanted(by_kind, "num_sentences") - num_sentences(text))
    count = len(empty) + (lacking if sentences else 0 if words else rng.randint(0, 3))
    left = 4 * count
    if words:
        fixed = num_words(text) - 2 * len(empty)
        least = max(0, _wanted(by_kind, "num_words") - fixed)
        left = least if "exactly" in words else max(least, 2 * count)
        if sentences is None or "at_least" in sentences:
            count = max(count, -(-left // 8))
        if "at_least" in words:
            left = max(left, 4 * count)
    lengths = [2] * count
    longer = [i for i in range(count) for _ in range(max(SENTENCES) - 2)]
    for i in rng.sample(longer, min(len(longer), max(0, left - 2 * count))):
        lengths[i] += 1
    forbidden = set(by_kind.get("forbidden_words", {}).get("words", []))
    drawn = [_sentence(length, forbidden, rng) for length in lengths]
    for block in empty:
        block[0] = drawn.pop()
    for sentence in drawn:
        rng.choice(blocks).append(sentence)


def _sentence(length: int, forbidden: set[str], rng: random.Random) -> str:
    allowed = [s for s in SENTENCES[length] if not forbidden & set(s.lower().rstrip(".").split())]
    return rng.choice(allowed or SENTENCES[length])


def _laid_out(topic: str, blocks: list[list[str]], by_kind: dict[str, dict]) -> str:
    """The text: title, request, paragraphs under their headings, bullets, second response, postscript, last words."""
    paragraphs = [" ".join(block) for block in blocks]
    sections = by_kind.get("num_sections", {}).get("name")
    if sections:
        paragraphs = [f"{sections} {i}\n{text}" for i, text in enumerate(paragraphs, 1)]
    if bullets := _wanted(by_kind, "num_bullets"):
        paragraphs[-1] += "".join(f"\n- {SENTENCES[2][i % 6]}" for i in range(bullets))
    opening = [by_kind[kind][key] for kind, key in (("repeat_prompt", "prompt"), ("starts_with", "prefix"))
               if kind in by_kind]  # fmt: skip
    paragraphs[0] = " ".join([*opening, paragraphs[0]])
    if "title" in by_kind:
        paragraphs[0] = f"<<On {topic}>>\n{paragraphs[0]}"
    if "two_responses" in by_kind:
        paragraphs += ["******", "Another way is to wait."]
    if "postscript" in by_kind:
        paragraphs.append("P.S. Take care.")
    if "ends_with" in by_kind:
        paragraphs[-1] += f" {by_kind['ends_with']['suffix']}"
    text = "\n\n".join(paragraphs)
    return f'"{text}"' if "quoted" in by_kind else text
