"""The words of numbers: counts, years, dates, times, money, units, fractions, telephone numbers, versions.

`SIGN_RULES` turn everything beside the digits into words ("$5" into "5 dollars"); `DIGIT_RULES` read the digits that
remain. A rule is a pattern and its replacement. Every pattern starts only where a run of digits starts, so that the
time is proportional to the length of the text. num2words writes out the numbers.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from num2words import num2words

Match = re.Match[str]
Rule = tuple[str, str | Callable[[Match], str]]

# Longer numbers are read digit by digit.
_MAX_DIGITS = 15
_MAX_GROUPED_DIGITS = 30

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# One, several, and the same of the hundredth part.
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
    "₩": ("won", "won", "", ""),
    "₺": ("lira", "lira", "kurus", "kurus"),
    "₴": ("hryvnia", "hryvnias", "kopeck", "kopecks"),
    "₪": ("shekel", "shekels", "agora", "agorot"),
    "₿": ("bitcoin", "bitcoins", "", ""),
}
_CURRENCY_CODES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}
_SCALES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "b": "billion", "B": "billion",
    "bn": "billion", "T": "trillion", "tn": "trillion",
}  # fmt: skip
# One and several.
_UNITS = {
    "%": ("percent", "percent"), "‰": ("per thousand", "per thousand"), "¢": ("cent", "cents"),
    "°": ("degree", "degrees"), "°C": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"), "mm": ("millimeter", "millimeters"),
    "cm": ("centimeter", "centimeters"), "m": ("meter", "meters"), "km": ("kilometer", "kilometers"),
    "μm": ("micrometer", "micrometers"), "nm": ("nanometer", "nanometers"), "mi": ("mile", "miles"),
    "ft": ("foot", "feet"), "in.": ("inch", "inches"), "yd": ("yard", "yards"), "mg": ("milligram", "milligrams"),
    "μg": ("microgram", "micrograms"), "g": ("gram", "grams"), "kg": ("kilogram", "kilograms"),
    "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
    "ml": ("milliliter", "milliliters"), "mL": ("milliliter", "milliliters"), "l": ("liter", "liters"),
    "L": ("liter", "liters"), "gal": ("gallon", "gallons"), "ms": ("millisecond", "milliseconds"),
    "s": ("second", "seconds"), "sec": ("second", "seconds"), "min": ("minute", "minutes"), "h": ("hour", "hours"),
    "hr": ("hour", "hours"), "hrs": ("hour", "hours"), "wk": ("week", "weeks"), "mo": ("month", "months"),
    "yr": ("year", "years"), "mph": ("mile per hour", "miles per hour"),
    "mins": ("minute", "minutes"), "secs": ("second", "seconds"), "mAh": ("milliamp hour", "milliamp hours"),
    "kΩ": ("kilohm", "kilohms"), "MΩ": ("megohm", "megohms"), "cc": ("c c", "c c"),
    "kph": ("kilometer per hour", "kilometers per hour"), "rpm": ("revolution per minute", "revolutions per minute"),
    "fps": ("frame per second", "frames per second"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"), "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"), "MW": ("megawatt", "megawatts"), "kWh": ("kilowatt hour", "kilowatt hours"),
    "V": ("volt", "volts"), "mA": ("milliamp", "milliamps"), "Ω": ("ohm", "ohms"), "dB": ("decibel", "decibels"),
    "KB": ("kilobyte", "kilobytes"), "kB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"), "TB": ("terabyte", "terabytes"),
    "kbps": ("kilobit per second", "kilobits per second"), "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"), "kcal": ("kilocalorie", "kilocalories"),
    "ha": ("hectare", "hectares"), "sq ft": ("square foot", "square feet"), "px": ("pixel", "pixels"),
}  # fmt: skip
_POWERS = {"2": "square ", "3": "cubic "}
_SPECIAL_FRACTIONS = {"24/7", "9/11", "50/50"}

# A number of four digits after one of these words is a year; after the others, unless it counts what follows.
_BEFORE_YEARS = set("in since until till during circa year early late mid spring summer fall autumn winter".split())
_BEFORE_YEARS.update(map(str.lower, _MONTHS))
_BEFORE_YEARS_OR_COUNTS = set("of by from to and before after around".split())
_COUNTED = set("people men women children feet percent hundred thousand million billion trillion hertz".split())
_SINGULAR = set("was has this his its thus does plus versus always perhaps across".split())


def cardinal(text: str) -> str:
    """Return the words of a whole number, which may have commas. Long numbers and codes (007) are read as digits."""
    digits = text.replace(",", "")
    is_code = len(digits) > 1 and digits[0] == "0"
    if is_code or len(digits) > (_MAX_GROUPED_DIGITS if "," in text else _MAX_DIGITS):
        return _digits(digits)
    return _words(int(digits))


def ordinal(text: str) -> str:
    """Return the ordinal number of a whole number, which may have commas."""
    digits = text.replace(",", "")
    return _words(int(digits), "ordinal") if len(digits) <= _MAX_DIGITS else f"{_digits(digits)}th"


def alternatives(names: Iterable[str]) -> str:
    """Return a pattern for one of several names; the longest that fits is found."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))


