"""Mistakes that users make at the command line, over all apps: each must end in words and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
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
nosuchverb ; trian toy ; --nosuch ; recipes --json extra ; data toy ; sample --model toy ; sample toy --seed -1 ;
sample dir ; sample file ; sample /dev/null ; check dir ; check file ; train toy "" ; train toy =3 ;
train toy trainer=3 ; train toy --cfg ; train toy --cfg nosuch ; train toy --info nosuch ; train toy --ot x ;
train toy --nosuch ;
train toy --initial absent ; train toy --initial foreign ; train toy --out /proc/none/r ; train empty.yaml ;
train list.yaml ; train loop.yaml ; train tab.yaml ; train garbage.yaml ; train dir.yaml ; train trainer.devices=0 ;
train trainer.steps=1.5 ; train trainer.steps= ; train "trainer={steps: 3, stepz: 2}" ; train trainer.max_minutes=-1 ;
train seed=f(x) ; train toy --out "" ; sample toy --out ""
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
whatif toy --busiest 1 --closed 3 ; whatif toy --closed 3 --out file ; evaluate toy --out x.pdf ;
sample toy --od empty.csv ; sample toy --od head.csv ; sample toy --od cols.csv ; sample toy --od dir ;
sample toy --od text.csv ; sample toy --od negative.csv ; match empty.osm empty.gpx ; match noroads.osm notrack.gpx ;
match cut.osm notrack.gpx ; match dir dir ; evaluate toy --trips absent ; evaluate toy --trips cols.csv ;
whatif toy --busiest 0 ; whatif toy --busiest 1 --most 0 ; whatif toy --closed 3 --trips empty.csv ;
sample toy --origin 3 --destination 200 --guidance -1 ; sample toy --origin 3 --destination 200 --guidance nan ;
sample toy --origin 3 --destination 200 --block 0 ; sample toy --origin 3 --destination 200 --block 100000 ;
sample toy --origin 3 --destination 200 --min-hops 5 --max-hops 2 ; sample toy --origin nan,nan --destination 5 ;
sample toy --origin 1e9,1e9 --destination 5 ; sample toy --origin 3 --destination 200 --max-km nan ;
sample toy --origin 3 --destination 200 --depart noon ; sample toy --origin 3 --destination 200 --depart 24:00 ;
sample toy --origin 3 --destination 200 --network empty.osm ; sample toy --origin 3 --destination 200 --closed 3 ;
sample toy --origin 3 --destination 200 --network noroads.osm ; sample toy --origin 3 --destination 5 --out dir ;
sample toy --origin 3 --destination 200 --close-polygon dir ;
sample toy --origin 3 --destination 200 --close-polygon file
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
finetune toy --method nosuch --reward gc() ; finetune toy ; oracle nosuch ; oracle tuning --path absent ;
design toy --template empty.fasta ; design toy --template empty.gb ; design toy --template noseq.fasta ;
design toy --template dir ; design toy --fix 200:A ; design toy --fix 99:AAA ; design toy --fix -3:A ;
design toy --frame 62: ; design toy --frame 95:MSKGEEL* ; design toy --frame 1:MSK:99 ;
design toy --keep 5-1 --template good.fasta ; design toy --gc nan-0.5 ; design toy --gc 0.4-0.6/0 ;
design toy --spacing TATA,CCAA ; design toy --spacing TATA,CCAA,9-2 ; design toy --reward os:system ;
design toy --reward tm()=x ; design toy --reward dir ; audit empty.fasta ; audit absent.fasta ; report empty.fasta ;
score protein.fasta --reward tm() ; finetune toy --reward tm(70) --updates 0 ; sample toy --temperature nan ;
finetune toy --reward tm(70) --alpha -1 ; finetune toy --reward tm(70) --batch 0 ; oracle tuning --path dir ;
evaluate toy --draws 0 ; evaluate toy -n 0 ; design toy --template protein.fasta ; design peptide --forbid BsaI
""",
    "nas": """
sample toy --require nosuch ; sample toy --require none:x ; sample toy --fix 0-3 ; sample toy --fix 9-9=none ;
sample toy --max-params -1 ; sample toy --limit abc ; sample toy --limit nosuch<=3 ; sample toy -n 0 ;
sample toy --min-depth 99 ; sample toy --out x.pdf ; sample toy --forbid none --require none ; export zzz ;
export 333132 --space nosuch ; export 999999 ; export 333132 --out x.nosuch ; search toy --reward nosuch ;
search toy --method nosuch ; search toy --budget 0 ; pareto toy --cost nosuch ; evaluate toy --seeds 0 ;
table --part 3/2 ; table --part abc ; search toy --reward nb201:x --tables absent ;
sample toy --fix x ; sample toy --fix 0-3=nosuch ; sample toy --min-depth 5 --max-depth 2 ;
sample toy --max-depth -1 ; sample toy --max-edges 0 ; sample toy --max-params nan ; sample toy --limit params ;
sample toy --limit params<=nan ; sample toy --temperature 0 ; sample toy --max-params 0.000001 ;
export 99999999999999999999999999 ; export "" ; export 333132 --out x ; export 333132 --out dir ;
export 333132 --out file/x.dot ; search toy --budget -3 ; search toy --reward digits:nosuch ; pareto toy --budget 0 ;
pareto toy --cost accuracy ; pareto toy --reward nb201:cifar10 --tables dir ; evaluate toy --budget 0 ;
evaluate toy --reward x:y ; evaluate foreign ; table --part 1/0 ; table --part -1/2 ; table --out file/x
""",
    "music": """
sample toy --key H ; sample toy --seconds -1 ; sample toy --bpm 1 ; sample toy --out x.pdf ; sample toy -n 0 ;
live toy --format mp3 ; live toy --bpm abc ; continue toy absent.mid ; continue toy garbage.mid ;
sketch toy garbage.mid ; jam toy garbage.wav ; jam toy absent.wav ; codec toy garbage.mid ; codec toy file ;
bench toy --blocks 1 ; evaluate toy -n 1 ; sample toy --label nosuch ;
sample toy --bpm nan ; sample toy --seconds inf ; sample toy --seconds nan ; sample toy --seconds 0 ;
sample toy --key "C major" ; sample toy --guidance -1 ; sample toy --seconds 1 --out dir ; continue toy empty.mid ;
continue toy nan.wav ; continue toy dir ; jam toy zero.wav ; jam toy nan.wav ; sketch toy zero.wav ;
codec toy zero.wav ; live toy --blocks -1 ; live toy --format "" ; bench toy --blocks 0
""",
    "pde": """
mesh absent.msh ; mesh garbage ; mesh garbage.msh ; simulate nosuch ; simulate toy --out x.abc ;
simulate data.nosuch=1 ; rollout nowhere ; sample toy --steps 0 ; sample toy --out x.pdf ; sample toy -n 0 ;
rollout toy --row 99999 ; rollout toy --mesh absent.msh ; rollout toy --members 0 ; evaluate toy -n 0 ;
rollout toy --out x.pdf ;
mesh empty.msh ; mesh text.msh ; mesh arrays.npz ; mesh dir ; rollout toy --row -1 ; rollout toy --steps -5 ;
rollout toy --every 0 ; rollout toy --steps 2 --every 50 ; rollout toy --noise nan ; rollout toy --mesh empty.msh ;
rollout toy --mesh dir ; rollout toy --steps 2 --out dir ; assimilate toy --sensors 0 ; assimilate toy --members 0 ;
assimilate toy --noise -1 ; validate toy --row 99999 ; report toy --row 99999 ; calibrate toy --further -1 ;
simulate toy --out dir ; simulate toy data.nodes=3 ; simulate toy data.mesh=absent.msh ; evaluate toy -n -1 ;
simulate toy data.mesh=text.msh ; check toy "data.boundary={nowhere: free}" ;
simulate toy "data.boundary={hole: nosuch}"
""",
}
FILES = {
    "empty.csv": "", "head.csv": "origin,destination\n", "cols.csv": "a,b\n1,2\n",
    "text.csv": "origin,destination\nx,y\n",
    "negative.csv": "origin,destination\n-3,7\n", "empty.osm": "", "noroads.osm": "<osm version='0.6'></osm>",
    "cut.osm": "<osm><node id='1' lat='1", "empty.gpx": "", "text.msh": "hello", "empty.msh": "", "empty.mid": "",
    "notrack.gpx": "<gpx xmlns='http://www.topografix.com/GPX/1/1'></gpx>", "file": "",
    "empty.fasta": "", "empty.gb": "",
    "good.fasta": ">a\nACGT\n", "noseq.fasta": ">a\n>b\n", "protein.fasta": ">a\nMKWVTFISLL\n", "empty.yaml": "# a\n",
    "bad.yaml": "optim: [lr: {", "list.yaml": "- 1\n", "loop.yaml": "defaults: [loop]\n", "tab.yaml": "a:\tb\n\tc: 1\n",
}  # fmt: skip
HOUSE = [
    "nosuch",
    "tra",
    "--nosuch",
    "doctor --nosuch",
    "completion fish",
    "completion",
    "demo --nosuch",
    "doctor extra",
]


