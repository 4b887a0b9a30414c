"""Short invented news articles, each with the one sentence that sums it up. Articles for evaluation are held out by the same rule as the
functions of grammar.py.

Every name and number of a summary stands in its article; nothing in them is true. This module knows nothing of models and tokens.
"""
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

FIRST = "Anna Ben Clara David Elena Frank Grace Hugo Irene James Karen Liam Maria Nina Oscar Paula Ralph Sara Thomas Vera".split()
LAST = "Adams Baker Clarke Dixon Ellis Foster Grant Hughes Irwin Jones Keller Lopez Morgan Novak Owens Price Reid Stone Turner Walsh".split()
CITY = "Ashford Belmont Carlow Dover Easton Fairview Glenville Harwick Kenton Linden Marston Norwood Oakdale Preston Redhill Stafford Upton Weston".split()
MONTH = "January February March April May June July August September October November December".split()
DAY = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TEAM = "Rovers United Albion Rangers Athletic Wanderers Harriers Town".split()
COMPANY = "Northwind Bluestone Greenfield Silverline Redwood Brightwater Ironbridge Clearview Sunrise Westgate".split()
PLACE = "school, hotel, library, factory, warehouse, museum, hospital, theatre, market, station".split(", ")
PRODUCT = "bicycles, batteries, tractors, shoes, clocks, toys, engines, chairs, phones, lamps".split(", ")
ANIMAL = "an owl, a fox, a wolf, a seal, a swan, a bear, an otter, an eagle, a lynx, a goat".split(", ")


@dataclass(frozen=True)
class Article:
    """A document of 60-120 words and its reference summary."""

    document: str
    summary: str

    @property
    def prompt(self) -> str:
        """The text that a model is given; the summary follows after one space."""
        return f"Generate a short Summary for this article: {self.document}\nSummary:"


# (lead sentence, sentences with what else the summary needs, summary)
EVENTS = (
    ("A fire broke out at a {place} in {city} on {day}.", ("{n} people were taken to hospital, officials said.", "About {m} firefighters fought the flames for {h} hours."),
     "A fire at a {place} in {city} has left {n} people in hospital."),
    ("Voters in {city} went to the polls on {day} to choose a mayor.", ("{name} won with {n} per cent of the vote.", "The other candidate, {other}, received {m} per cent."),
     "{name} has been elected mayor of {city} with {n} per cent of the vote."),
    ("{city} {team} played {town} {rivals} in front of {m} hundred people on {day}.", ("{city} {team} won the match by {h} goals.", "{name} scored the first goal after {n} minutes."),
     "{city} {team} beat {town} {rivals} after an early goal by {name}."),
    ("{company} said on {day} that it would buy its rival {firm}.", ("The price is {n} million pounds.", "{firm} makes {product} and has {m} workers in {city}."),
     "{company} is to buy the {product} maker {firm} for {n} million pounds."),
    ("{company} said on {day} that it would close its plant in {city}.", ("The plant makes {product} and employs {n} people.", "It will shut in {month}, after {m} years of work."),
     "{company} is to cut {n} jobs by closing its {product} plant in {city}."),
    ("A storm hit {city} on {day} night.", ("Winds reached {m} miles an hour.", "{n} homes were left without power.", "The {place} lost part of its roof."),
     "A storm has left {n} homes in {city} without power."),
    ("A new {place} opened in {city} on {day}.", ("It cost {n} million pounds and took {h} years to build.", "{name}, who designed it, cut the ribbon.", "Some {m} guests came to see it."),
     "A {place} designed by {name} has opened in {city} at a cost of {n} million pounds."),
    ("Police in {city} are looking for {name}, who is {n} years old.", ("The pensioner was last seen near the {place} on {day}.", "Some {m} neighbours joined the search."),
     "Police are searching for {name}, {n}, last seen near the {place} in {city}."),
    ("People in {city} were surprised to see {animal} in the town centre on {day}.", ("It had escaped from a park near {town}.", "{name} caught it after {n} minutes with a net."),
     "{name} has caught {animal} that had escaped from a park near {town}."),
    ("A court in {city} heard the case of {name} on {day}.", ("The accused stole {product} worth {m} thousand pounds from {company}.", "The judge set a sentence of {n} months in prison."),
     "{name} has been jailed for {n} months for stealing {product} from {company}."),
    ("The road between {city} and {town} will be closed from {day}.", ("Workers need {n} days to repair a bridge.", "Drivers should expect delays of {m} minutes."),
     "Repairs to a bridge will close the road from {city} to {town} for {n} days."),
    ("{name} has run from {city} to {town} for charity.", ("The runner covered {m} miles and finished on {day}.", "Friends and strangers gave {n} thousand pounds to the {place}."),
     "{name} has raised {n} thousand pounds for a {place} by running from {city} to {town}."),
)
ASIDES = (
    "The weather was mild for {month}.", "Local people said they had not expected it.", "\"We are doing all we can,\" said {third}, who speaks for the council.",
    "The council will meet again in {month}.", "A similar event took place {k} years ago.", "\"It was a day to remember,\" said {third}, who lives nearby.",
    "Further details are expected next week.", "The town has about {k} thousand inhabitants.", "Nobody from the region was available for comment.",
    "{third}, a teacher, saw it from a window.", "The news was first reported by a local radio station.", "Shops in the area stayed open as usual.",
)