def previous_word(match: Match) -> str:
    """Return the word before a match, with its punctuation; empty at the start of the text."""
    words = match.string[max(0, match.start() - 30) : match.start()].split()
    return words[-1] if words else ""


@lru_cache(maxsize=4096)
def _words(number: int, kind: str = "cardinal") -> str:
    return num2words(number, to=kind).replace(",", "").replace("-", " ")


def _digits(text: str) -> str:
    return " ".join(_words(int(digit)) for digit in text)


def _year(text: str) -> str:
    century, rest = divmod(int(text), 100)
    if len(text) == 2:
        return f"oh {_words(rest)}" if rest < 10 else _words(rest)
    if rest == 0 and century % 10:
        return f"{_words(century)} hundred"
    if century % 10 == 0 and rest < 10:
        return _words(int(text)).replace(" and ", " ")
    return f"{_words(century)} {_year(text[2:])}"


def _read_number(match: Match) -> str:
    """Read a number without sign and unit; one of four digits as a year if it seems to be one."""
    whole, point, decimals = match[0].partition(".")
    end = "" if match.string[match.end() : match.end() + 2] == "'s" else " "
    if point:
        return f" {cardinal(whole) if whole else ''} point {_digits(decimals)} "
    if len(whole) == 4 and 1000 <= int(whole) < 2100:
        following = re.match(r" ([a-z]+)", match.string[match.end() : match.end() + 20])
        noun = following[1] if following else ""
        is_plural = len(noun) > 3 and noun[-1] == "s" and noun not in _SINGULAR
        previous = previous_word(match).lower()
        may_be_year = int(whole) >= 1700 or previous in _BEFORE_YEARS_OR_COUNTS
        if noun not in _COUNTED and (previous in _BEFORE_YEARS or (may_be_year and not is_plural)):
            return f" {_year(whole)}{end}"
    return f" {cardinal(whole)}{end}"


def _read_decade(match: Match) -> str:
    century, decade = match[1], match[2]
    if decade == "00":
        words = _year(f"{century}00")
    else:
        words = f"{_words(int(century))} {_words(int(decade))}" if century else _words(int(decade))
    plural = f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"
    return f"{plural} to " if match[3] else plural


def _read_fraction(match: Match) -> str:
    numerator, denominator = int(match[2]), int(match[3])
    prefix = f"{match[1]} and " if match[1] else ""
    if f"{numerator}/{denominator}" in _SPECIAL_FRACTIONS:
        return f"{prefix}{_words(numerator)} {_words(denominator)}"
    is_usual = 2 <= denominator <= 20 or (denominator in (32, 64, 100, 1000) and numerator < 10)
    if not is_usual or numerator >= 2 * denominator:
        return f"{prefix}{_words(numerator)} over {_words(denominator)}"
    part = {2: "half", 4: "quarter"}.get(denominator, _words(denominator, "ordinal").removeprefix("one "))
    if numerator != 1:
        part = "halves" if denominator == 2 else f"{part}s"
    return f"{prefix}{_words(numerator)} {part}"


