"""The words of written English: what "Dr. Smith", "$5" or "in 1999" sounds like in American English.

Rules run in order over the whole text: first addresses and abbreviations, then everything beside digits, then the
digits, at last words in capitals. The time is proportional to the length of the text.

Complete normalizers were tried. wetext raises exceptions on ordinary texts such as "−2.5 and 50¢" and needs 0.3 ms for
each character; nemo_text_processing needs pynini, which has no wheels for Windows.
"""

import re
import unicodedata
from collections.abc import Callable

from .spoken_numbers import (
    CURRENCIES,
    DIGIT_RULES,
    SIGN_RULES,
    Match,
    Rule,
    alternatives,
    ordinal,
    previous_word,
)

# Stands for the name of the letter while the rules run. Characters for private use are never left in a text.
_LETTER_A = "\ue000"
_MAX_MARKS = 30  # combining marks in a row, as in the stream-safe text format of Unicode Standard Annex 15

# A name follows these abbreviations, so their period ends no sentence.
_TITLES = {
    "Mr": "mister", "Mrs": "missus", "Ms": "miz", "Dr": "doctor", "Prof": "professor", "Rev": "reverend",
    "Gen": "general", "Col": "colonel", "Capt": "captain", "Lt": "lieutenant", "Sgt": "sergeant", "Gov": "governor",
    "Sen": "senator", "Rep": "representative", "Hon": "honorable", "Mt": "mount", "Ft": "fort", "Drs": "doctors",
    "Messrs": "messieurs",
}  # fmt: skip
_ABBREVIATIONS = {
    "e.g.": "for example", "i.e.": "that is", "vs.": "versus", "vs": "versus", "cf.": "compare", "et al.": "et al",
    "approx.": "approximately", "dept.": "department", "govt.": "government", "est.": "established", "w/o": "without",
    "w/": "with", "'n'": "and", "ok": "okay", "and/or": "and or",
}  # fmt: skip
# The period of these abbreviations may end a sentence, too.
_FINAL_ABBREVIATIONS = {
    "etc.": "et cetera", "jr.": "junior", "sr.": "senior", "inc.": "incorporated", "ltd.": "limited",
    "corp.": "corporation", "co.": "company", "bros.": "brothers", "ave.": "avenue", "blvd.": "boulevard",
    "rd.": "road", "ln.": "lane", "pkwy.": "parkway", "ph.d.": "p h d", "phd": "p h d", "etc": "et cetera",
}  # fmt: skip
_BEFORE_NUMBERS = {
    "no.": "number", "nos.": "numbers", "p.": "page", "pp.": "pages", "vol.": "volume", "ch.": "chapter",
    "fig.": "figure", "sec.": "section", "eq.": "equation", "ca.": "circa", "#": "number", "n°": "number",
    "apt.": "apartment", "ste.": "suite", "hwy.": "highway", "hwy": "highway", "rt.": "route", "ext.": "extension",
    "tel.": "telephone", "max.": "maximum", "min.": "minimum",
}  # fmt: skip
_BEFORE_SAINTS = set("The the In At To From And Of Mount Port Fort Lake East West Father Sister Mr. Mrs. Dr.".split())

# Roman numerals count these words. After names of rulers they are ordinal numbers.
_NUMBERED = (
    "(?:War|Chapter|Part|Act|Scene|Volume|Book|Section|Phase|Type|Stage|Class|Title|Article|Level|Appendix|Episode)s?"
)
_TITLED = "(?:King|Queen|Pope|Emperor|Tsar|Prince) [A-Z][a-z]+"
_RULERS = (
    "Henry|Louis|George|Edward|Charles|James|William|Richard|John Paul|John|Paul|Pius|Benedict|Elizabeth|Mary|Catherine"
    "|Frederick|Philip|Napoleon|Nicholas|Alexander|Peter|Ivan|Leo|Gregory|Innocent|Clement|Urban|Otto|Ferdinand|Francis"
    "|Joseph|Leopold|Albert|Wilhelm|Gustav|Christian|Robert|Ramses|Ptolemy|Darius|Constantine|Olaf|Carl|Juan|Alfonso"
    f"|Julius|Margaret|Victor Emmanuel|{_TITLED}"
)
_ROMAN = r"(M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))(?!\w)"
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}

