"""The program and the machine that it runs on: how runs, plans and a look at the machine are started."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import points

ROOT = Path(__file__).resolve().parents[2]


def stop(message):
    print(f"run.sh: {message}", file=sys.stderr)
    sys.exit(2)


class Machine:
    def __init__(self, cuda, out, dry_run=False):
        self.cuda = cuda
        self.out = Path(out).resolve()
        self.program = Path(os.environ.get("QAT_DIST", ROOT / "build" / "qat_dist")).resolve()
        if not os.access(self.program, os.X_OK):
            stop(f"{self.program}: there is no such program: build it (ninja -C build qat_dist), or name it in "
                 "QAT_DIST")
        self.config = ROOT / "configs" / ("cpt.json" if cuda else "tiny_cpu.json")
        self.facts = {}
        if not dry_run:
            self.out.mkdir(parents=True, exist_ok=True)
            self._look()

    def ranks(self, count):
        return [str(ROOT / "launch" / "run_local.sh"), "-n", str(count), str(self.program)]

    def _look(self):
        """What the program itself sees: the machine's name, its GPUs; and with --save its rates."""
        looked = self._doctor(1)
        rank = looked["ranks"][0]
        self.facts = {
            "host": rank["host"],
            "cores": rank["cores"],
            "gpus": rank["gpus_seen"],
            "device": rank["gpu"] if self.cuda else "CPU",
            "program": f"{rank['version']} {rank['build']}",
            "commit": self._commit(),
        }
        if self.cuda and not rank["gpu"]:
            stop(f"--gpus: the program sees no GPU here{': ' + rank['gpu_problem'] if rank['gpu_problem'] else ''}; "
                 "measure CPU ranks with --cpus 1,2,4")

    def _doctor(self, count):
        saved = self.rates(count)
        arguments = ["doctor", "--json", "--save", str(saved), "--dir", str(self.out)]
        arguments += [] if self.cuda else ["--cpu"]
        said = subprocess.run(self.ranks(count) + arguments, capture_output=True, text=True)
        if said.returncode not in (0, 9) or not saved.exists():  # 9: findings, which a run may live with
            stop(f"qat_dist doctor on {count} ranks ended with {said.returncode}:\n{said.stderr or said.stdout}")
        return json.loads(said.stdout[said.stdout.index("{"):])

    def rates(self, count):
        return self.out / f"rates_{count}.json"

    def measure_links(self, count):
        """Bandwidth and latency between so many ranks, once; CPU ranks all share one memory."""
        count = count if self.cuda else min(count, 2)
        if count > 1 and not self.rates(count).exists():
            self._doctor(count)

    def lacks(self, count):
        """Why so many ranks cannot be measured here; empty: they can."""
        if not self.cuda or count <= self.facts["gpus"]:
            return ""
        return f"this machine has {self.facts['gpus']} GPU" + ("s" if self.facts["gpus"] != 1 else "")

    def alone(self, counts):
        """What CUDA_VISIBLE_DEVICES is for each GPU that ranks of these numbers use. GPUs of one machine differ."""
        if not self.cuda:
            return []
        most = max([count for count in counts if not self.lacks(count)], default=1)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return (visible.split(",") if visible else [str(gpu) for gpu in range(self.facts["gpus"])])[:most]

    @staticmethod
    def _commit():
        """Of the sources here, or what QAT_COMMIT says of a program that was built elsewhere."""
        if os.environ.get("QAT_COMMIT") or not shutil.which("git"):
            return os.environ.get("QAT_COMMIT", "")
        said = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        return said.stdout.strip()

    def train_command(self, point, folder):
        sets = points.settings(point, self.cuda) + [f"run.dir={folder}"]
        return self.ranks(point.ranks) + self._configured(sets)

    def _configured(self, sets):
        return ["--config", str(self.config)] + [part for one in sets for part in ("--set", one)]

    def plan(self, sets, arguments):
        """What `qat_dist plan --json` says; an error is one of this script's, but not that it does not fit."""
        command = [str(self.program), "plan", "--json"] + arguments + self._configured(sets)
        said = subprocess.run(command, capture_output=True, text=True)
        if said.returncode not in (0, 5):
            stop(f"{' '.join(command)} ended with {said.returncode}:\n{said.stderr}")
        return json.loads(said.stdout[said.stdout.index("{"):])