def _read_groups(match: Match) -> str:
    """Read a telephone number, or another number in groups, digit by digit."""
    groups = re.findall(r"\d+", match[0])
    # "500-1000" is a range.
    if len(groups) == 2 and groups[0][-1] == groups[1][-1] == "0":
        return match[0]
    return ("plus " if match[0][0] == "+" else "") + ", ".join(map(_digits, groups))


def _read_version(match: Match) -> str:
    return ("version " if match[0][0] == "v" else "") + " point ".join(map(cardinal, match[1].split(".")))


def _read_money(match: Match) -> str:
    one, several, hundredth, hundredths = CURRENCIES[match["sign"]]
    # "A $5 bill" is a five dollar bill.
    if previous_word(match).lower() in ("a", "an"):
        several = one
    low, high, scale = match["low"], match["high"], match["scale"]
    end = f" per {_UNITS.get(match['per'], (match['per'],))[0]}" if match["per"] else ""
    if high or scale:
        low_scale = match["low_scale"]
        low = f"{low} {_SCALES.get(low_scale, low_scale)}" if low_scale else low
        amount = f"{low} to {high}" if high else low
        return f"{amount} {_SCALES.get(scale, scale) or ''} {several}{end}"
    whole, _, decimals = low.partition(".")
    if len(decimals) != 2 or not hundredth:
        return f"{low} {one if low == '1' else several}{end}"
    parts = []
    if whole.strip("0") or decimals == "00":
        parts.append(f"{whole} {one if whole == '1' else several}")
    if decimals != "00":
        parts.append(f"{int(decimals)} {hundredth if decimals == '01' else hundredths}")
    return " and ".join(parts) + end


def _read_unit(match: Match) -> str:
    """Write out the unit after a number, and leave the number to later rules."""
    # "1/2 km" is one half kilometer, and "1 1/2 km" is one and one half kilometers.
    is_half = bool(re.search(r"(?<!\d )\b\d+/$", match.string[max(0, match.start() - 10) : match.start()]))
    is_one = match["number"] == "1" or match["joint"] == "-" or is_half
    name = _POWERS.get(match["power"], "") + _UNITS[match["unit"]][0 if is_one else 1]
    if match["per"]:
        name += f" per {_UNITS.get(match['per'], (match['per'],))[0]}"
    return f"{match['number']} {name} "


def _read_exponent(match: Match) -> str:
    times = "" if match[0][0] == "^" else " times ten"
    return f"{times} to the power of {'minus ' if match[1] == '-' else ''}"


def _read_date(match: Match) -> str:
    """Read a date of numbers. Leave it if there is no such day; day and month may be in the other order."""
    day, month, year = int(match["day"]), int(match["month"]), match["year"]
    if month > 12:
        day, month = month, day
    if not (1 <= day <= 31 and 1 <= month <= 12):
        return match[0]
    return f" {_MONTHS[month - 1]} {_words(day, 'ordinal')}{f', {_year(year)} ' if year else ''}"


def _read_day(match: Match) -> str:
    """Read a day of a named month, such as "May 5-7, 1999" or "the 5th of May 1999"."""
    if not 1 <= int(match["day"]) <= 31:
        return match[0]
    names = match.groupdict()
    day = _words(int(match["day"]), "ordinal")
    if names.get("last"):
        day += f" to {_words(int(match['last']), 'ordinal')}"
    comma = names.get("comma") or ""
    year = f"{comma} {_year(match['year'])}" if match["year"] else ""
    return (
        f"{match['month']} {day}{year}"
        if match.start("month") < match.start("day")
        else f"the {day} of {match['month']}{year}"
    )


