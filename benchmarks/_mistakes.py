"""Mistakes that users make at the command line, over all apps: each must end in words and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apps import DOMAINS

__all__ = ["Outcome", "commit", "mistakes", "prepare"]

EVERYWHERE = """
train optim.lrr=1 ; train toyy ; train trainer=gppu ; train trainer.steps=-5 ; train trainer.steps=abc ;
train +modle.dropout=0 ; train ~optim.lrr ; train optim.betas=[0.9, ; train toy toy ; train --config-name=x ;
train seed=-1 ; train mine.yaml ; train bad.yaml ; train trainer.accelerator=gppu ; train optim.lr=nan ;
train -m optim.lr=0.1,abc ; train trainer.precision=8-bit ; train optim.schedule=cosin ; train data=3 ;
train toy --out file/run trainer.steps=1 ; check optim.lr=-1 ; check nowhere ; check damaged ; check foreign ;
sample nowhere ; sample damaged ; sample foreign ; sample ; sample toy -n abc ; sample toy --nosuch ;
sample toy --seed x ; sample toy --shards 2 -n 4 ; sample toy --shards 2 -n 4 --out x.nosuch ;
sample toy --shards 9 -n 2 --out y.jsonl ; evaluate nowhere ; evaluate damaged ; data nothing ; recipes extra ;
nosuchverb ; trian toy
"""
OWN = {
    "trajectory": """
sample toy ; sample toy --origin 3 ; sample toy --origin 99999999 --destination 5 ;
sample toy --origin abc --destination 5 ; sample toy --origin -1 --destination 5 ; sample toy --od absent.csv ;
sample toy --od garbage ; sample toy --origin 3 --destination 200 --min-km 5 --max-km 2 ;
sample toy --origin 3 --destination 200 --depart 25:99 ; sample toy --origin 3 --destination 200 --via x ;
sample toy --origin 3 --destination 200 --close-polygon 1,2 ; sample toy --origin 3 --destination 200 -n 0 ;
sample toy --origin 3 --destination 200 --forbid nosuch ; sample toy --origin 3 --destination 3 ;
sample toy --origin 3 --destination 200 --max-hops 1 ; sample toy --origin 3 --destination 200 --closed 200 ;
sample toy --origin 3 --destination 200 --out x.pdf ; sample toy --network absent --origin 3 --destination 5 ;
match absent.osm absent.gpx ; match garbage garbage ; whatif toy ; whatif toy --busiest -1 ;
whatif toy --busiest 1 --closed 3 ; whatif toy --closed 3 --out file ; evaluate toy --out x.pdf
""",
    "bio": """
design toy --forbid NoSuchEnzyme ; design toy --require ZZZ ; design toy --gc 0.9-0.1 ; design toy --gc abc ;
design toy --homopolymer 0 ; design toy --fix 0:A ; design toy --fix 5:J ; design toy --keep 1-5 ;
design toy --frame 1:MZ* ; design toy --template absent.fasta ; design toy --reward nosuch() ;
design toy --reward gc( --steering smc ; design toy --reward gc() --steering nosuch ; design toy --alphabet Q ;
design toy --forbid GAATTC --require GAATTC ; design toy --length 3 --require TATAWAW ;
sample toy --start ACGX ; sample toy --length 0 ; sample toy --solver nosuch ; sample toy --out x.pdf ;
sample toy --temperature 0 ; score absent.fasta --reward gc() ; score garbage --reward gc() ;
score empty.fasta --reward gc() ; score good.fasta ; audit garbage ; report absent.fasta ;
finetune toy --method nosuch --reward gc() ; finetune toy ; oracle nosuch ; oracle tuning --path absent
""",
    "nas": """
sample toy --require nosuch ; sample toy --require none:x ; sample toy --fix 0-3 ; sample toy --fix 9-9=none ;
sample toy --max-params -1 ; sample toy --limit abc ; sample toy --limit nosuch<=3 ; sample toy -n 0 ;
sample toy --min-depth 99 ; sample toy --out x.pdf ; sample toy --forbid none --require none ; export zzz ;
export 333132 --space nosuch ; export 999999 ; export 333132 --out x.nosuch ; search toy --reward nosuch ;
search toy --method nosuch ; search toy --budget 0 ; pareto toy --cost nosuch ; evaluate toy --seeds 0 ;
table --part 3/2 ; table --part abc ; search toy --reward nb201:x --tables absent
""",
    "music": """
sample toy --key H ; sample toy --seconds -1 ; sample toy --bpm 1 ; sample toy --out x.pdf ; sample toy -n 0 ;
live toy --format mp3 ; live toy --bpm abc ; continue toy absent.mid ; continue toy garbage.mid ;
sketch toy garbage.mid ; jam toy garbage.wav ; jam toy absent.wav ; codec toy garbage.mid ; codec toy file ;
bench toy --blocks 1 ; evaluate toy -n 1 ; sample toy --label nosuch
""",
    "pde": """
mesh absent.msh ; mesh garbage ; mesh garbage.msh ; simulate nosuch ; simulate toy --out x.abc ;
simulate data.nosuch=1 ; rollout nowhere ; sample toy --steps 0 ; sample toy --out x.pdf ; sample toy -n 0 ;
rollout toy --row 99999 ; rollout toy --mesh absent.msh ; rollout toy --members 0 ; evaluate toy -n 0 ;
rollout toy --out x.pdf
""",
}
HOUSE = ["nosuch", "tra", "completion fish", "completion", "demo --nosuch", "doctor extra"]


@dataclass(frozen=True)
class Outcome:
    """How a mistake ended: exit code, what was said, and the traceback if there was one."""

    words: tuple[str, ...]
    code: int
    said: str
    traceback: str

    @property
    def good(self) -> bool:
        """Whether it was refused, in words, with a code of the contract."""
        return not self.traceback and self.code in {1, 2, 3} and bool(self.said.strip())


def mistakes() -> Iterator[tuple[str, ...]]:
    """Yield the words of each command."""
    yield from (tuple(line.split()) for line in HOUSE)
    for domain in DOMAINS:
        lines = f"{EVERYWHERE};{OWN.get(domain, '')}".split(";")
        yield from ((domain, *line.split()) for line in lines if line.strip())


def prepare(folder: Path) -> None:
    """Make the files that the mistakes name: garbage, an empty one, a damaged checkpoint, one of another app."""
    import torch

    from core.run import checkpoint

    for name in ("garbage", "garbage.mid", "garbage.wav", "garbage.msh"):
        (folder / name).write_bytes(bytes(range(256)) * 4)
    (folder / "file").write_text("")
    (folder / "empty.fasta").write_text("")
    (folder / "good.fasta").write_text(">a\nACGT\n")
    (folder / "bad.yaml").write_text("optim: [lr: {")
    for name in ("damaged", "foreign"):
        found = checkpoint.Checkpoint("foreign", {}, 1, {"w": torch.zeros(4)})
        path = checkpoint.export(folder / name, found) / "weights.safetensors"
        if name == "damaged":
            path.write_bytes(path.read_bytes()[:-2])


def commit(words: tuple[str, ...]) -> Outcome:
    """Run one command in this process, in the present folder, and say how it ended."""
    from apps.__main__ import main

    out, before, code, trace = io.StringIO(), sys.argv, 0, ""
    sys.argv = ["quintet", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # noqa: BLE001  that is what is being looked for
        trace = traceback.format_exc()
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR", None)
    said = out.getvalue()
    return Outcome(words, code, said, trace or (said if "Traceback (most recent" in said else ""))
