"""What a turn commits itself to in the many forms in which models write it, and what commits to nothing."""

import json
import re
from pathlib import Path

import pytest

from r1lab.grading.answers import readings
from r1lab.grading.maths import grade

RIGHT = [
    ("Answer: 7 (3 + 4 = 7)", "7"),
    ("So it's 175!", "175"),
    ("The number of ways is $5!$", "120"),
    ("She saves $175/week", "175"),
    ("So she makes $175/week.", "175"),
    ("Result → 175", "175"),
    ("Eggs: 16, sold: 9, total: 7", "7"),
    ("A: 7, B: 7", "7"),
    ("所以，小明需要24天。", "24"),
    ("因此，一共有 24 个苹果。", "24"),
    ("したがって、答えは24日です。", "24"),
    ("よって、24個です。", "24"),
    ("Therefore he works 6 hours a week.", "6"),
    ("The answer should be 7.", "7"),
    ("The answer must be 7", "7"),
    ("So the answer must therefore be 7.", "7"),
    ("The answer will be $7$.", "7"),
    ("The answer turns out to be 7!", "7"),
    ("The final answer comes out to be 7.", "7"),
    ("Our answer equals 7.", "7"),
    ("The answer, then, is 7.", "7"),
    ("The answer here is 7", "7"),
    ("This gives an answer of 7.", "7"),
    ("7 is the answer.", "7"),
    ("Hence $x = 7$ is our final answer.", "7"),
    ("So 7 is the correct answer.", "7"),
    ("The final result is 7.", "7"),
    ("The correct value is 7.", "7"),
    ("Ans: 7", "7"),
    ("**Answer**\n\n7\n\nI checked this by adding the numbers again.", "7"),
    ("### Final Answer\n$7$", "7"),
    ("Answer: So 7", "7"),
    ("Answer: the total is 7", "7"),
    ("Answer: There are 7 apples.", "7"),
    ("Final Answer: The value of $x$ is $7$.", "7"),
    ("Final Answer: The sum is $3+4=7$", "7"),
    ("So x = 7.", "7"),
    ("Hence, y = 7", "7"),
    ("Therefore $x=7$.", "7"),
    ("The total is $7$", "7"),
    ("The total cost is $7.", "7"),
    ("Total: 7", "7"),
    ("Total cost: $7", "7"),
    ("Result: 7 apples", "7"),
    ("= 7", "7"),
    ("A: 7", "7"),
    ("A: 7.", "7"),
    ("A: $7", "7"),
    ("A: The total is 7.", "7"),
    ("She has 7 dollars.", "7"),
    ("They sold 7 cups in total.", "7"),
    ("Altogether Tom and Ann bought 3 + 4 = 7 apples at the market.", "7"),
    ("Thus the number of ways is 7. Let me know if you have more questions about this one!", "7"),
    ("It takes her 7 hours to finish all of the work.", "7"),
    ("In the end, we obtain \\(\\frac{3}{4}\\) as the probability of the event.", "3/4"),
    ("The probability of that is then 3/4, as we wanted to show.", "3/4"),
    ("There are 1,234 people at the concert this evening.", "1234"),
    ("The solutions of this equation are 2 and 3.", "2, 3"),
    ("Thus the two solutions are $2$ and $3$, as the graph shows.", "2,3"),
    ("The temperature at noon is -7 degrees.", "-7"),
    ("Die Antwort lautet 7.", "7"),
    ("Antwort: 7", "7"),
    ("Die richtige Lösung ist 7.", "7"),
    ("La réponse finale est 7.", "7"),
    ("Réponse : 7", "7"),
    ("La réponse est donc 7.", "7"),
    ("La respuesta es 7.", "7"),
    ("La respuesta final es $7$.", "7"),
    ("Respuesta: 7", "7"),
    ("A resposta final é 7.", "7"),
    ("La risposta è 7.", "7"),
    ("よって、正解は7である。", "7"),
    ("答：7", "7"),
    ("答え：7", "7"),
    ("따라서 정답은 7입니다.", "7"),
    ("답은 7이다.", "7"),
    ("정답: 7", "7"),
    ("Ответ: 7.", "7"),
    ("Правильный ответ — 7.", "7"),
    ("Ответ равен 7", "7"),
    ("最终答案为7。", "7"),
    ("所以答案应该是 $7$。", "7"),
    ("答案：7", "7"),
    ("正确答案是7", "7"),
    ("الإجابة هي 7", "7"),
    ("Cevap: 7", "7"),
    ("Jawabannya adalah 7", "7"),
    ("उत्तर: 7", "7"),
    ("Đáp án là 7", "7"),
    ("\\boxed{7\\,}", "7"),
    ("\\boxed{\\ 7\\ }", "7"),
    ("\\boxed{7\\quad}", "7"),
    ("\\boxed{~7~}", "7"),
    ("\\boxed{\\text{Answer: 7}}", "7"),
    ("\\boxed{\\textbf{Answer: } 7}", "7"),
    ("\\boxed{\\mathrm{Answer} = 7}", "7"),
    ("\\boxed{\\text{The final answer is } 7}", "7"),
    ("\\boxed{\\text{The answer is 7.}}", "7"),
    ("\\boxed{Answer: 7}", "7"),
    ("\\boxed{\\text{Final Answer: }\\frac{3}{4}}", "3/4"),
    ("\\boxed7", "7"),
    ("$\\boxed7$", "7"),
    ("$\\boxed 7$.", "7"),
    ("\\boxed{ {7} }", "7"),
    ("\\boxed{\\color{red}7}", "7"),
    ("\\boxed{\\textcolor{blue}{7}}", "7"),
    ("{\\color{red}\\boxed{7}}", "7"),
    ("\\boxed{\\colorbox{yellow}{7}}", "7"),
    ("\\boxed{\\underline{7}}", "7"),
    ("\\boxed{\\underline{\\mathbf{7}}}", "7"),
    ("\\boxed{\\boldsymbol{7}}", "7"),
    ("\\boxed{\\bm{7}}", "7"),
    ("\\boxed{\\Large 7}", "7"),
    ("\\boxed{\\bf 7}", "7"),
    ("\\boxed{7 \\checkmark}", "7"),
    ("\\boxed{\\emph{7}}", "7"),
    ("\\boxed{x = \\color{red}{7}}", "7"),
    ("\\boxed{\\mbox{7}}", "7"),
    ("\\boxed{\\bbox[5px]{7}}", "7"),
    ("\\boxed{\\displaystyle\\frac{3}{4}}", "3/4"),
    ("\\boxed{\\boxed{7}}", "7"),
    ("\\fbox{7}", "7"),
    ("\\boxed\\frac34", "3/4"),
    ("\\boxed{$7$}", "7"),
    ("\\boxed{\\(7\\)}", "7"),
    ("\\boxed{**7**}", "7"),
    ("\\boxed{2} \\text{ and } \\boxed{3}", "2,3"),
    ("$\\boxed{2}$, $\\boxed{3}$, and $\\boxed{5}$", "2,3,5"),
    ("\\boxed{2}\\quad\\boxed{3}", "2,3"),
    ("$\\boxed{2}$ or $\\boxed{3}$", "2,3"),
    ("$x=\\boxed{2}$ or $x=\\boxed{3}$", "2,3"),
    ("\\[\\boxed{2}\\] and \\[\\boxed{3}\\]", "2,3"),
    ("$\\boxed{2}$ und $\\boxed{3}$", "2,3"),
    ("$\\boxed{2}$、$\\boxed{3}$", "2,3"),
    ("$$\\boxed{2}$$\n$$\\boxed{3}$$", "2,3"),
    ("$\\boxed{x=2}$ and $\\boxed{y=3}$", "x=2,y=3"),
    ("I get \\boxed{5}. No, \\boxed{7}", "7"),
    ("\\boxed{7} \\boxed{7}", "7"),
    ("\\boxed{5}\n\nLet me check again.\n\n\\boxed{7}", "7"),
    ("\\boxed{5}\n\n\\boxed{7}", "7"),
    ("first \\boxed{5}, then \\boxed{7}", "7"),
    ("The answer is 7, which is a prime number.", "7"),
    ("The answer is 7, so they need 7 boxes.", "7"),
    ("The answer is 7 apples, because 3 + 4 = 7.", "7"),
    ("<answer>She has 7 dollars left.</answer>", "7"),
    ("<answer>The total number is 7.</answer>", "7"),
    ("<answer>x = 7</answer>", "7"),
    ("<answer>Total: 7</answer>", "7"),
    ("<answer>First 3, then 4.\nSo it is 7.</answer>", "7"),
    ("Q: How many?\nA: 7", "7"),
    ("3 + 4 = 7\nA: 7", "7"),
    ("Step 1: 3 + 4 = 7\nSo the answer is 7\nA: 7", "7"),
    ("Thus, the largest such $n$ is $\\boxed{7}$", "7"),
    ("Therefore, she makes $7 every day at the farmer's market.", "7"),
    ("So 7 students passed", "7"),
    ("They need 21 x 7 = 147 kilograms of it.", "147"),
    ("11-3=8 trees", "8"),
    ("18 points + 18 points = 36 points", "36"),
    ("So, x = 3 + 4 = 7.", "7"),
    ("Thus she has 98 - 40 = 58 plants.", "58"),
    ("The number that were not ready is 84-63 =21", "21"),
    ("Total = $5 + $6 = $11", "11"),
    ("Over 52 weeks (1 year) he does 52*3 = 156 loads of laundry.", "156"),
    ("Of these, 3 + 4 = 7 are red.", "7"),
    ("=> 7", "7"),
    ("答えは 7 です。", "7"),
    ("The bicycle travels at $\\frac{240}{60}=4$ inches in a second.", "4"),
    ("This reduces to computing $\\frac 79 - \\frac 49 = \\frac 39$.", "1/3"),
    ("Hence, the angle is $90^\\circ.$", "90"),
    ("\\[x^2 = 4,\\]so $x = 2.$ \\[y = 7.\\]Hence, the least value of $x + y$ is $9.$", "9"),
    ("The answer is $7$ dollars.", "7"),
    ("Zoey keeps $2$ pencils in her bag.", "2"),
    ("$a$ and $b$ " * 150 + "give $7$.\n\nSo that is $8$ for all of the pupils together.", "8"),
    ("So the house has 1200+1000=2200 square feet", "2200"),
    ("For the whole week they ride 24+30 = 54 times", "54"),
    ("She will earn $9 + $20 = $29 if she sells everything.", "29"),
    ("Answer: 7\n\nExplanation: 3 + 4 gives 7, and 8 would be too many.", "7"),
    ("The final answer is 7.\n\nNote: I assumed 3 dogs.", "7"),
    ("Finally, $a+b = 3+4 = 7$.", "7"),
    ("So there are seven (7) apples.", "7"),
    ("\\framebox{7}", "7"),
    ("The answer is (1, 2).", "(1,2)"),
    ("The answer is yes, because 3 < 4.", "Yes"),
    ("The answer is y = 2x + 1, which is a line.", "y=2x+1"),
]