def _read_time(match: Match) -> str:
    hour, minute, second = int(match[1]), int(match[2]), match[3] if match[3] != "00" else ""
    half = match[4] or ""
    is_joined = match.string[match.end() : match.end() + 1].isalpha()
    end = " to " if match[5] else " " if is_joined else ""
    if hour > 24 or minute > 59:
        return f"{match[1]} to {match[2]}{half}{end}"
    if minute == 0 and not second:
        return f"{_words(hour)}{half or (' o' + chr(39) + 'clock' if 0 < hour < 13 else ' hundred')}{end}"
    minutes = f"{'oh ' if 0 < minute < 10 else ''}{_words(minute)}"
    seconds = f" {'oh ' if second[0] == '0' else ''}{second.removeprefix('0')}" if second else ""
    return f"{_words(hour)} {minutes}{seconds}{half}{end}"


_INTEGER = r"(?:(?<!\d,)\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)"
_NUMBER = rf"{_INTEGER}(?:\.\d+)?"
_SIGNS = "".join(CURRENCIES)
_CODES = "|".join(_CURRENCY_CODES)
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
_SHORT_MONTH = "(Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
_SHORT_DAY = "(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_UNIT = alternatives(_UNITS)
_SCALE = r"thousand|million|billion|trillion|mn|bn|tn|(?<=\d)[kKmMbBT]"
_TO_NUMBER = r"( ?- ?(?=[.\d]))?"

