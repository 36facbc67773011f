"""What is admissible, as automata of the core: brackets close in order, and words of the user's stay out."""

from itertools import product

import numpy as np
from apps.brackets.tokenizer import LETTERS, encode

from core.constrain import regular
from core.constrain.automaton import Automaton, forbid


def balanced(depth):
    """Return the law of brackets that close in order, at most `depth` inside each other; a state is a stack."""
    stacks = [s for n in range(depth + 1) for s in product((0, 2), repeat=n)]
    number = {s: i for i, s in enumerate(stacks)}
    delta = np.full((len(stacks), 4), -1)
    for stack, i in number.items():
        delta[i, [0, 2]] = [number.get((*stack, opening), -1) for opening in (0, 2)]
        if stack:
            delta[i, stack[-1] + 1] = number[stack[:-1]]
    return Automaton(delta, np.array([not s for s in stacks]))


def without(word):
    """Return the rule that a word stands nowhere."""
    return forbid(encode([word]).tolist(), len(LETTERS))


def law(recipe, rows, rules=()):
    """Return the law of `rows` balanced texts that obey the rules; InfeasibleError where there are none."""
    named = {"balanced": balanced(recipe.depth)} | {f"rule {i}": rule for i, rule in enumerate(rules, 1)}
    return regular.law(regular.feasible(named, recipe.length), rows, recipe.length)