# Words in capitals: always letters; words; words only where all is in capitals; acronyms that are words.
_INITIALISMS = set(
    "FBI CIA USA UFO ATM EPA IRS NBA IBM CEO CFO UAE API EU UK AI IQ USB FAQ USSR ACLU UCLA NCAA NYSE ASAP IEEE NSA "
    "VIP HIV GOP DIY EST NAACP".split()
)
_SHORT_WORDS = set(
    "no go to in on of is we he me my so do up at by if or an as am be oh hi ah ha the and not you all but can had her "
    "was one our out day get has him his how man new now old see two way who boy did its let put say she too use yes "
    "any ask bad big buy far few got hot job lot off own ran red run saw set sit six ten top try war why win yet god "
    "end eat for are".split()
)
_SHORT_LOUD_WORDS = set("it us ad ax ox ye pa ma lo ho eh id".split())
_SHORT_ACRONYMS = set("pin sim ram rom gif zip cat mac dos lan mr mrs dr hmm shh psst tsk brr".split())
_ONSETS = set(
    "bl br ch cl cr dr dw fl fr gh gl gn gr kh kn ph pl pr ps sc sh sk sl sm sn sp sq st sw th tr ts tw wh wr".split()
)
_ODD_ENDING = re.compile("[^aeiouy]{3}(?<!s)(?<![csth]h)(?<!t)$")

