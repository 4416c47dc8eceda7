"""What the comparisons with other programs share: a line a check, and programs that must succeed."""
import subprocess
import sys

failures = []


def check(what, good, figure=""):
    print(f"{'ok  ' if good else 'FAIL'} {what}{': ' if figure else ''}{figure}", flush=True)
    if not good:
        failures.append(what)


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True,
                          errors="replace")  # bytes that are no UTF-8 are printed, too
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