def held_out(summary: str, classes: int = 8) -> bool:
    """Whether an article belongs to evaluation, decided by the sha256 of its summary."""
    digest = hashlib.sha256(" ".join(summary.split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") % classes == 0


def draw_slots(rng: random.Random) -> dict[str, str]:
    """A value for every slot of EVENTS and ASIDES."""
    names = [f"{first} {last}" for first, last in zip(rng.sample(FIRST, 3), rng.sample(LAST, 3), strict=True)]
    slots = dict(zip(("name", "other", "third"), names, strict=True)) | {"team": rng.choice(TEAM), "rivals": rng.choice(TEAM)}
    slots |= dict(zip(("city", "town"), rng.sample(CITY, 2), strict=True)) | dict(zip(("company", "firm"), rng.sample(COMPANY, 2), strict=True))
    pools = {"day": DAY, "month": MONTH, "place": PLACE, "product": PRODUCT, "animal": ANIMAL}
    slots |= {slot: rng.choice(pool) for slot, pool in pools.items()}
    ranges = {"n": (11, 89), "m": (21, 95), "k": (12, 80), "h": (2, 9)}
    return slots | {slot: str(rng.randint(low, high)) for slot, (low, high) in ranges.items()}


def draw_article(rng: random.Random, evaluation: bool, asides: tuple[int, int] = (5, 7)) -> Article:
    """An article for evaluation, or for training. The lead comes first, then facts and asides in any order. asides: the least and the
    greatest number of them.
    """
    while True:
        slots, (lead, facts, summary) = draw_slots(rng), rng.choice(EVENTS)
        if held_out(summary.format(**slots)) == evaluation:
            break
    sentences = [*facts, *rng.sample(ASIDES, rng.randint(*asides))]
    rng.shuffle(sentences)
    return Article(" ".join([lead, *sentences]).format(**slots), summary.format(**slots))


def training_article(rng: random.Random, asides: tuple[int, int] = (5, 7)) -> Article:
    """An article that no evaluation file holds."""
    return draw_article(rng, evaluation=False, asides=asides)


def article_rows(count: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """Held-out articles as rows {id, document, summary}, each summary once."""
    seen = set()
    while len(seen) < count:
        article = draw_article(rng, evaluation=True)
        if article.summary not in seen:
            yield {"id": f"MicroSum/{len(seen)}", "document": article.document, "summary": article.summary}
            seen.add(article.summary)
