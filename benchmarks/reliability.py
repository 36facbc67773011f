"""R1 to R30: what a user may rely on, each as a claim, a figure and whether it holds.

Most promises are kept by tests: their group is run by pytest, in one process, and the figure is the number that fail,
beside the number that ran. Counted experiments are made here: interruptions, injected faults, mistakes at the command
line, spoilt files. `ABSENT` names what is not built or was not measured here, and why; none of it counts as kept.
Types and shapes are checked while its tests run (R27, `pytest --typed`); how many functions that concerns is counted.
`--full` also makes two steps of every recipe (R13). A fresh clone (R30) is recorded by `newcomer`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
import xml.etree.ElementTree as tree
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _mistakes
from benchmarks._parsers import PARSERS, attempt, spoil
from benchmarks.harness import Bar, Result, reports
from benchmarks.resume import injected, killed

__all__ = ["run"]

ROOT = Path(__file__).resolve().parent.parent
SPOILT = 200
TESTS = {
    "R1 the same seed gives the same samples, every app": ["test_apps.py::test_samples_are_determined_by_their_seed"],
    "R3 a signal saves the step; exit 143 or 130": [
        "test_train.py::test_a_signal_saves_the_step_and_the_rest_is_the_same_bits",
        "test_apps.py::test_a_cancelled_run_saves_its_step_and_ends_with_the_same_bits",
    ],
    "R5 a full or closed disk is one line, early": [
        "test_train.py::test_a_folder_that_cannot_be_written_is_refused_before_step_0",
        "test_checkpoint.py::test_a_full_disk_is_one_line_and_keeps_the_last",
        "test_shards.py::test_a_full_disk_is_one_line",
    ],
    "R6 each truncation and each flipped bit of a checkpoint is noticed": [
        "test_checkpoint.py::test_every_truncation_is_noticed",
        "test_checkpoint.py::test_every_flipped_bit_is_noticed",
        "test_train.py::test_a_damaged_checkpoint_falls_back_to_the_one_before",
    ],
    "R7 no pickle, eval, shell, extractall": ["test_layout.py::test_nothing_dangerous_is_written"],
    "R8 hostile checkpoints are refused": [
        "test_checkpoint.py::test_a_forged_manifest_is_refused",
        "test_checkpoint.py::test_a_file_that_is_not_safetensors_is_refused",
        "test_checkpoint.py::test_weights_that_are_not_finite_are_refused",
        "test_apps.py::test_the_checkpoint_of_another_app_is_refused",
        "test_train.py::test_weights_of_another_shape_are_refused",
    ],
    "R9 a recipe or checkpoint that names a function is refused": [
        "test_hostile.py::test_a_recipe_that_names_a_function_is_refused",
        "test_hostile.py::test_a_checkpoint_that_names_a_function_is_refused",
    ],
    "R10, R11 hostile archives and broken downloads": ["test_fetch.py"],
    "R13 every recipe composes, with each trainer": ["test_recipes.py::test_every_recipe_composes_with_every_trainer"],
    "R15 laws of processes, bounds and samplers": ["test_process.py", "test_elbo.py", "test_sampler_laws.py"],
    "R17 a sample does not depend on its batch, every app": [
        "test_apps.py::test_a_sample_does_not_depend_on_its_batch"
    ],
    "R18 accumulated and distributed steps equal whole ones": [
        "test_train.py::test_accumulation_equals_the_full_batch",
        "test_train.py::test_two_processes_equal_one_also_when_they_resume[ddp]",
    ],
    "R19 a step without memory is made again from smaller batches": [
        "test_faults.py::test_a_step_without_memory_is_made_again_in_halves",
        "test_faults.py::test_out_of_memory_with_one_item_is_one_line_and_keeps_the_last",
        "test_faults.py::test_every_app_can_be_cut",
    ],
    "R20 a loss that is not finite ends the run": [
        "test_train.py::test_a_loss_that_is_not_finite_ends_the_run_and_overwrites_nothing"
    ],
    "R21 two runs never share a folder": ["test_train.py::test_two_runs_never_share_a_folder"],
    "R22 help in half a CPU-second without torch": ["test_cli.py::test_help_is_cheap"],
    "R23 layout": ["test_layout.py"],
    "R24 commands of the READMEs and pages run, or parse where they take long": [
        "test_readme.py",
        "test_docs.py::test_a_page_runs_from_top_to_bottom",
        "test_docs.py::test_what_is_not_run_can_be_typed",
        "test_docs.py::test_every_command_says_what_is_done_with_it",
    ],
    "R25 twenty losses are those of old": ["test_hostile.py::test_twenty_losses_are_those_of_old"],
    "R26 a checkpoint of format 1 answers as it did": [
        "test_hostile.py::test_a_checkpoint_of_old_loads_and_answers_as_it_did"
    ],
    "R27 a wrong type or shape is refused": ["test_typed.py"],
    "R28 there is no service: nothing listens": ["test_layout.py::test_nothing_listens"],
    "R29 every dependency is declared and pinned": [
        "test_layout.py::test_third_parties_are_declared",
        "test_layout.py::test_constraints_pin_every_dependency",
    ],
}
LONG = {"R13 every recipe makes two steps": ["test_recipes.py::test_every_recipe_makes_two_steps"]}
RECORDED = {"nas_validity", "dna_constraints", "trajectory_validity", "pde_constraints", "constraint_exact"}
ABSENT = {
    "R19": "with several processes a step without memory ends the run in one line; nothing is halved there",
    "R25": "golden curves of the workshop's toy only: the apps' networks still change",
    "R30": "told where `newcomer` is recorded",
    "R27": "nested functions, compiled loops and processes that tests start are not checked",
    "R29": "`make audit` asks a database of advisories; none could be reached from here, so no finding is reported",
}


def tested(groups: dict[str, list[str]], slow: bool) -> tuple[dict[str, dict[str, int]], int]:
    """Return for each group how many tests passed, failed and were skipped; and in how many a type was refused."""
    names = sorted({f"tests/{name}" for group in groups.values() for name in group})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--typed", "-p", "no:cacheprovider", f"--junitxml={report}"]
        subprocess.run([*command, *names, *(["--slow"] if slow else [])], cwd=ROOT, capture_output=True, check=False)
        cases = list(tree.parse(report).iter("testcase"))
    found = {}
    for claim, group in groups.items():
        mine = [case for case in cases if any(belongs(case, name) for name in group)]
        count = Counter(
            next((e.tag for e in case if e.tag in {"failure", "error", "skipped"}), "passed") for case in mine
        )
        found[claim] = {way: count[way] for way in ("passed", "failure", "error", "skipped")}
    return found, sum("violates type hint" in tree.tostring(case, "unicode") for case in cases)


def annotated() -> dict[str, int]:
    """Return how many functions of the house are checked while tests run, and how many of them state shapes."""
    code = "import json; from tests import typed; print(json.dumps(typed.survey()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def belongs(case: Any, name: str) -> bool:
    """Whether a case of the report is of a file, of a function, or of one of its parameters."""
    file, _, function = name.partition("::")
    if case.get("classname", "").split(".")[-1] != file.removesuffix(".py"):
        return False
    said = case.get("name", "")
    return not function or said == function or (said.startswith(f"{function}[") and "[" not in function)


def spoilt() -> dict[str, int]:
    """Return, for each parser, at how many of its spoilt files it neither read nor refused."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, parser in PARSERS.items():
            draw, valid = np.random.default_rng(0), parser.valid()
            ends = [attempt(parser, spoil(valid, draw), Path(folder)) for _ in range(SPOILT)]
            found[name] = sum(end not in {"read", "refused"} for end in ends)
    return found


