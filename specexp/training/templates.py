"""The words of the task grammar as plain data: function templates, conditions, changes and names.

A docstring says everything that its body needs: no two templates, conditions or changes share a wording, so one prompt never has two
solutions. This module knows nothing of chance, hashing and files; grammar.py draws from it.
"""
from typing import NamedTuple


class Template(NamedTuple):
    """One shape of function. Slots: {many} argument, {one} loop variable, {all} how the docstring calls the elements,
    {p}/{P} a condition in words/code, {t}/{T} a change in words/code, {K} {L} numbers, {a} {b} letters, {u} {v} words."""

    kinds: str   # space-separated argument kinds: numbers words text number pairs mapping
    stems: str   # first parts of function names
    docs: tuple[str, ...]
    body: str


NOUNS = {
    "numbers": ("numbers/number", "values/value", "prices/price", "scores/score", "ages/age", "weights/weight", "points/point",
                "levels/level", "marks/mark", "sizes/size", "rates/rate", "heights/height", "costs/cost", "years/year"),
    "words": ("words/word", "names/name", "lines/line", "labels/label", "titles/title", "cities/city", "tokens/token",
              "fruits/fruit", "colors/color", "animals/animal", "songs/song", "codes/code"),
    "text": ("text/char", "sentence/char", "message/char", "phrase/char", "string/char", "note/char", "query/char", "poem/char"),
    "number": ("n/i", "number/i", "limit/i", "amount/i", "size/i", "stop/i", "length/i", "top/i"),
    "pairs": ("first/left", "before/left", "starts/left", "lows/left", "sales/left", "inputs/left"),
    "mapping": ("stock/value", "grades/value", "wages/value", "votes/value", "ages/value", "prices/value", "table/value", "scores/value"),
}
OTHERS = {"first": "second", "before": "after", "starts": "ends", "lows": "highs", "sales": "costs", "inputs": "outputs"}
ELEMENTS = {"numbers": "{many}", "words": "{many}", "text": "characters of {many}", "number": "integers from 0 to {many}",
            "pairs": "pairs of {many} and {other}", "mapping": "values of {many}"}

_NUMBER_CONDITIONS = (
    ("are greater than {k}", "{one} > {k}"), ("are less than {k}", "{one} < {k}"), ("are at least {k}", "{one} >= {k}"),
    ("are at most {k}", "{one} <= {k}"), ("are equal to {k}", "{one} == {k}"), ("are different from {k}", "{one} != {k}"),
    ("are divisible by {m}", "{one} % {m} == 0"), ("are not divisible by {m}", "{one} % {m} != 0"),
    ("are even", "{one} % 2 == 0"), ("are odd", "{one} % 2 == 1"), ("are positive", "{one} > 0"), ("are negative", "{one} < 0"),
    ("are between {k} and {l}", "{k} <= {one} <= {l}"), ("end in the digit {d}", "{one} % 10 == {d}"),
)
_NUMBER_CHANGES = (
    ("doubled", "{one} * 2"), ("squared", "{one} * {one}"), ("increased by {k}", "{one} + {k}"), ("decreased by {k}", "{one} - {k}"),
    ("multiplied by {m}", "{one} * {m}"), ("modulo {m}", "{one} % {m}"), ("negated", "-{one}"), ("subtracted from {k}", "{k} - {one}"),
    ("divided by {m}, rounded down", "{one} // {m}"), ("multiplied by {m} and increased by {k}", "{one} * {m} + {k}"),
)
CONDITIONS = {kind: _NUMBER_CONDITIONS for kind in ("numbers", "number", "pairs", "mapping")} | {
    "words": (("have more than {d} letters", "len({one}) > {d}"), ("have fewer than {d} letters", "len({one}) < {d}"),
              ("have exactly {d} letters", "len({one}) == {d}"), ("have at least {d} letters", "len({one}) >= {d}"),
              ("start with '{c}'", "{one}.startswith('{c}')"), ("end with '{c}'", "{one}.endswith('{c}')"),
              ("contain '{c}'", "'{c}' in {one}"), ("do not contain '{c}'", "'{c}' not in {one}"),
              ("contain '{c}' at least {m} times", "{one}.count('{c}') >= {m}")),
    "text": (("are vowels", "{one} in 'aeiou'"), ("are not vowels", "{one} not in 'aeiou'"), ("are digits", "{one}.isdigit()"),
             ("are equal to '{c}'", "{one} == '{c}'"), ("are different from '{c}'", "{one} != '{c}'"),
             ("come before '{c}'", "{one} < '{c}'"), ("come after '{c}'", "{one} > '{c}'"),
             ("are '{c}' or '{e}'", "{one} in '{c}{e}'"), ("are neither '{c}' nor '{e}'", "{one} not in '{c}{e}'")),
}
CHANGES = {kind: _NUMBER_CHANGES for kind in ("numbers", "number", "pairs", "mapping")} | {
    "words": (("in upper case", "{one}.upper()"), ("reversed", "{one}[::-1]"), ("followed by '{c}'", "{one} + '{c}'"),
              ("preceded by '{c}'", "'{c}' + {one}"), ("repeated {m} times", "{one} * {m}"), ("cut to {d} letters", "{one}[:{d}]"),
              ("without the first {d} letters", "{one}[{d}:]"), ("with '{c}' replaced by '{e}'", "{one}.replace('{c}', '{e}')")),
    "text": (("in upper case", "{one}.upper()"), ("followed by '{c}'", "{one} + '{c}'"), ("preceded by '{c}'", "'{c}' + {one}"),
             ("repeated {m} times", "{one} * {m}")),
}
LABELS = ("low", "high", "small", "large", "yes", "no", "good", "bad", "open", "closed", "cold", "hot", "left", "right", "old", "new")