# What replaces characters before the compatibility form of Unicode would change their meaning ("5²" into "52").
_BEFORE_COMPATIBILITY = str.maketrans(
    {"©": " copyright ", "№": " No. ", "º": "°", "…": "... ", "″": '"', "⁻": "^-"}
    | dict.fromkeys("´`‘’‛ʼʻ′", "'")
    | dict.fromkeys("™®℠ª", "")
)
_BEFORE_COMPATIBILITY.update({ord(circled): f" {unicodedata.numeric(circled):.0f} " for circled in "①②③④⑤⑥⑦⑧⑨"})
_BEFORE_COMPATIBILITY.update({ord(fraction): f" {fraction}" for fraction in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"})
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_ROMAN_CHARACTERS = re.compile("[ⅰ-ⅿ]")
# Characters beyond ASCII that the rules read, or that are words, and marks of other scripts.
_SYMBOLS = {character: character for character in (*CURRENCIES, *"°‰¢−—")} | {
    "‐": "-", "‑": "-", "‒": "-", "–": "-", "―": "—", "⁄": "/", "∕": "/", "×": " times ", "÷": " divided by ",
    "±": " plus or minus ", "≈": " approximately ", "≠": " is not equal to ", "≤": " is at most ", "≥": " is at least ",
    "§": " section ", "∞": " infinity ", "→": " to ", "•": " , ", "。": ". ", "、": ", ", "،": ", ", "؛": "; ",
    "؟": "? ", "।": ". ", "٫": ".", "٬": ",", "٪": "%", "∶": ":", "〜": "~", "√": " square root of ", "⋅": " times ",
    "∆": " delta ",
}  # fmt: skip
_COMPARISONS = {"<=": " is at most ", ">=": " is at least ", "!=": " is not equal to ", "==": " equals "}
_ADDRESS_MARKS = {
    ".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", "+": "plus", "?": "question mark",
    "=": "equals", "&": "and", "%": "percent", ":": "colon", "#": "hash", "~": "tilde",
}  # fmt: skip


def normalize_text(text: str) -> str:
    """Write out a text in the words that are spoken, in American English.

    Args:
        text: Any text. Words of other languages and scripts stay as they are.

    Returns:
        Lower-case words and the marks , ; : . ! ? between spaces. "A" is the name of the letter, "a" the article. What
        cannot be spoken is left out (see `unspoken_characters`); the result may be empty.
    """
    text = " ".join(_compose(text).translate(_Characters()).split())
    is_loud = not any(map(str.islower, text))
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _CAPITAL_RUN.sub(lambda run: _read_capitals(run[0], is_loud), text)
    tokens = []
    for token in _TOKEN.findall(text.lower()):
        # Combining marks alone are no word.
        if token in ",;:.!?" or any(character.isalpha() or character == _LETTER_A for character in token):
            tokens.append(token)
    # No article comes before a pause.
    spoken = re.sub(r"(?<![^ ])a(?= [,;:.!?]|$)", "A", " ".join(tokens))
    return spoken.replace(_LETTER_A, "A")


def unspoken_characters(text: str) -> list[str]:
    """Return the characters that `normalize_text` leaves out although they have a meaning, such as emoji."""
    table = _Characters()
    unspoken = []
    for character in dict.fromkeys(_compose(text)):
        has_meaning = unicodedata.category(character) in ("So", "Sm", "Sc", "Co", "Cn", "Cs")
        if has_meaning and not character.isascii() and table[ord(character)] == " ":
            unspoken.append(character)
    return unspoken


class _Characters(dict[int, str]):
    """A table for `str.translate`: digits of all scripts become ASCII, and characters without sound become spaces."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in _SYMBOLS:
            value = _SYMBOLS[character]
        elif category == "Nd":
            value = str(unicodedata.decimal(character))
        elif category[0] == "N" and unicodedata.numeric(character, 0.5).is_integer():
            value = f" {unicodedata.numeric(character):.0f} "
        elif category == "Cf" or "VARIATION SELECTOR" in unicodedata.name(character, ""):
            value = ""
        elif category[0] == "L" or category in ("Mn", "Mc") or (character.isascii() and category[0] in "PS"):
            value = character
        else:
            value = " "
        self[code] = value
        return value


def _compose(text: str) -> str:
    """Give one form to what Unicode writes in several, such as accents, ligatures and characters of full width."""
    marks = "".join(character for character in sorted(set(text)) if unicodedata.combining(character))
    if marks:
        # The time to compose grows with the square of the number of marks in a row.
        text = re.sub(f"([{marks}]{{{_MAX_MARKS}}})[{marks}]+", r"\1", text)
    text = unicodedata.normalize("NFC", text)
    # Narrow spaces can separate thousands.
    text = re.sub("(?<=\\d)[\u00a0\u202f\u2009](?=\\d{3}(?!\\d))", ",", text)
    text = _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    text = _ROMAN_CHARACTERS.sub(lambda match: match[0].upper(), text)
    return unicodedata.normalize("NFKC", text.translate(_BEFORE_COMPATIBILITY))


def _letters(text: str) -> str:
    """Return the names of letters."""
    return " ".join(_LETTER_A if letter in "aA" else letter.lower() for letter in text if letter.isalpha())


def _end_of_sentence(match: Match) -> str:
    """Return the period of an abbreviation if it ends a sentence, too."""
    return "." if match[0].endswith(".") and re.compile(r"\Z| [A-Z]").match(match.string, match.end()) else ""


def _lookup(table: dict[str, str]) -> Callable[[Match], str]:
    return lambda match: f"{table[match[1].lower()]}{_end_of_sentence(match) if table is _FINAL_ABBREVIATIONS else ''} "


def _read_half_of_day(match: Match) -> str:
    return f" {_letters(match[1] + 'm')}{_end_of_sentence(match)}{' to ' if match[2] else ''}"


def _read_saint_or_street(match: Match) -> str:
    previous = previous_word(match)
    is_after_name = (previous[:1].isupper() or previous[:1].isdigit()) and previous[-1] not in ",;:.!?"
    is_before_name = re.compile(r" ?[A-Z]").match(match.string, match.end())
    if is_before_name and (not is_after_name or previous in _BEFORE_SAINTS):
        return "saint "
    return f"street{_end_of_sentence(match)} "


def _read_initialism(match: Match) -> str:
    return _letters(match[0]) + ("." if match[0][-1] == "." and match.end() == len(match.string) else "")


def _read_initial(match: Match) -> str:
    """Drop the period of an initial, as in "John F. Kennedy", but not that in "vitamin C. It"."""
    previous = previous_word(match)
    is_name = not previous or previous[0].isupper() or previous[-1] in ".!?"
    return f"{_letters(match[1])} " if is_name else match[0]


def _read_address(match: Match) -> str:
    address = match[0].rstrip(".,;:!?)'\"")
    words: list[str] = []
    for part in re.findall(r"\d+|[^\W\d_]+|[\W_]", re.sub(r"^\w+://", "", address)):
        is_country = len(part) == 2 and words[-1:] == ["dot"] and part not in ("co", "me")
        words.append(_letters(part) if part == "www" or is_country else _ADDRESS_MARKS.get(part, part.lower()))
    return " ".join(words) + match[0][len(address) :]


def _read_hashtag(match: Match) -> str:
    return "hashtag " + re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", match[1]).lower()


def _roman_value(numeral: str) -> str:
    total = 0
    for digit, following in zip(numeral, numeral[1:] + "I", strict=True):
        value = _ROMAN_DIGITS[digit]
        total += -value if _ROMAN_DIGITS[following] > value else value
    return str(total)


def _read_numbered(match: Match) -> str:
    """Write out the Roman numerals in "Chapter IV" and "World Wars I and II"."""
    words = f"{match[1]} {_roman_value(match[2].upper())}"
    if match[3]:
        words += f"{' to ' if match[3] == '-' else match[3]}{_roman_value(match[4])}"
    return words


def _read_capitals(run: str, is_loud: bool) -> str:
    """Read consecutive words in capitals, which can be letters (FBI), words (NASA), or loud speech (DO NOT ENTER)."""
    words = re.findall("[A-Z]{2,}", run)
    is_loud = is_loud or (len(words) > 1 and any(word.lower() in _SHORT_WORDS for word in words))
    return _CAPITALS.sub(lambda match: _read_capital_word(match[1], match[2], is_loud), run)


def _read_capital_word(word: str, ending: str, is_loud: bool) -> str:
    lower = word.lower()
    vowel = re.search("[aeiouy]", lower)
    # No word starts or ends with the consonants of "HDMI" or "ESPN".
    onset = lower[: vowel.start()] if vowel else lower
    is_pronounceable = vowel and (len(onset) < 2 or onset[:2] in _ONSETS) and not _ODD_ENDING.search(lower)
    if lower in _SHORT_WORDS | _SHORT_ACRONYMS or (is_loud and lower in _SHORT_LOUD_WORDS):
        is_word = True
    elif word in _INITIALISMS or not vowel:
        is_word = False
    else:
        is_word = len(word) > 5 or bool(is_pronounceable and len(word) > (2 if is_loud else 3))
    if is_word:
        return lower + ending.lower()
    return _letters(word) + ("'s" if ending else "")


_TOKEN = re.compile(rf"[a-z{_LETTER_A}\x80-\U0010ffff]+(?:'[a-z{_LETTER_A}\x80-\U0010ffff]+)*|[,;:.!?]")
_CAPITALS = re.compile(r"(?<!\w)([A-Z]{2,})('?s|)(?!\w|'\w)")
_CAPITAL_RUN = re.compile(r"(?<!\w)[A-Z]+(?:'?s)?(?:[ ,.;:!?'\"-]+[A-Z]+(?:'?s)?)*(?!\w)")

_DOMAINS = "com|org|net|edu|gov|io|uk|de|fr|eu|ai|app|dev|info|tv"
_PATTERNS: list[Rule] = [
    # Addresses and tags.
    (r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+", _read_address),
    (r"(?<![\w@.])(?i:https?://|ftp://|www\.)[^\s<>\"]+", _read_address),
    (rf"(?<![\w@.-])(?:[\w-]+\.)+(?i:{_DOMAINS})\b(?!\.\w)(?:/[^\s<>\"]*)?", _read_address),
    (r"(?<![\w#&])#(\d*[^\W\d]\w+|[^\W\d])", _read_hashtag),
    (r"(?<![\w@])@(?=\w)", "at "),
    (r"\b([A-G])#(?!\w)", r"\1 sharp"),
    # Abbreviations.
    (r"(?<=\d) ?([aApP])(?:\. ?[mM]\.|[mM]\b)( ?- ?(?=\d))?", _read_half_of_day),
    (rf"(?<![\w.])((?i:{alternatives(_FINAL_ABBREVIATIONS)}))(?!\w)", _lookup(_FINAL_ABBREVIATIONS)),
    (rf"(?<![\w.])((?i:{alternatives(_ABBREVIATIONS)}))(?!\w)", _lookup(_ABBREVIATIONS)),
    (rf"(?<![\w.])((?i:{alternatives(_BEFORE_NUMBERS)})) ?(?=\d|[IVX]{{2}}|[VX]\b)", _lookup(_BEFORE_NUMBERS)),
    (r"(?<![\w.])c\. ?(?=\d{3})", "circa "),
    # Without a period after a name.
    (
        r"(?<=\w )(Ave|Blvd|Rd|Ln|Pkwy|Jr|Inc|Ltd|Corp|Bros)\b(?!\.)",
        lambda match: _FINAL_ABBREVIATIONS[f"{match[1].lower()}."],
    ),
    (r"(\b(?!The\b)[A-Z][a-z]+ )Dr\b(?:\.(?! [A-Z])|(?!\.| [A-Z]))", r"\1drive"),
    (rf"\b({alternatives(_TITLES)})\. ?(?=[A-Z])", lambda match: f"{_TITLES[match[1]]} "),
    (r"(?<![\w&])(Mrs?|Ms|Drs?)\b\.?", lambda match: f"{_TITLES[match[1]]} "),
    (r"\bSt\b(?:\.|(?![\w.]))", _read_saint_or_street),
    (r"(?<![\w.])[A-Za-z](?:\.[A-Za-z])+(?![\w@])\.?", _read_initialism),
    (r"\b([A-HJ-Z])\. ?(?=[A-Z])", _read_initial),
    *SIGN_RULES,
    # Roman numerals. "I" is one only where no verb follows.
    (
        rf"\b((?:Wars?|Type|Class|Stage|Phase)|(?i:{_NUMBERED})(?! I (?!of|is|was|and|or)[a-z]))"
        rf" (?=[IVX]|[LCDM][IVXLCDM]){_ROMAN}(?:( and | or | to |-)(?=[IVX]{{2}}|[VX]){_ROMAN})?",
        _read_numbered,
    ),
    (rf"\b((?i:{_NUMBERED})) (?=[ivx]{{2}})(?i:{_ROMAN})()()", _read_numbered),
    (
        rf"\b({_RULERS}) (?=[IVX]{{2}}|[VX]\b|I(?:$|[.,;:!?)']| of )){_ROMAN}",
        lambda match: f"{match[1]} the {ordinal(_roman_value(match[2]))}",
    ),
    (rf"\b({_TITLED}) (?=I\b){_ROMAN}", lambda match: f"{match[1]} the {ordinal(_roman_value(match[2]))}"),
    (
        rf"\b(?!(?:The|An|A|This|My|His|Her|Your|Size)\b)([A-Z][a-z]+) (?=[IVX]{{2}}|[IVXL]{{3}}){_ROMAN}",
        lambda match: f"{match[1]} {_roman_value(match[2])}",
    ),
    (
        rf"(?<!\w)(?=[IVX]){_ROMAN}(?= (?:[Cc]entur(?:y|ies)|[Dd]ynast(?:y|ies))\b)",
        lambda match: ordinal(_roman_value(match[1])),
    ),
    (rf"(?<!\w)(?=II\b|[IVX]{{3}}|[IVXLCDM]{{4}}){_ROMAN}", lambda match: _roman_value(match[1])),
    # Signs between words.
    (r"(?<![<>=!])([<>!=]=)(?= ?[\w.])", lambda match: _COMPARISONS[match[1]]),
    (r"(?<!\w)A(?=-?\d|/|'s\b|-[A-Z]\b)", _LETTER_A),
    (r"\bAD(?= ?\d)|(?<=\d )AD\b", f"{_LETTER_A} d"),
    (r"\b([A-Z]{1,3})&([A-Z]{1,3})\b", lambda match: f"{_letters(match[1])} and {_letters(match[2])}"),
    (r"&", " and "),
    (r"(?<=\w) ?\++|\+(?=\w)", lambda match: " plus" * match[0].count("+") + " "),
    (r"(?<=\w) *= *(?=\w)", " equals "),
    (r"(?<=\w) < +(?=\.?\w)|(?<=\w) ?<(?=\.?\d)", " is less than "),
    (r"(?<=\w) > +(?=\.?\w)|(?<=\w) ?>(?=\.?\d)", " is greater than "),
    (r"<(?=\.?\d)", " less than "),
    (r"(?<![-=])>(?=\.?\d)", " more than "),
    (r"(?<=\d) *\* *(?=\d)", " times "),
    (r"(?<=\w)@(?=\w)", " at "),
    (r"~(?=\w)", " about "),
    (r"(?<=\w)/(?=\w)", " slash "),
    (r"(?<=\w)\.(?=[a-z])", " dot "),
    *DIGIT_RULES,
    ("—", " , "),
    # The letter A within a sentence.
    (r"(?<=[a-z,] )A(?= [a-z]| ?[,;:.!?]|$)", _LETTER_A),
]
_RULES = [(re.compile(pattern), replacement) for pattern, replacement in _PATTERNS]