def mistaken() -> dict[str, Any]:
    """Return how many mistakes were tried, and those that did not end in words and a code."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _mistakes.prepare(Path(folder))
        ends = [_mistakes.commit(words) for words in _mistakes.mistakes()]
    return {
        "tried": len(ends),
        "tracebacks": sum(bool(end.traceback) for end in ends),
        "not refused": [" ".join(end.words) for end in ends if not end.good],
    }


def recorded() -> dict[str, int]:
    """Return how many bars about violations hold and fail in the recorded results of constraints (R16)."""
    bars = [bar for name, report in reports().items() if name in RECORDED for bar in report["bars"]]
    kept = [bar["holds"] for bar in bars if bar["op"] == "==" and float(bar["threshold"]) == 0]
    return {"bars": len(kept), "fail": kept.count(False)}


def run(full: bool) -> Result:
    """Keep every promise once more."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    groups, refused = tested(TESTS, False)
    groups |= tested(LONG, True)[0] if full else {}
    with tempfile.TemporaryDirectory() as place:
        tried, lost = injected(Path(place) / "faults")
        ends = killed(Path(place), times=20, seed=2)
    files, errors, laws, types = spoilt(), mistaken(), recorded(), annotated()
    bars = [Bar(claim, g["failure"] + g["error"] + (g["passed"] == 0), "==", 0) for claim, g in groups.items()]
    bars += [
        Bar("R2 interruptions by SIGKILL and SIGTERM", ends["interruptions"], ">=", 15),
        Bar("R2 final weights bit-identical to an uninterrupted run", ends["identical"], "==", 1),
        Bar("R4 faults injected into the writing of checkpoints", tried, ">=", 100),
        Bar("R4 checkpoints lost", lost, "==", 0),
        Bar("R12 mistakes tried at the command line", errors["tried"], ">=", 100),
        Bar("R12 tracebacks", errors["tracebacks"], "==", 0),
        Bar("R12 mistakes not refused in words with a code", len(errors["not refused"]), "==", 0),
        Bar(f"R14 tracebacks over {len(files)} parsers, {SPOILT} spoilt files each", sum(files.values()), "==", 0),
        Bar("R16 recorded bars about violations that fail", laws["fail"], "==", 0),
        Bar("R27 tests in which a value of another type or shape than is written was met", refused, "==", 0),
    ]
    if clone := reports().get("newcomer"):
        fail = sum(not bar["holds"] for bar in clone["bars"])
        bars += [Bar("R30 recorded bars of a fresh clone that fail", fail, "==", 0)]
    figures = {"tests": groups, "interruptions": ends, "mistakes": errors, "parsers": files, "laws": laws}
    notes = "Not kept or not measured: " + "; ".join(f"{name}: {why}" for name, why in ABSENT.items())
    figures |= {"faults": {"tried": tried, "lost": lost}, "types": types}
    return Result(figures, bars, seed=2, notes=notes)