# Hedges, negations, lists, and formulas or words that a number is only a part of.
WRONG = [
    ("Answer: 7 (3 + 5 = 8)", "8"),
    ("Answer: 7 (or 8)", "7"),
    ("So it's 5!", "120"),
    ("A: 174, B: 175", "175"),
    ("Alice: 174, Bob: 175", "175"),
    ("As x → 7", "7"),
    ("Note that 5 → 7", "7"),
    ("答えは24ではない。", "24"),
    ("答えは24ではありません。", "24"),
    ("よって、24個ではありません。", "24"),
    ("所以，小明需要25天。", "24"),
    ("The answer is 3 or 4 or 5.", "3"),
    ("The answer is 3 or 4 or 5.", "5"),
    ("The answer is 3 or 4 or 5.", "4"),
    ("It is 3 or 4 or 5.", "5"),
    ("The answer is either 3 or 5", "5"),
    ("The answer could be 3, 4, 5", "5"),
    ("The answer is 3, maybe 5.", "5"),
    ("The answer is 3, maybe 5.", "3"),
    ("It might be 3, perhaps 5", "5"),
    ("<answer>3 or 5</answer>", "5"),
    ("<answer>It is 3 or 5.</answer>", "5"),
    ("<answer>3\n5</answer>", "5"),
    ("<answer>3\n5</answer>", "3"),
    ("<answer>3. 5.</answer>", "5"),
    ("<answer>3, 5</answer>", "5"),
    ("<answer>3 and 5</answer>", "5"),
    ("<answer>The answer is 3 or 5</answer>", "5"),
    ("The answer is not 5.", "5"),
    ("The answer is never 5", "5"),
    ("It is not 5.", "5"),
    ("It isn't 5 at all", "5"),
    ("<answer>not 5</answer>", "5"),
    ("<answer>anything except 5</answer>", "5"),
    ("<think>The answer is 5</think>", "5"),
    ("<think>The answer is 5", "5"),
    ("<think>\\boxed{5}</think> Done.", "5"),
    ("<think> 5 </think>", "5"),
    ("\\boxed{3} or \\boxed{5}", "5"),
    ("\\boxed{3}, \\boxed{5}", "5"),
    ("\\boxed{3}, \\boxed{5}", "3"),
    ("$x=\\boxed{3}$ or $x=\\boxed{5}$", "5"),
    ("\\boxed{3}\\boxed{5}", "5"),
    ("\\boxed{3} and \\boxed{5}", "3"),
    ("\\boxed{5", "5"),
    ("so \\fbox{5", "5"),
    ("We get 5. So \\boxed{5", "5"),
    ("1 2 3 4 5", "5"),
    ("1, 2, 3, 4, 5", "5"),
    ("3 4 5 6 7 8", "8"),
    ("5!", "5"),
    ("<answer>5!</answer>", "5"),
    ("The result is \\sin 5", "5"),
    ("<answer>\\sin 5</answer>", "5"),
    ("<answer>sin 5</answer>", "5"),
    ("<answer>f(5)</answer>", "5"),
    ("<answer>arctan(5)</answer>", "5"),
    ("<answer>|x-5|</answer>", "5"),
    ("<answer>5(x+1)</answer>", "5"),
    ("<answer>5 (x+1)</answer>", "5"),
    ("<answer>{3, 5}</answer>", "5"),
    ("<answer>(3, 5)</answer>", "5"),
    ("<answer>(a, 5)</answer>", "5"),
    ("<answer>x + 5</answer>", "5"),
    ("<answer>5 - x</answer>", "5"),
    ("<answer>5 \\pm 1</answer>", "5"),
    ("<answer>5 - cos x</answer>", "5"),
    ("<answer>sqrt 5</answer>", "5"),
    ("<answer>log 5</answer>", "5"),
    ("She has 5 million dollars.", "5"),
    ("It takes 5 halves of it", "5"),
    ("The answer lies between 3 and 5", "5"),
    ("from 3 to 5", "5"),
    ("The answer is 3-5", "5"),
    ("The answer is 4. She has 5 dogs", "5"),
    ("I do not know.", "5"),
    ("", "5"),
    ("<answer></answer> 5", "5"),
    ("The answer is 5^2", "5"),
    ("5 percent of 3", "3"),
]