_LOOP = "    for {one} in {many}:\n"
_RANGE = "    for {one} in range({many} + 1):\n"
_ZIP = "    for left, right in zip({many}, {other}):\n"
_ITEMS = "    for key, value in {many}.items():\n"
_IF = "        if {P}:\n"
_RESULT = "    return result\n"
_TOTAL = "    return total\n"
_COUNT = "    return count\n"
_ANY = "numbers words text"

TEMPLATES = (
    Template(_ANY, "select keep", ("Return the {all} that {p}, in order.", "Make a list of the {all} that {p}."),
             "    result = []\n" + _LOOP + _IF + "            result.append({one})\n" + _RESULT),
    Template(_ANY, "drop remove", ("Return the {all} without those that {p}.", "Remove the {all} that {p}."),
             "    result = []\n" + _LOOP + _IF + "            continue\n        result.append({one})\n" + _RESULT),
    Template(_ANY, "count", ("Return how many of the {all} {p}.", "Count the {all} that {p}."),
             "    count = 0\n" + _LOOP + _IF + "            count += 1\n" + _COUNT),
    Template(_ANY, "change convert", ("Return a list of the {all} {t}.", "Return each of the {all} {t}."),
             "    result = []\n" + _LOOP + "        result.append({T})\n" + _RESULT),
    Template(_ANY, "pick collect", ("Return the {all} that {p}, each {t}.", "Take the {all} that {p} and return them {t}."),
             "    result = []\n" + _LOOP + _IF + "            result.append({T})\n" + _RESULT),
    Template(_ANY, "adjust fix", ("Return all the {all}, those that {p} {t}.", "Change the {all} that {p}: return them {t}, the others as they are."),
             "    result = []\n" + _LOOP + _IF + "            result.append({T})\n        else:\n            result.append({one})\n" + _RESULT),
    Template(_ANY, "first find", ("Return the first of the {all} that {p}, or None.", "Find the first of the {all} that {p}."),
             _LOOP + _IF + "            return {one}\n    return None\n"),
    Template(_ANY, "last latest", ("Return the last of the {all} that {p}, or None.", "Find the last of the {all} that {p}."),
             "    result = None\n" + _LOOP + _IF + "            result = {one}\n" + _RESULT),
    Template(_ANY, "index locate", ("Return the index of the first of the {all} that {p}, or -1.", "Locate the first of the {all} that {p}; -1 if there is none."),
             "    for index, {one} in enumerate({many}):\n" + _IF + "            return index\n    return -1\n"),
    Template(_ANY, "indices positions", ("Return the indices of the {all} that {p}.", "List the positions of the {all} that {p}."),
             "    result = []\n    for index, {one} in enumerate({many}):\n" + _IF + "            result.append(index)\n" + _RESULT),
    Template(_ANY, "any has", ("Return True if any of the {all} {p}.", "Check whether some of the {all} {p}."),
             _LOOP + _IF + "            return True\n    return False\n"),
    Template(_ANY, "all only", ("Return True if all of the {all} {p}.", "Check whether all of the {all} {p}."),
             _LOOP + "        if not {P}:\n            return False\n    return True\n"),
    Template(_ANY, "split divide", ("Return two lists: the {all} that {p}, and the others.", "Split the {all} into those that {p} and the others."),
             "    matching = []\n    others = []\n" + _LOOP + _IF + "            matching.append({one})\n        else:\n"
             "            others.append({one})\n    return matching, others\n"),
    Template(_ANY, "frequency tally", ("Return a dict that counts the {all} that {p}.", "Tally the {all} that {p} in a dict."),
             "    counts = {{}}\n" + _LOOP + _IF + "            counts[{one}] = counts.get({one}, 0) + 1\n    return counts\n"),
    Template("numbers", "sum total", ("Return the sum of the {many} that {p}.", "Add up the {many} that {p}."),
             "    total = 0\n" + _LOOP + _IF + "            total += {one}\n" + _TOTAL),
    Template("numbers", "product", ("Return the product of the {many} that {p}.", "Multiply the {many} that {p}."),
             "    product = 1\n" + _LOOP + _IF + "            product *= {one}\n    return product\n"),
    Template("numbers", "sum total", ("Return the sum of the {many}, each {t}.", "Add up the {many} {t}."),
             "    total = 0\n" + _LOOP + "        total += {T}\n" + _TOTAL),
    Template("numbers", "max largest", ("Return the largest of the {many} that {p}, or None.", "Find the largest of the {many} that {p}."),
             "    best = None\n" + _LOOP + _IF + "            if best is None or {one} > best:\n                best = {one}\n    return best\n"),
    Template("numbers", "min smallest", ("Return the smallest of the {many} that {p}, or None.", "Find the smallest of the {many} that {p}."),
             "    best = None\n" + _LOOP + _IF + "            if best is None or {one} < best:\n                best = {one}\n    return best\n"),
    Template("numbers", "running accumulate", ("Return the running totals of the {many}, starting from {K}.", "Accumulate the {many} from {K} on."),
             "    result = []\n    total = {K}\n" + _LOOP + "        total += {one}\n        result.append(total)\n" + _RESULT),
    Template("numbers", "clamp limit", ("Return the {many}, none below {K} and none above {L}.", "Clamp the {many} to the range from {K} to {L}."),
             "    result = []\n" + _LOOP + "        if {one} < {K}:\n            {one} = {K}\n        if {one} > {L}:\n            {one} = {L}\n"
             "        result.append({one})\n" + _RESULT),
    Template("numbers", "replace", ("Return the {many} with those that {p} replaced by {K}.", "Replace the {many} that {p} by {K}."),
             "    result = []\n" + _LOOP + _IF + "            result.append({K})\n        else:\n            result.append({one})\n" + _RESULT),
    Template("words", "sizes measure", ("Return a dict from the {many} that {p} to their lengths.", "Map each of the {many} that {p} to its length."),
             "    result = {{}}\n" + _LOOP + _IF + "            result[{one}] = len({one})\n" + _RESULT),
    Template("words", "letters", ("Return the total length of the {many} that {p}.", "Add up the lengths of the {many} that {p}."),
             "    total = 0\n" + _LOOP + _IF + "            total += len({one})\n" + _TOTAL),
    Template("words", "longest", ("Return the longest of the {many} that {p}, or None.", "Find the longest of the {many} that {p}."),
             "    best = None\n" + _LOOP + _IF + "            if best is None or len({one}) > len(best):\n                best = {one}\n    return best\n"),
    Template("words", "join merge", ("Join the {many} that {p} with '{a}'.", "Return the {many} that {p} as one string, joined with '{a}'."),
             "    result = []\n" + _LOOP + _IF + "            result.append({one})\n    return '{a}'.join(result)\n"),
    Template("text", "swap replace", ("Return {many} with every '{a}' replaced by '{b}'.", "Replace each '{a}' in {many} by '{b}'."),
             "    result = ''\n" + _LOOP + "        if {one} == '{a}':\n            result += '{b}'\n        else:\n            result += {one}\n" + _RESULT),
    Template("text", "strip delete", ("Return {many} without the characters that {p}.", "Delete from {many} the characters that {p}."),
             "    result = ''\n" + _LOOP + "        if not {P}:\n            result += {one}\n" + _RESULT),
    Template("text", "rewrite spell", ("Return {many} with each character {t}.", "Rewrite {many} as a string of its characters {t}."),
             "    result = ''\n" + _LOOP + "        result += {T}\n" + _RESULT),
    Template("number", "sum total", ("Return the sum of the {all} that {p}.", "Add up the {all} that {p}."),
             "    total = 0\n" + _RANGE + _IF + "            total += {one}\n" + _TOTAL),
    Template("number", "count", ("Return how many of the {all} {p}.", "Count the {all} that {p}."),
             "    count = 0\n" + _RANGE + _IF + "            count += 1\n" + _COUNT),
    Template("number", "list make", ("Return a list of the {all} {t}.", "Make a list of the {all} {t}."),
             "    result = []\n" + _RANGE + "        result.append({T})\n" + _RESULT),
    Template("number", "power", ("Return {K} to the power of {many}.", "Multiply {K} by itself {many} times."),
             "    result = 1\n    for i in range({many}):\n        result *= {K}\n" + _RESULT),
    Template("number", "scale compute", ("Return {many} times {K} plus {L}.", "Multiply {many} by {K} and add {L}."),
             "    result = {many} * {K}\n    result += {L}\n" + _RESULT),
    Template("number", "label rate", ("Return '{u}' if {many} is less than {K}, else '{v}'.", "Label {many}: '{u}' below {K}, '{v}' otherwise."),
             "    if {many} < {K}:\n        return '{u}'\n    return '{v}'\n"),
    Template("number", "digits", ("Return the sum of the digits of {many}, plus {K}.", "Add up the digits of {many}, starting from {K}."),
             "    result = {K}\n    for digit in str({many}):\n        result += int(digit)\n" + _RESULT),
    Template("pairs", "add combine", ("Return the sums of {many} and {other}, each plus {K}.", "Add {many} and {other} pair by pair, and {K} to each."),
             "    result = []\n" + _ZIP + "        result.append(left + right + {K})\n" + _RESULT),
    Template("pairs", "dot", ("Return the sum of the products of {many} and {other} where the left one is greater than {K}.",
                              "Multiply {many} and {other} pair by pair and add up, skipping pairs whose left one is at most {K}."),
             "    total = 0\n" + _ZIP + "        if left > {K}:\n            total += left * right\n" + _TOTAL),
    Template("pairs", "bigger compare", ("Return the larger of each pair of {many} and {other}, plus {K}.", "Compare {many} and {other} and return the larger ones plus {K}."),
             "    result = []\n" + _ZIP + "        if left > right:\n            result.append(left + {K})\n        else:\n"
             "            result.append(right + {K})\n" + _RESULT),
    Template("mapping", "keys", ("Return the keys of {many} whose values {p}.", "List the keys in {many} with values that {p}."),
             "    result = []\n" + _ITEMS + _IF + "            result.append(key)\n" + _RESULT),
    Template("mapping", "update", ("Return a copy of {many} with the values {t}.", "Copy {many} with each value {t}."),
             "    result = {{}}\n" + _ITEMS + "        result[key] = {T}\n" + _RESULT),
    Template("mapping", "subset", ("Return the part of {many} whose values {p}.", "Keep the entries of {many} with values that {p}."),
             "    result = {{}}\n" + _ITEMS + _IF + "            result[key] = value\n" + _RESULT),
    Template("mapping", "sum total", ("Return the sum of the values of {many} that {p}.", "Add up the values of {many} that {p}."),
             "    total = 0\n" + _ITEMS + _IF + "            total += value\n" + _TOTAL),
)
