"""The parts of a response: its thinking, its final text, and its answer block."""


def final_text(turn: str) -> str | None:
    """The text after the thinking; None if the thinking never ends, so that nothing in it counts.

    >>> final_text("<think> 5? No, 7. </think> It is 7.")
    ' It is 7.'
    >>> final_text("It is 7."), final_text("<think> It is 7.")
    ('It is 7.', None)
    """
    closed = turn.rfind("</think>")
    if turn.rfind("<think>") > closed:
        return None
    return turn if closed < 0 else turn[closed + len("</think>") :]


def thinking(turn: str) -> str:
    """The text before the final text, without the tags; the whole response if it has no tags.

    >>> thinking("<think> 5? No, 7. </think> It is 7."), thinking("<think> It is 7."), thinking("It is 7.")
    (' 5? No, 7. ', ' It is 7.', 'It is 7.')
    """
    final = final_text(turn)
    before = turn if final is None or final == turn else turn[: len(turn) - len(final)]
    opened = before.find("<think>")
    inside = before if opened < 0 else before[opened:]
    return inside.replace("<think>", "").replace("</think>", "")


def answer_block(text: str) -> str | None:
    """The content of the last complete `<answer>...</answer>` in the final text.

    >>> answer_block("<think> a <answer> 1 </answer> </think> <answer> 2 </answer> <answer> 3 </answer>")
    ' 3 '
    """
    text = final_text(text) or ""
    opened = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if opened < 0:
        return None
    return text[opened + len("<answer>") : text.index("</answer>", opened)]