@dataclass(frozen=True)
class Outcome:
    """How a mistake ended: exit code, what was said, and the traceback if there was one."""

    words: tuple[str, ...]
    code: int
    said: str
    traceback: str

    @property
    def good(self) -> bool:
        """Whether it was refused, in words and not by a page of usage, with a code of the contract."""
        words = bool(self.said.strip()) and "Usage:" not in self.said
        return not self.traceback and self.code in {1, 2, 3} and words


def mistakes() -> Iterator[tuple[str, ...]]:
    """Yield the words of each command."""
    yield from (tuple(line.split()) for line in HOUSE)
    for domain in DOMAINS:
        lines = f"{EVERYWHERE};{OWN.get(domain, '')}".split(";")
        yield from ((domain, *shlex.split(line)) for line in lines if line.strip())


def prepare(folder: Path) -> None:
    """Make the files that the mistakes name: garbage, an empty one, a damaged checkpoint, one of another app."""
    import numpy as np
    import soundfile
    import torch

    from core.run import checkpoint

    for name in ("garbage", "garbage.mid", "garbage.wav", "garbage.msh", "garbage.yaml"):
        (folder / name).write_bytes(bytes(range(256)) * 4)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for name in ("dir", "dir.yaml"):
        (folder / name).mkdir()
    np.savez(folder / "arrays.npz", a=np.zeros(3))
    for name, sound in {"zero.wav": np.zeros(0), "nan.wav": np.full(64000, np.nan)}.items():
        soundfile.write(folder / name, sound, 32000, subtype="FLOAT")
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
