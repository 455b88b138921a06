"""Short Python functions with the task before them: texts whose likelihood is measured.

Written as the texts that the code variant was trained on. How rows are split is decided elsewhere.
"""

from collections.abc import Sequence

from questions.question import Row, read_table

__all__ = ["groups", "texts"]

NUMBERS = tuple(str(n) for n in range(2, 16))
LETTERS = tuple("abcdeimnorstuy")
LISTS = ("numbers", "values", "scores", "prices", "ages", "heights", "weights", "grades")

# task, function, what stands in the place of {x}
TEMPLATES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "multiples": (
        "gives the first n multiples of {x}",
        "def multiples(n):\n    return [{x} * i for i in range(1, n + 1)]",
        NUMBERS,
    ),
    "divisible": (
        "checks whether a number can be divided by {x}",
        "def is_divisible(number):\n    return number % {x} == 0",
        NUMBERS,
    ),
    "above": (
        "keeps the numbers of a list that are greater than {x}",
        "def filter_list(numbers):\n    return [n for n in numbers if n > {x}]",
        NUMBERS,
    ),
    "add": (
        "adds {x} to every number in a list",
        "def add_to_all(numbers):\n    result = []\n    for n in numbers:\n"
        "        result.append(n + {x})\n    return result",
        NUMBERS,
    ),
    "repeat": (
        "prints a message {x} times",
        "def repeat(message):\n    for i in range({x}):\n        print(message)",
        NUMBERS,
    ),
    "first": (
        "returns the first {x} characters of a string",
        "def first_characters(text):\n    return text[:{x}]",
        NUMBERS,
    ),
    "long": (
        "returns the words of a sentence that have more than {x} letters",
        "def long_words(sentence):\n    words = sentence.split()\n"
        "    return [word for word in words if len(word) > {x}]",
        NUMBERS,
    ),
    "letter": (
        "counts how often the letter {x} is in a string",
        "def count_letter(text):\n    count = 0\n    for letter in text:\n"
        '        if letter == "{x}":\n            count += 1\n    return count',
        LETTERS,
    ),
    "remove": (
        "removes every letter {x} from a string",
        'def remove_letter(text):\n    return text.replace("{x}", "")',
        LETTERS,
    ),
    "starts": (
        "returns the words of a list that start with the letter {x}",
        "def find_words(words):\n    result = []\n    for word in words:\n"
        '        if word.startswith("{x}"):\n            result.append(word)\n    return result',
        LETTERS,
    ),
    "total": (
        "adds up all the {x} in a list",
        "def total({x}):\n    total = 0\n    for x in {x}:\n        total += x\n    return total",
        LISTS,
    ),
    "average": (
        "calculates the average of a list of {x}",
        "def average({x}):\n    return sum({x}) / len({x})",
        LISTS,
    ),
    "largest": (
        "finds the largest of a list of {x}",
        "def largest({x}):\n    result = {x}[0]\n    for x in {x}:\n        if x > result:\n"
        "            result = x\n    return result",
        LISTS,
    ),
    "ordered": (
        "sorts a list of {x} from the largest to the smallest",
        "def sort_{x}({x}):\n    return sorted({x}, reverse=True)",
        LISTS,
    ),
}


def groups() -> list[list[Row]]:
    """Give what each template is filled with, and a group of units: template, x, further words."""
    filled: list[list[Row]] = [[(name, x) for x in TEMPLATES[name][2]] for name in TEMPLATES]
    return [*filled, [("units", *row) for row in read_table("units")]]


def texts(rows: Sequence[Row]) -> list[str]:
    """Write one task and its function for each row."""
    return [
        _converted(*words) if name == "units" else _filled(name, *words) for name, *words in rows
    ]


def _filled(name: str, x: str) -> str:
    task, code, _ = TEMPLATES[name]
    return _text(task.format(x=x), code.format(x=x))


def _converted(one: str, other: str, operation: str, factor: str) -> str:
    code = f"def {one}_to_{other}({one}):\n    return {one} {operation} {factor}"
    return _text(f"converts {one} to {other}", code)


def _text(task: str, code: str) -> str:
    return f"### Instruction:\nWrite a Python function that {task}.\n\n### Response:\n{code}"
