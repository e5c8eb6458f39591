"""The language-consistency reward: the share of words in one language, going by their script."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.language_consistency import LANGUAGES, language_consistency_reward

THOUGHTS = {
    "en": "Two and two make four, so the naïve answer is “four”.",
    "de": "Zwei und zwei sind vier, also heißt die schöne Antwort vier.",
    "es": "Dos más dos son cuatro, mañana también.",
    "fr": "Deux et deux font quatre, l'été déjà, cœur.",
    "it": "Due più due fanno quattro, perché sì.",
    "nl": "Twee en twee zijn vier, dus vier.",
    "pt": "Dois e dois são quatro, então não há mais.",
    "ru": "Два и два будет четыре, ещё и ещё.",
    "uk": "Два і два буде чотири, її ґанок.",
    "el": "Δύο και δύο κάνουν τέσσερα.",
    "ar": "اثنان واثنان أَرْبَعَة، إذن الجواب أربعة.",
    "fa": "دو به علاوه دو می‌شود چهار، پس چهار.",
    "he": "שתיים ועוד שתיים הן ארבע.",
    "ko": "둘 더하기 둘은 넷입니다. 그래서 답은 넷입니다.",
    "zh": "我们把两个数加起来，所以答案是四。",
    "ja": "二つの数を足すと四になります。だから答えはヨンです。",
}


def score(text, language="en"):
    return language_consistency_reward([text], language=language)[0]


def think(text, answer="5"):
    return f"<think>{text}</think> {answer}"


def test_there_is_a_thought_for_each_language():
    assert THOUGHTS.keys() == LANGUAGES.keys()


@pytest.mark.parametrize("language", THOUGHTS)
def test_one_language(language):
    thought = THOUGHTS[language]
    formal = r"$2+2=4$ \(\alpha x\) \[\sin x\] $$\text{abc}$$ `print(x)` ```python" + "\nprint('hello')\n``` x y 42 👍"
    for turn in (
        think(thought),
        thought,
        f"<think>{thought}",
        think(f"{thought} {formal}"),
        think(thought, "другой 别的 word"),
    ):
        assert score(turn, language) == 1 and score(turn, language).reason == "consistent"
    for marked in (f"\u202e{thought}\u202c", thought.replace(" ", "\u00a0"), thought.replace(" ", "\0")):
        assert score(think(marked), language) == 1


@pytest.mark.parametrize("language", THOUGHTS)
@pytest.mark.parametrize("wanted", THOUGHTS)
def test_another_language(language, wanted):
    value = score(think(THOUGHTS[language]), wanted)
    if LANGUAGES[language] == LANGUAGES[wanted]:
        assert value == 1
    else:
        assert value == 0 and value.reason == "other_language"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think></think>",
        think(""),
        think(" \n\t "),
        think("2 + 2 = 4"),
        think("$two + two = four$"),
        think("```\nall in a code block\n```"),
        think("`all in code`"),
        think("\\[ abc \\] \\(abc\\) \\begin{align} \\end{align} \\frac"),
        think("x y z a b c"),
        think("... --- !!! 👍👍"),
        think("_ __ ___"),
        think("\0\u200b\u202e"),
        "<think></think>" + THOUGHTS["en"],
    ],
)
def test_no_words_at_all_do_not_pay(text):
    assert score(text) == 0 and score(text).reason == "no_words"


@pytest.mark.parametrize(
    ("text", "language", "value"),
    [
        ("one two three 我们", "en", 3 / 4),
        ("one two three 我们大家", "en", 3 / 5),
        ("我们大家 one", "zh", 2 / 3),
        ("one two три четыре", "ru", 1 / 2),
        ("one two three четыре", "en", 3 / 4),
        ("pаge one", "en", 1 / 2),  # with a Cyrillic а
        ("раge one", "en", 1 / 2),
        ("ｆｕｌｌ ｗｉｄｔｈ", "en", 1),
        ("one two ```我们大家```", "en", 1 / 2),  # Chinese does not hide in code
        ("one two $我们大家$", "en", 1 / 2),
        ("one two \\text{我们大家}", "en", 1 / 2),
        ("one `два три`", "en", 1 / 3),
        ("我们大家都知道答案是四の", "zh", 11 / 12),
        ("我们大家都知道答案是四の", "ja", 0),
        ("파이썬 Python 코드", "ko", 2 / 3),
        ("コードを Python で書く", "ja", 3.5 / 4.5),
        ("one two ``` three four", "en", 1),
        ("it costs $5 or so", "en", 1),
    ],
)
def test_mixed(text, language, value):
    assert score(think(text), language) == pytest.approx(value)
    if 0 < value < 1:
        assert score(think(text), language).reason == f"mixed: {value:.2f}"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("根据题意，AB=5 cm，BC=12 cm，由勾股定理得 AC=13 cm。", "zh"),
        ("已知 sin(x)=0.5，cos(x)>0，log(2)=0.3。", "zh"),
        ("在△ABC中，∠BAC=90°，所以BC²=AB²+AC²，ABCD是矩形。", "zh"),
        ("五边形ABCDE的周长是25cm，面积是40cm²。", "zh"),
        ("速度是60km/h，也就是16.7m/s，质量为3kg，功率2kW。", "zh"),
        ("由 ab=6，2xy+3 得到 gcd(12, 18)=6，17 mod 5 = 2。", "zh"),
        ("令 f(x)=ln x，则 lim f(x) 不存在，max{a, b}=b。", "zh"),
        ("反应生成NaCl和H2O，还有CO2，NaOH过量，pH 为7。", "zh"),
        ("正方体ABCD-A1B1C1D1的棱长为2，P(A|B)=0.5。", "zh"),
        ("价格是 30 USD，约合 210 RMB，存储 16GB。", "zh"),
        ("等差数列 an = a1 + (n-1)d，dx 是微分。", "zh"),
        ("在Rt△ABC中，sin2x=2sinxcosx，lnx的导数是1/x，arctany是角。", "zh"),
        ("三角形ABCでAB=5cm、sin(x)を計算する。", "ja"),
        ("삼각형 ABC에서 AB=5 cm이고 sin(x)는 0.5이다.", "ko"),
        ("높이는 3km이고 무게는 2kg이다. 2ab를 더하면 된다.", "ko"),
        ("В треугольнике ABC сторона AB = 5 cm, а sin(x) равен 0.5.", "ru"),
        ("Στο τρίγωνο ABC είναι AB = 5 cm και sin(x) ίσο με 0.5.", "el"),
        ("في المثلث ABC الضلع AB يساوي 5 cm و sin(x) معلوم.", "ar"),
    ],
)
def test_mathematics_in_plain_text_is_in_every_language(text, language):
    assert score(think(text), language).reason == "consistent"


@pytest.mark.parametrize(
    "text",
    [
        "WE ADD THESE NUMBERS TOGETHER AGAIN",
        "We Are Adding Numbers",
        "so we add them and then we divide",
        "the value = five, then value + three = eight",
        "AB is the longer side",
        "the sin of the angle",
        "speed=sixty, time=two",
        "IsThisHidden AndThat",
    ],
)
def test_english_does_not_pass_for_mathematics(text):
    words = text.split()
    assert score(think(text), "zh").reason == "other_language"
    assert score(think(f"我们 {text}"), "zh") <= 1 / (1 + len(words) / 3)


def test_a_language_of_latin_letters_counts_its_symbols_as_before():
    assert score(think("AB is 5 cm and 我们 left"), "en") == 5 / 6


def test_a_column_of_languages():
    turns = [think(THOUGHTS["en"]), think(THOUGHTS["zh"]), think("x")]
    assert language_consistency_reward(turns, language=["en", "zh", None]) == [1, 1, None]
    with pytest.raises(UserError, match="language: 'xx' is not known; there are ar, de"):
        language_consistency_reward(turns, language=["en", "xx", None])


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "language: is not set; type `language: en`"), ({"language": "English"}, "language: 'English' is not known")],
)
def test_settings(given, message):
    with pytest.raises(UserError, match=f"^rewards: language_consistency: {message}"):
        language_consistency_reward(["a"], **given)


PIECES = ["<think>", "</think>", "$", "```", "`", "\\(", "\\[", "\\begin{", "\\alpha", "我", "の", "да ", "one ", "\0"]
PIECES += ["\u202e", "\u064b", "\u0301", "한", "א", "_", "\n", "\\"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(), max_size=20).map("".join), st.sampled_from(sorted(LANGUAGES)))
def test_any_text(text, language):
    alone = score(text, language)
    assert 0 <= alone <= 1
    assert language_consistency_reward(["我们", text, "one"], language=language)[1] == alone


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_takes_no_time(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    score(text)
    score(f"<think>$ ` ```{text}")
    assert time.process_time() - started < 5
