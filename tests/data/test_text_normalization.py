"""Written English as spoken words, whatever the text."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focallm.data.phonemes import PAUSES, spell_out, text_to_units
from focallm.data.text_normalization import normalize_text, unspoken_characters

WRITTEN_AND_SPOKEN = [
    # Money.
    ("$1,234.56", "one thousand two hundred and thirty four dollars and fifty six cents"),
    ("$1", "one dollar"),
    ("$0.99", "ninety nine cents"),
    ("$.50", "fifty cents"),
    ("$1.01", "one dollar and one cent"),
    ("$5.00", "five dollars"),
    ("-$5", "minus five dollars"),
    ("$-5", "minus five dollars"),
    ("$10-20", "ten to twenty dollars"),
    ("$10–$20", "ten to twenty dollars"),
    ("$5-10 million", "five to ten million dollars"),
    ("$5 million", "five million dollars"),
    ("$2.5bn", "two point five billion dollars"),
    ("$10k", "ten thousand dollars"),
    ("$25.4B", "twenty five point four billion dollars"),
    ("US$5", "five dollars"),
    ("5€", "five euros"),
    ("€5.50", "five euros and fifty cents"),
    ("5,50 €", "five euros and fifty cents"),
    ("£3.20", "three pounds and twenty pence"),
    ("£1.01", "one pound and one penny"),
    ("50¢", "fifty cents"),
    ("¥500", "five hundred yen"),
    ("₹20", "twenty rupees"),
    ("USD 50", "fifty dollars"),
    ("50 EUR", "fifty euros"),
    ("$5/month", "five dollars per month"),
    ("$20/hr", "twenty dollars per hour"),
    ("a $100 bill", "a one hundred dollar bill"),
    ("the $ sign", "the dollar sign"),
    ("$1,000,000.00", "one million dollars"),
    ("€1.234,56", "one thousand two hundred and thirty four euros and fifty six cents"),
    ("€3,50", "three euros and fifty cents"),
    ("Rs. 500", "five hundred rupees"),
    ("US $5", "five dollars"),
    ("₹1,00,000", "one hundred thousand rupees"),
    ("$1m-$2m", "one million to two million dollars"),
    ("$5—$10", "five to ten dollars"),
    # Percent, fractions, units.
    ("100%", "one hundred percent"),
    ("3.5 %", "three point five percent"),
    ("5-10%", "five to ten percent"),
    ("-5%", "minus five percent"),
    ("1/2", "one half"),
    ("½", "one half"),
    ("1½ cups", "one and one half cups"),
    ("1 1/2 cups", "one and one half cups"),
    ("2/3", "two thirds"),
    ("3/4", "three quarters"),
    ("5/8", "five eighths"),
    ("1/100", "one hundredth"),
    ("98/100", "ninety eight over one hundred"),
    ("24/7", "twenty four seven"),
    ("120/80", "one hundred and twenty over eighty"),
    ("5 km", "five kilometers"),
    ("1 km", "one kilometer"),
    ("1.5 km", "one point five kilometers"),
    ("3 kg", "three kilograms"),
    ("5-km run", "five kilometer run"),
    ("½ km", "one half kilometer"),
    ("20°C", "twenty degrees celsius"),
    ("-40°F", "minus forty degrees fahrenheit"),
    ("20 °C", "twenty degrees celsius"),
    ("90°", "ninety degrees"),
    ("60 mph", "sixty miles per hour"),
    ("100 km/h", "one hundred kilometers per hour"),
    ("9.8 m/s", "nine point eight meters per second"),
    ("10 mg/L", "ten milligrams per liter"),
    ("5 m²", "five square meters"),
    ("3 km2", "three square kilometers"),
    ("16GB", "sixteen gigabytes"),
    ("2.4 GHz", "two point four gigahertz"),
    ("5'10\"", "five foot ten"),
    ("20-30 °C", "twenty to thirty degrees celsius"),
    ("180 lbs", "one hundred and eighty pounds"),
    ("2 h 30 min", "two hours thirty minutes"),
    ("250 ml", "two hundred and fifty milliliters"),
    ("5\u338f", "five kilograms"),
    ("10 ¾ in.", "ten and three quarters inches"),
    ("5 km-10 km", "five kilometers to ten kilometers"),
    ("5°C-10°C", "five degrees celsius to ten degrees celsius"),
    ("2 hrs 5 mins", "two hours five minutes"),
    ("5 mAh", "five milliamp hours"),
    ("5 min. later", "five minutes later"),
    ("1,5 km", "one point five kilometers"),
    ("1/2-3/4", "one half to three quarters"),
    ("℃", "degrees celsius"),
    # Dates and years.
    ("January 5", "january fifth"),
    ("January 5th, 2021", "january fifth , twenty twenty one"),
    ("Jan. 5, 2021", "january fifth , twenty twenty one"),
    ("5 Jan 2021", "the fifth of january twenty twenty one"),
    ("5 January 1999", "the fifth of january nineteen ninety nine"),
    ("the 4th of July", "the fourth of july"),
    ("July 4, 1776", "july fourth , seventeen seventy six"),
    ("2021-01-05", "january fifth , twenty twenty one"),
    ("1/5/2021", "january fifth , twenty twenty one"),
    ("12/25/99", "december twenty fifth , ninety nine"),
    ("13/01/2020", "january thirteenth , twenty twenty"),
    ("31.12.1999", "december thirty first , nineteen ninety nine"),
    ("March 2020", "march twenty twenty"),
    ("Dec. 1999", "december nineteen ninety nine"),
    ("May 5-7", "may fifth to seventh"),
    ("In 1999, we came.", "in nineteen ninety nine , we came ."),
    ("in 2005", "in two thousand five"),
    ("in 1066", "in ten sixty six"),
    ("1066", "one thousand and sixty six"),
    ("1900", "nineteen hundred"),
    ("1905", "nineteen oh five"),
    ("2000", "two thousand"),
    ("2010", "twenty ten"),
    ("1999 people", "one thousand nine hundred and ninety nine people"),
    ("1500 meters", "one thousand five hundred meters"),
    ("1914–1918", "nineteen fourteen to nineteen eighteen"),
    ("1914-18", "nineteen fourteen to eighteen"),
    ("2019–2020", "twenty nineteen to twenty twenty"),
    ("the 1990s", "the nineteen nineties"),
    ("the '90s", "the nineties"),
    ("the 1800s", "the eighteen hundreds"),
    ("his 30s", "his thirties"),
    ("1990s-2000s", "nineteen nineties to two thousands"),
    ("03-04-2021", "march fourth , twenty twenty one"),
    ("on 12/25", "on december twenty fifth"),
    ("01/02", "zero one slash zero two"),
    ("Tues., Jan. 5", "tuesday , january fifth"),
    ("Mon-Fri", "monday to friday"),
    ("Jan-Feb", "january to february"),
    ("in Dec. we", "in december we"),
    ("AD 79", "A d seventy nine"),
    ("1000 AD", "one thousand A d"),
    ("2021's best", "twenty twenty one's best"),
    # Times.
    ("3:30 pm", "three thirty p m"),
    ("3:30pm", "three thirty p m"),
    ("3 p.m.", "three p m ."),
    ("at 3 p.m. He left", "at three p m . he left"),
    ("9am-5pm", "nine A m to five p m"),
    ("15:45", "fifteen forty five"),
    ("3:00", "three o'clock"),
    ("15:00", "fifteen hundred"),
    ("0:30", "zero thirty"),
    ("12:05", "twelve oh five"),
    ("10:30-11:45 am", "ten thirty to eleven forty five A m"),
    ("3-5pm", "three to five p m"),
    ("1:23:45", "one twenty three forty five"),
    ("John 3:16", "john three sixteen"),
    ("3.30pm", "three thirty p m"),
    ("1:23:05", "one twenty three oh five"),
    ("12:30:05.5", "twelve thirty oh five point five"),
    ("12:00:00", "twelve o'clock"),
    # Numbers.
    ("0", "zero"),
    ("007", "zero zero seven"),
    ("1234", "one thousand two hundred and thirty four"),
    ("1,234", "one thousand two hundred and thirty four"),
    ("1,234,567", "one million two hundred and thirty four thousand five hundred and sixty seven"),
    ("1,000,000,000,000,000,000,000", "one sextillion"),
    ("11111111111111111111", "one one one one one one one one one one one one one one one one one one one one"),
    ("10000000000000000", "one zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero"),
    ("3.14159", "three point one four one five nine"),
    (".5", "point five"),
    ("3.0", "three point zero"),
    ("1,2,3,4", "one , two , three , four"),
    ("1, 2, 3, 4", "one , two , three , four"),
    ("1 2 3 4", "one two three four"),
    ("1,234,5", "one , two hundred and thirty four , five"),
    ("1st", "first"),
    ("2nd-hand", "second hand"),
    ("21st century", "twenty first century"),
    ("101st", "one hundred and first"),
    ("1,000th", "one thousandth"),
    ("1st-3rd", "first to third"),
    ("10-20", "ten to twenty"),
    ("pages 3-4", "pages three to four"),
    ("-5", "minus five"),
    ("−2.5", "minus two point five"),
    ("–5", "minus five"),
    ("5 - 3 = 2", "five minus three equals two"),
    ("5−3", "five minus three"),
    ("2+2=4", "two plus two equals four"),
    ("3 × 4", "three times four"),
    ("x²", "x squared"),
    ("10⁵", "ten to the power of five"),
    ("1e5", "one times ten to the power of five"),
    ("v2.0", "version two point zero"),
    ("v1.2.3", "version one point two point three"),
    ("3.11.2", "three point eleven point two"),
    ("192.168.1.1", "one hundred and ninety two point one hundred and sixty eight point one point one"),
    ("16:9", "sixteen to nine"),
    ("1920x1080", "nineteen twenty by ten eighty"),
    ("10x", "ten times"),
    ("500-1000 people", "five hundred to one thousand people"),
    ("No. 5", "number five"),
    ("#5", "number five"),
    ("1.000.000", "one million"),
    ("1 000 000", "one million"),
    ("10k-20k", "ten thousand to twenty thousand"),
    ("10⁻³", "ten to the power of minus three"),
    ("10^-3", "ten to the power of minus three"),
    ("10²³", "ten to the power of twenty three"),
    ("p < .05", "p is less than point zero five"),
    ("x >= 5", "x is at least five"),
    ("<5%", "less than five percent"),
    (">100", "more than one hundred"),
    ("3<5", "three is less than five"),
    ("a != b", "a is not equal to b"),
    ("√2", "square root of two"),
    ("5~10", "five to ten"),
    ("n°5", "number five"),
    ("5' 10\"", "five foot ten"),
    # Telephone.
    ("555-1234", "five five five , one two three four"),
    ("212-555-0100", "two one two , five five five , zero one zero zero"),
    ("(212) 555-0100", "two one two , five five five , zero one zero zero"),
    ("+1 212 555 0100", "plus one , two one two , five five five , zero one zero zero"),
    ("+44 20 7946 0958", "plus four four , two zero , seven nine four six , zero nine five eight"),
    ("123-45-6789", "one two three , four five , six seven eight nine"),
    ("call 911", "call nine one one"),
    ("1-800-FLOWERS", "one , eight zero zero flowers"),
    ("555.123.4567", "five five five , one two three , four five six seven"),
    ("0800 123 456", "zero eight zero zero , one two three , four five six"),
    ("New York, NY 10001", "new york , n y one zero zero zero one"),
    ("Washington, D.C. 20500", "washington , d c two zero five zero zero"),
    # Names and abbreviations.
    ("Dr. Smith", "doctor smith"),
    ("Mr Bean", "mister bean"),
    ("Mrs. Jones", "missus jones"),
    ("St. Louis", "saint louis"),
    ("Main St.", "main street ."),
    ("5 Main St. today", "five main street today"),
    ("St. Mary's, St. Petersburg", "saint mary's , saint petersburg"),
    ("Mount St. Helens", "mount saint helens"),
    ("Oak Dr.", "oak drive"),
    ("5th Ave.", "fifth avenue ."),
    ("e.g. this", "for example this"),
    ("i.e. that", "that is that"),
    ("etc.", "et cetera ."),
    ("etc. The end", "et cetera . the end"),
    ("Apple Inc. is", "apple incorporated is"),
    ("vs.", "versus"),
    ("w/o milk", "without milk"),
    ("and/or", "and or"),
    ("pp. 5-10", "pages five to ten"),
    ("Say no. Five.", "say no . five ."),
    ("John F. Kennedy", "john f kennedy"),
    ("J. R. R. Tolkien", "j r r tolkien"),
    ("vitamin C. It is", "vitamin c . it is"),
    ("Henry VIII", "henry the eighth"),
    ("Louis XIV", "louis the fourteenth"),
    ("George V", "george the fifth"),
    ("Elizabeth II's", "elizabeth the second's"),
    ("World War II", "world war two"),
    ("World War I was", "world war one was"),
    ("Chapter IV", "chapter four"),
    ("but I stay", "but i stay"),
    ("Malcolm X", "malcolm x"),
    ("Rocky III", "rocky three"),
    ("the IV drip", "the i v drip"),
    ("XIV", "fourteen"),
    ("Apt. 5", "apartment five"),
    ("Hwy 101", "highway one hundred and one"),
    ("Kent Ave", "kent avenue"),
    ("Smith Jr. is", "smith junior is"),
    ("Smith Jr is", "smith junior is"),
    ("Drs. Smith and Jones", "doctors smith and jones"),
    ("max. 5", "maximum five"),
    ("World Wars I and II", "world wars one and two"),
    ("Type I diabetes", "type one diabetes"),
    ("Phase II-III", "phase two to three"),
    ("part ii", "part two"),
    ("Elizabeth I.", "elizabeth the first ."),
    ("King Charles I was", "king charles the first was"),
    ("told Paul I was late", "told paul i was late"),
    ("Super Bowl LIV", "super bowl fifty four"),
    ("MCMXCIX", "nineteen ninety nine"),
    ("the XIX century", "the nineteenth century"),
    ("CIVIC", "civic"),
    # Capitals and letters.
    ("the FBI", "the f b i"),
    ("the CIA", "the c i A"),
    ("NASA", "nasa"),
    ("the U.S.A.", "the u s A ."),
    ("the U.S. Army", "the u s army"),
    ("Ph.D.", "p h d ."),
    ("CDs", "c d's"),
    ("the FBI's", "the f b i's"),
    ("ESPN", "e s p n"),
    ("HTML", "h t m l"),
    ("a PIN", "a pin"),
    ("I said NO!", "i said no !"),
    ("DO NOT ENTER", "do not enter"),
    ("THE FBI IS HERE", "the f b i is here"),
    ("HE HAD A DOG", "he had a dog"),
    ("AT&T", "A t and t"),
    ("A&E", "A and e"),
    ("TCP/IP", "t c p slash i p"),
    ("MP3", "m p three"),
    ("H2O", "h two o"),
    ("3D", "three d"),
    ("A4", "A four"),
    ("COVID-19", "covid nineteen"),
    ("Plan A is good", "plan A is good"),
    ("vitamin A.", "vitamin A ."),
    ("a, b, c", "A , b , c"),
    ("A boy", "a boy"),
    ("A-Z", "A z"),
    # Addresses and tags.
    ("info@example.com", "info at example dot com"),
    ("john.doe+x@mail-server.co.uk.", "john dot doe plus x at mail dash server dot co dot u k ."),
    ("www.example.com/a_b", "w w w dot example dot com slash a underscore b"),
    ("https://example.com/?x=1", "example dot com slash question mark x equals one"),
    ("example.com", "example dot com"),
    ("github.com/foo", "github dot com slash foo"),
    ("Node.js", "node dot js"),
    ("#MeToo", "hashtag me too"),
    ("@user", "at user"),
    ("C#", "c sharp"),
    ("C++", "c plus plus"),
    ("#100DaysOfCode", "hashtag one hundred days of code"),
    # Unicode.
    ("\ufb01ne", "fine"),
    ("cafe\u0301", "café"),
    ("don’t", "don't"),
    ("“quoted” — ‘text’", "quoted , text"),
    ("\uff11\uff12\uff13", "one hundred and twenty three"),
    ("٣٤", "thirty four"),
    ("②", "two"),
    ("Ⅷ", "eight"),
    ("\U0001d407\U0001d41e\U0001d425\U0001d425\U0001d428", "hello"),
    ("1\ufe0f\u20e3", "one"),
    ("soft\xadhyphen", "softhyphen"),
    ("1\u202f000", "one thousand"),
    ("hello \U0001f600 world", "hello world"),
    ("привет", "привет"),
    ("x\u2028y", "x y"),
    ("\ud800 hi", "hi"),
    ("rock 'n' roll", "rock and roll"),
    ("٣٫٥", "three point five"),
    ("٥٪", "five percent"),
    ("5〜10", "five to ten"),
    ("①②③", "one two three"),
    ("ⅷ", "eight"),
    ("Hawaiʻi", "hawai'i"),
    ("hello—world", "hello , world"),
]


@pytest.mark.parametrize(("written", "spoken"), WRITTEN_AND_SPOKEN)
def test_a_text_is_said_as_people_say_it(written, spoken):
    assert normalize_text(written) == spoken


@pytest.mark.parametrize(("written", "spoken"), WRITTEN_AND_SPOKEN)
def test_what_is_said_is_not_changed_again(written, spoken):
    # The letter A alone is an article in a text.
    assert normalize_text(spoken).lower() == spoken.lower()


def test_texts_of_different_meaning_sound_different():
    texts = ["5", "-5", "$5", "€5", "5%", "5th", "1/5", "5°", "5 km", "5.0", "50", "v5", "#5", "5:00", "$5 million"]
    assert len({normalize_text(text) for text in texts}) == len(texts)


def test_all_forms_of_unicode_are_the_same_words():
    text = "naïve façade, über Brücken: ﬁne ½ ②"
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    assert len({normalize_text(form) for form in forms[:2]}) == 1
    assert {normalize_text(form).split()[0] for form in forms} == {"naïve"}


def test_numbers_of_any_length_are_read():
    for length in (1, 15, 16, 40, 400, 5000):
        words = normalize_text("7" * length).split()
        assert set(words) <= {"seven", "seventy", "hundred", "and", "thousand", "million", "billion", "trillion"}


def test_symbols_without_words_are_named():
    assert unspoken_characters("Hi 😀, 50% of ∮ & 1️⃣ “yes” — \ud800 cafe\u0301 °") == ["😀", "∮", "\ud800"]
    assert normalize_text("😀 ☃") == ""


text_of_pieces = st.lists(
    st.sampled_from([written for written, _ in WRITTEN_AND_SPOKEN])
    | st.text(max_size=5)
    | st.sampled_from(" .,-/:'$%1aA")
).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.text() | text_of_pieces)
def test_any_text_gives_words_or_an_empty_result(text):
    for token in normalize_text(text).split():
        assert token in PAUSES or not any(character in token for character in "0123456789$%/@&+=*#_()")
    unspoken_characters(text)
    words = [part for part in spell_out(text) if part not in PAUSES]
    if words:
        assert text_to_units(text, lambda word: "a")[0] == "▁"
    else:
        with pytest.raises(ValueError, match="there is no word in"):
            text_to_units(text, lambda word: "a")


def test_a_long_text_of_any_piece_does_not_hang():
    for piece in ("1", "1,", "1-", "1/", "a.", "a@", "A ", "^1", "St. ", "$1 ", "\u0301\u0323", "(123) ", "#a-", "ab"):
        assert normalize_text((piece * 10_000)[:10_000] + " end").endswith("end")
