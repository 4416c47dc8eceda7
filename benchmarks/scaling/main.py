"""The command line of run.sh."""
import argparse
import re
import shlex
import sys
from pathlib import Path

import beyond
import points
import report
from machine import ROOT, Machine, stop
from measure import Measurements, measure


def counts_of(text):
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1 or any(count & (count - 1) for count in counts):
        raise argparse.ArgumentTypeError(f"{text}: expected powers of two, as in 1,2,4,8")
    return counts


def arguments():
    parser = argparse.ArgumentParser(prog="run.sh", description="How a training step scales, measured and predicted.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--gpus", type=counts_of, metavar="N,N", help="numbers of GPUs, a rank each: 1,2,4,8")
    where.add_argument("--cpus", type=counts_of, metavar="N,N", help="numbers of CPU ranks of one thread: 1,2,4")
    where.add_argument("--beyond", action="store_true", help="predictions for 16 to 1,024 GPUs; measures nothing")
    parser.add_argument("--models", help="some of 124M,350M,1.5B (all); on CPUs of micro,nano (micro)")
    parser.add_argument("--only", metavar="PATTERN", help="a regular expression: only the series whose names have it")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--seconds", type=float, help="begin no run after so long; the same command goes on then")
    parser.add_argument("--out", type=Path, help="where lines, tables and plots go (runs/scaling_gpus, ...)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--gpu", default="H200", help="--beyond: the GPU, of those that plan knows (H200)")
    parser.add_argument("--network", default="25,10", help="--beyond: GB/s and microseconds a GPU (25,10)")
    return parser.parse_args()


def chosen_points(asked, cuda, counts):
    table = points.models(cuda)
    names = asked.models.split(",") if asked.models else None
    for name in names or []:
        if name not in table:
            stop(f"--models {name}: expected some of {', '.join(table)}")
    try:
        pattern = re.compile(asked.only or "")
    except re.error as error:
        stop(f"--only {asked.only}: not a regular expression: {error}")
    every = points.points(cuda, counts, names)
    chosen = [point for point in every if pattern.search(point.series)]
    if not chosen:
        stop(f"--only {asked.only}: no series has it; they are:\n  " +
             "\n  ".join(dict.fromkeys(point.series for point in every)))
    return chosen


def main():
    asked = arguments()
    if asked.repeats < 1:
        stop(f"--repeats {asked.repeats}: expected at least 1")
    if asked.beyond:
        return beyond.write(asked.gpu, asked.network, asked.out or ROOT / "runs" / "scaling_beyond")
    cuda = asked.gpus is not None
    counts = asked.gpus or asked.cpus
    out = asked.out or ROOT / "runs" / ("scaling_gpus" if cuda else "scaling_cpus")
    chosen = chosen_points(asked, cuda, counts)
    works = points.works(chosen)
    machine = Machine(cuda, out, asked.dry_run)
    if asked.dry_run:
        for point in works.values():
            print(shlex.join(machine.train_command(point, out / "run")))
        return 0
    found = Measurements(machine.out)
    if other := found.other_program(machine.facts):
        stop(f"--out {out}: has measurements of {other}: name another folder, or remove that one")
    for count in counts:
        if lacks := machine.lacks(count):
            print(f"{count} GPUs: not measured: {lacks}", flush=True)
    well = measure(machine, found, works, counts, asked.repeats, asked.seconds, lambda text: print(text, flush=True))
    for path in report.write(machine, found, chosen, counts):
        print(path)
    if report.differs(chosen, found):
        print("run.sh: losses differ between numbers of ranks: see report.md", file=sys.stderr)
        return 1
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