@pytest.mark.parametrize(("turn", "gold"), RIGHT)
def test_right(turn, gold):
    assert grade(turn, gold) == (1.0, "correct"), readings(turn)
    assert grade(f"<think> It is 99. </think>{turn}", gold) == (1.0, "correct")
    assert grade(turn, "98")[0] == 0.0


@pytest.mark.parametrize(("turn", "gold"), WRONG)
def test_wrong(turn, gold):
    assert grade(turn, gold)[0] == 0.0, readings(turn)


@pytest.mark.parametrize("answer", ["2x = 5", "2^x = 5", "x^2 = 5", "8 = 5", "-5 = 5"])
def test_an_equation_is_read_whole(answer):
    assert readings(f"So {answer}.")[1:] == readings(f"<answer>{answer}</answer>") == [answer]


def test_worked_solutions_without_a_mark_commit_to_their_result():
    path = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"{path}: no such data beside the project")
    right = 0
    for line in path.read_text(encoding="utf-8").splitlines()[:400]:
        solution, _, gold = json.loads(line)["answer"].rpartition("####")
        solution = re.sub("<<[^<>]*>>", "", solution).strip()  # GSM8K's calculator
        right += grade(solution, gold.strip().replace(",", ""))[0]
    assert right >= 360


@pytest.mark.parametrize(
    "turn",
    ["<answer> What is 3 + 4? </answer>", "What is 3 + 4", "What's 3 + 4", "Compute 3 + 4.",
     "<answer> 3 + 4? </answer>", "How much is 3 + 4", "Please calculate 3 + 4.", "The answer is: what is 3 + 4"],
)  # fmt: skip
def test_the_question_again_is_no_answer(turn):
    assert grade(turn, "7")[0] == 0


