"""A small grammar of short reviews: what an opening and a response to it may say.

Rules map a symbol to its alternatives, in which {symbols} stand for rules; an alternative given twice is twice as
likely. A sign is a symbol's polarity, and a complaint is built exactly as praise is, with the signs exchanged, so that
equal weights of both give a mean sentiment near zero.
"""

import re
from collections.abc import Mapping
from itertools import product
from random import Random

Rules = Mapping[str, tuple[str, ...]]

WORDS: Rules = {
    "mild+": ("good", "nice", "decent", "pleasing"),
    "mild-": ("bad", "poor", "disappointing", "forgettable"),
    "strong+": ("great", "excellent", "superb", "wonderful", "fantastic"),
    "strong-": ("terrible", "awful", "dreadful", "horrible", "hopeless"),
    "liked+": ("liked", "enjoyed"),
    "liked-": ("disliked", "regretted"),
    "loved+": ("loved", "adored"),
    "loved-": ("hated", "loathed"),
    "recommend+": ("recommend",),
    "recommend-": ("avoid",),
    "very": ("very", "really", "truly"),
    "really": ("really", "truly"),
    "fairly": ("fairly", "rather", "somewhat"),
    "not": ("not", "never", "hardly"),
    "never": ("never", "hardly"),
}

PRAISE: Rules = {
    "remark+": ("The {topic} was {quality+}.", "The {topic} was {quality+}.", "I {feeling+} the {topic}."),
    "whole+": ("The {topic} was {trait+}.", "The {topic} was {very} {trait+}.", "The {topic} was {not} {trait-}."),
    "verdict+": (
        "Overall it was a {claim+} {event}.",
        "It was {not} a {mild-} {event}.",
        "I would {advice+} the {subject}.",
    ),
    "advice+": ("{recommend+}", "really {recommend+}", "never {recommend-}"),
    "quality+": ("{claim+}", "{claim+}", "{claim+}", "{not} {mild-}", "not {very} {mild-}", "{not} {strong-}"),
    "claim+": ("{mild+}", "{very} {mild+}", "{fairly} {mild+}", "{strong+}", "{really} {strong+}"),
    "feeling+": ("{liked+}", "{really} {liked+}", "{loved+}", "{really} {loved+}", "{never} {liked-}"),
}

SUBJECTS: Mapping[str, Rules] = {
    "hotel": {
        "taken": ("booked", "chosen", "picked"),
        "setting": ("for a weekend", "for one night", "for a week", "for a holiday"),
        "aspect": ("room", "bed", "lobby", "breakfast"),
        "trait+": ("clean", "quiet"),
        "trait-": ("dirty", "noisy"),
        "event": ("stay",),
        "plain": ("We came on a Monday.", "The room had a window.", "It was near the station.", "There was a map."),
    },
    "film": {
        "taken": ("seen", "watched", "picked"),
        "setting": ("at home", "with friends", "on a train", "for a birthday"),
        "aspect": ("plot", "acting", "music", "ending"),
        "trait+": ("clever", "funny"),
        "trait-": ("boring", "silly"),
        "event": ("evening",),
        "plain": ("It began at seven.", "It was set in a town.", "We sat by the door.", "It took two hours."),
    },
    "book": {
        "taken": ("read", "bought", "borrowed"),
        "setting": ("at home", "for work", "on a train", "on a holiday"),
        "aspect": ("story", "style", "hero", "ending"),
        "trait+": ("clever", "gripping"),
        "trait-": ("boring", "confusing"),
        "event": ("read",),
        "plain": ("It had ten chapters.", "It was set in a town.", "The cover was blue.", "There was a map."),
    },
    "restaurant": {
        "taken": ("booked", "visited", "picked"),
        "setting": ("for lunch", "for dinner", "with friends", "for a birthday"),
        "aspect": ("food", "service", "menu", "wine"),
        "trait+": ("friendly", "quiet"),
        "trait-": ("crowded", "noisy"),
        "event": ("meal",),
        "plain": ("We sat by the window.", "We came at seven.", "It was near the station.", "We had two drinks."),
    },
    "phone": {
        "taken": ("bought", "ordered", "chosen"),
        "setting": ("online", "for work", "for a birthday", "with friends"),
        "aspect": ("screen", "battery", "camera", "sound"),
        "trait+": ("fast", "handy"),
        "trait-": ("slow", "clumsy"),
        "event": ("purchase",),
        "plain": ("It came in a box.", "The cover was blue.", "It had two buttons.", "The box took a week."),
    },
    "tour": {
        "taken": ("booked", "joined", "ordered"),
        "setting": ("online", "with friends", "for a birthday", "on a holiday"),
        "aspect": ("guide", "route", "coach", "lunch"),
        "trait+": ("lively", "funny"),
        "trait-": ("tiring", "slow"),
        "event": ("trip",),
        "plain": ("It began at seven.", "There were ten of us.", "We met at the station.", "It took two hours."),
    },
}

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]

POLICIES: Mapping[str, tuple[float, float, float]] = {
    "positive": (0.8, 0.1, 0.1),
    "neutral": (0.35, 0.3, 0.35),
    "negative": (0.1, 0.1, 0.8),
}
"""Who writes responses: the chance that a sentence praises, stays plain, complains."""

SENTENCES = (0.2, 0.5, 0.3)
"""The chance that a response has one, two, three sentences."""

VERDICT = 0.4
"""The chance that the last sentence, unless it is plain, judges the whole."""

_exchanged = str.maketrans("+-", "-+")
COMPLAINT: Rules = {
    symbol.translate(_exchanged): tuple(text.translate(_exchanged) for text in texts)
    for symbol, texts in PRAISE.items()
}


def openings() -> list[tuple[str, str]]:
    """All (subject, prompt) of the grammar."""
    return [
        (subject, f"The {subject} was {taken} {setting} in {month}.")
        for subject, rules in SUBJECTS.items()
        for taken, setting, month in product(rules["taken"], rules["setting"], MONTHS)
    ]


def respond(subject: str, policy: str, rng: Random) -> str:
    """One to three sentences about `subject` by a policy of `POLICIES`, with the space that parts them from the prompt.

    No topic and no plain sentence comes twice; a verdict comes last.
    """
    rules = {**WORDS, **PRAISE, **COMPLAINT, **SUBJECTS[subject], "subject": (subject,)}
    count = rng.choices((1, 2, 3), SENTENCES)[0]
    topics = rng.sample((subject, *rules["aspect"]), count)
    plain = rng.sample(rules["plain"], count)
    sentences = []
    for place, sign in enumerate(rng.choices(("+", "", "-"), POLICIES[policy], k=count)):
        kind = "whole" if topics[place] == subject else "remark"
        if place == count - 1 and rng.random() < VERDICT:
            kind = "verdict"
        text = f"{{{kind}{sign}}}" if sign else plain[place]
        sentences.append(_expand(text, {**rules, "topic": (topics[place],)}, rng))
    return re.sub(r"\ba (?=[aeiou])", "an ", "".join(f" {sentence}" for sentence in sentences))


def _expand(text: str, rules: Rules, rng: Random) -> str:
    return re.sub(r"{(.+?)}", lambda symbol: _expand(rng.choice(rules[symbol[1]]), rules, rng), text)