SIGN_RULES: list[Rule] = [
    # Dates and times.
    (
        rf"\b{_SHORT_DAY}\b\.?(?=,? (?:\d|{_SHORT_MONTH}))|\b{_SHORT_DAY}\.(?= [a-z]|,)",
        lambda match: _full_day(match[1] or match[3]),
    ),
    (rf"\b{_SHORT_DAY}\.?-{_SHORT_DAY}\b\.?", lambda match: f"{_full_day(match[1])} to {_full_day(match[2])}"),
    (rf"\b{_SHORT_MONTH}\.?-{_SHORT_MONTH}\b\.?", lambda match: f"{_full_month(match[1])} to {_full_month(match[2])}"),
    (rf"\b(?!Mar|Jan|Apr|Ju){_SHORT_MONTH}\.(?= [a-z]|,)", lambda match: _full_month(match[1])),
    (rf"(?<=[a-z.] )(\d{{1,2}}) ?- ?(?={_SHORT_MONTH}[a-z]*\.? \d)", r"\1 to "),
    (rf"\b{_SHORT_MONTH}\b\.?(?=,? ?\d)", lambda match: _full_month(match[1])),
    (rf"(?<=\d ){_SHORT_MONTH}\b\.?", lambda match: _full_month(match[1])),
    (r"\b(?P<year>\d{4})([-/])(?P<month>\d{1,2})\2(?P<day>\d{1,2})(?![\d-])T?", _read_date),
    (r"\b(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4}|\d\d)\b(?!/)", _read_date),
    (r"(?<![\w-])(?P<month>\d{1,2})-(?P<day>\d{1,2})-(?P<year>\d{4})(?![\w-])", _read_date),
    (r"(?<=\bon )(?P<month>\d{1,2})/(?P<day>\d{1,2})(?P<year>)(?![\w/])", _read_date),
    (r"(?<![\w.,])(\d{1,2})\.([0-5]\d)(?= [^\d ] m\b)", r"\1:\2"),
    (r"\b(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})\b(?!\.\d)", _read_date),
    (rf"(?:\b[Tt]he )?\b{_DAY}(?: of)? {_MONTH}\b(?P<comma>,?)(?: (?P<year>\d{{4}})\b)?", _read_day),
    (
        rf"\b{_MONTH} {_DAY}(?:-(?P<last>\d{{1,2}})(?:st|nd|rd|th)?)?\b(?![:.,]?\d|%)"
        r"(?:(?P<comma>,?) (?P<year>\d{4})\b(?!,\d))?",
        _read_day,
    ),
    (rf"(?<![\d:.,])(\d{{1,2}}):(\d\d)(?::(\d\d(?:\.\d+)?))?(?![\d:])( [^\d ] m\b)?{_TO_NUMBER}", _read_time),
    (r"(?<=\d):(?=\d)", " to "),
    # Numbers as other countries write them.
    (
        rf"(?<=[{_SIGNS}])( ?\d{{1,3}}(?:\.\d{{3}})*),(\d\d)(?![\d,])",
        lambda match: match[1].replace(".", "") + "." + match[2],
    ),
    (
        r"(?<![\w.,])\d{1,3}(?:\.000){2,}(?![\w.])|(?<![\w.,])\d{1,2}(?:,\d\d)+,\d{3}(?![\d,])",
        lambda match: re.sub("[.,]", "", match[0]),
    ),
    (rf"(?<![\d.,])(\d+),(\d\d?)(?= ?(?:{alternatives(_UNITS)})(?!\w))", r"\1.\2"),
    # Versions, and numbers in groups.
    (r"\bv(\d+(?:\.\d+)*)(?!\d)", _read_version),
    (r"(?<![\w.-])(?:(?:\+?1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]|\d{3}-)\d{4}(?![\w-]|\.\d)", _read_groups),
    (r"(?<![\w.])(\d+(?:\.\d+){2,})(?!\d)", _read_version),
    (
        r"(?<![\w.-])1-8\d\d-(?=[A-Z])|(?<![\w.-])0\d{2,4}(?: \d{3,4}){1,3}(?![\w.])",
        lambda match: _read_groups(match) + " ",
    ),
    (r"(?<![\w.,])\d{1,3}(?: 000)+(?!\w)", lambda match: match[0].replace(" ", "")),
    # The ZIP code after a state.
    (r"(?:(?<=\b[A-Z]{2} )|(?<=\bd c ))\d{5}(?:-\d{4})?(?![\w-])", _read_groups),
    (r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}(?!\d)", _read_groups),
    (r"(?<![\w.-])\d+(?:-\d+){2,}(?![\w-])", _read_groups),
    (r"(?i:\b(call|dial)) (\d{3,})(?![\w.,-]\d)", lambda match: f"{match[1]} {_digits(match[2])}"),
    (r"(?<=\d)'(?=\d| \d\d?\")", " foot "),
    (r"(?<=\d) ?~ ?(?=\d)", " to "),
    (r"--+", "—"),
    (r"(?<=\d) - (?=-\d)", " minus "),
    (r"\^[-−](?=\d)", " to the power of minus "),
    # A hyphen after a word or a number is no minus.
    (rf"([{_SIGNS}])[-−](?=\d)", r" minus \1"),
    (rf"(?<![\w.)\]%°^{_SIGNS}-])-(?=[{_SIGNS}]?\.?\d)|−", " minus "),
    (r"(?<=\d)(?: - |-)(?=\d+ ?=)", " minus "),
    (rf"(?<![\w.,])'?(\d\d|)([2-9]0|(?<=\d\d)[01]0)'?s(?!\w){_TO_NUMBER}", _read_decade),
    # Money.
    (r"\bRs\.? ?(?=\d)", "₹"),
    (rf"\b({_CODES}) ?(?=\d)", lambda match: _CURRENCY_CODES[match[1]]),
    (rf"(?<=\d) ?({_CODES})\b", lambda match: _CURRENCY_CODES[match[1]]),
    (rf"(?<![\d.,{_SIGNS}])(\d+),(\d\d) ?([{_SIGNS}])", r"\3\1.\2"),
    (rf"(?<![\d.,{_SIGNS}])({_NUMBER})( million| billion|) ?([{_SIGNS}])(?! ?\d)", r"\3\1\2"),
    (
        rf"(?:\b(?:US ?|CA?|AU?|NZ|HK|NT|S))?(?P<sign>[{_SIGNS}]) ?(?P<low>{_NUMBER}|\.\d+)"
        rf"(?: ?(?P<low_scale>{_SCALE})\b(?= ?[-—] ?[{_SIGNS}]?\d))?(?: ?[-—] ?[{_SIGNS}]?(?P<high>{_NUMBER}))?"
        rf"(?: ?(?P<scale>{_SCALE})\b)?(?:/(?P<per>[a-z]+))?",
        _read_money,
    ),
    # Units and powers.
    (rf"(?<=\d)( ?(?:{_UNIT})(?:\^[23])?(?:/[a-z]+)?) ?- ?(?=[.\d])", r"\1 to "),
    (
        rf"(?<![\d.A-Za-z])(?<![A-Za-z]-)(?P<number>{_NUMBER})(?P<joint>[ -]?)(?P<unit>{_UNIT})\^?(?P<power>[23]|)"
        rf"(?:/(?P<per>{_UNIT}|[a-z]+))?(?!\w)(?:\.(?= [a-z])|(?<=ft|lb|hr)\.(?= \d))?",
        _read_unit,
    ),
    (r"(?<=[A-Za-z]{3})\^\d+", ""),  # the mark of a footnote
    (r"\^2(?!\d)", " squared "),
    (r"\^3(?!\d)", " cubed "),
    (r"(?<=\d)[eE]([+-]?)(?=\d+\b)", _read_exponent),
    (r"\^(-?)(?=\d)", _read_exponent),
    # Ordinal numbers, fractions, ranges and multiples.
    (
        rf"(?<![\d.])({_INTEGER})(?i:st|nd|rd|th)(?!\w){_TO_NUMBER}-?",
        lambda match: f"{ordinal(match[1])} {'to ' if match[2] else ''}",
    ),
    (r"(?<=\d/)(\d+) ?- ?(?=\d+/\d)", r"\1 to "),
    (r"(?<=\d) / (?=\d)", " divided by "),
    (r"(?<=\d/\d)(?:rd|th)s\b", ""),
    (r"(?<![\w/.])(?:(\d+) )?(0|[1-9]\d{0,2})/(0|[1-9]\d{0,2}|1000)(?![\w/]|\.\d)", _read_fraction),
    (
        r"(?<![\w.-])([12]\d{3}) ?[-—] ?([12]\d{3}|\d\d)(?![\w.,-])(?! (?:people|men|women|[a-z]{3,}s\b))",
        lambda match: f"{_year(match[1])} to {_year(match[2])}",
    ),
    (r"(?<=\d)(?: - |-|—)(?=[.\d])", " to "),
    (
        r"(?<=\d)(k|M|mn|bn)\b( ?- ?(?=\d))?",
        lambda match: f" {_SCALES[match[1]]}{' to ' if match[2] else ''}",
    ),
    (r"(?<=\d) ?x ?(?=\d)", " by "),
    (r"(?<=\d)x\b(?! ?[-+=^])", " times"),
    # Signs without a number.
    (r"°[CF](?!\w)", lambda match: f" {_UNITS[match[0]][1]} "),
    (rf"[{_SIGNS}]", lambda match: f" {CURRENCIES[match[0]][0]} "),
    (r"[%‰¢°]", lambda match: f" {_UNITS[match[0]][1]} "),
]
DIGIT_RULES: list[Rule] = [
    (r"(?<=[^\W\d])(?=\d)|(?<=\d)(?=[^\W\d])", " "),
    (rf"{_NUMBER}|(?<!\w)\.\d+", _read_number),
]


def _full_day(short: str) -> str:
    return next(day for day in _DAYS if day.startswith(short[:3]))


def _full_month(short: str) -> str:
    return next(month for month in _MONTHS if month.startswith(short[:3]))