@pytest.mark.parametrize(
    "turn",
    ["What is 3 + 4? It is 7.", "How many? 7", "Compute 3 + 4 = 7.", "So it is 7. Does that help?", "Which gives 7.",
     "What remains is 7 apples.", "What is left is 7 apples."],
)  # fmt: skip
def test_words_of_a_question_in_an_answer(turn):
    assert grade(turn, "7")[0] == 1


@pytest.mark.parametrize(
    "turn",
    ["Die Antwort ist nicht 7.", "La respuesta no es 7.", "La réponse n'est pas 7.", "答案不是7。", "Ответ не 7.",
     "A resposta não é 7.", "La risposta non è 7.", "정답은 7이 아닙니다.", "The answer is half of 7.",
     "The answer is twice 7.", "The answer is the square of 7.", "The answer is less than 7.",
     "The answer is negative 7.", "The answer is at least 7.", "I doubt that the answer is 7.",
     "I am not sure whether it is 7.", "I do not know if the answer is 7.", "If the answer is 7, we are done.",
     "Suppose the answer is 7."],
)  # fmt: skip
def test_what_is_negated_changed_or_doubted_is_no_answer(turn):
    assert grade(turn, "7")[0] == 0


@pytest.mark.parametrize(
    "turn",
    ["The square root of 49 is 7.", "Half of 14 is 7.", "I was not sure at first. It is 7.",
     "If x = 3, the answer is 7.", "We do not know x, but the answer is 7.", "Twice 3.5 is 7.", "The minimum is 7.",
     "Assuming that x > 0, the answer is 7.", "I no longer doubt it: the answer is 7."],
)  # fmt: skip
def test_negations_changes_and_doubts_of_something_else_do_no_harm(turn):
    assert grade(turn, "7")[0] == 1
