"""Key phrases by rapid automatic keyword extraction (Rose et al., 2010, "Automatic keyword extraction from individual
documents"; as used by Li et al., 2024, arXiv 2409.17791).

Candidates are runs of words between stop words and punctuation. With freq(w) the occurrences of a word in them and
deg(w) the words of the candidates that hold it,

    score(phrase) = sum over its words of deg(w) / freq(w)
"""

import re
from collections import Counter

Span = tuple[int, int]

STOP_WORDS = frozenset(
    """a about above after again all also am an and any are as at be because been before being below between both but by
    can could did do does doing down during each few for from further had has have having he her here hers him his how i
    if in into is it its itself just me more most must my need no nor not now of off on once only or other our out over
    own same she should so some such than that the their them then there these they this those through to too under
    until up us very was we were what when where which while who whom why will with would you your""".split()  # noqa: SIM905
)


class Rake:
    """The phrases of an English text, best first, each as the spans of its occurrences."""

    def __init__(self, *, stop_words: frozenset[str] = STOP_WORDS) -> None:
        self.stop_words = stop_words

    def __call__(self, text: str) -> list[list[Span]]:
        return [spans for _, spans in self.scored(text).values()]

    def scored(self, text: str) -> dict[str, tuple[float, list[Span]]]:
        """Score and spans by phrase, best first, the earlier one where two are alike."""
        candidates = self._candidates(text)
        freq, deg = Counter[str](), Counter[str]()
        for words, _ in candidates:
            freq.update(words)
            deg.update({word: len(words) for word in words})
        phrases: dict[str, tuple[float, list[Span]]] = {}
        for words, span in candidates:
            score = sum(deg[word] / freq[word] for word in words)
            phrases.setdefault(" ".join(words), (score, []))[1].append(span)
        return dict(sorted(phrases.items(), key=lambda item: -item[1][0]))

    def _candidates(self, text: str) -> list[tuple[list[str], Span]]:
        found: list[tuple[list[str], Span]] = []
        end = -1
        for match in re.finditer(r"\w+(?:['’-]\w+)*", text):
            word = match.group().lower()
            if word in self.stop_words:
                end = -1
                continue
            if end >= 0 and text[end : match.start()].isspace():
                words, (start, _) = found.pop()
                found.append(([*words, word], (start, match.end())))
            else:
                found.append(([word], match.span()))
            end = match.end()
        return found
