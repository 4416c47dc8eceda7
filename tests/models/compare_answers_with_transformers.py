#!/usr/bin/env python3
"""Lets transformers answer SQuAD questions in a model's own words, and compares answers, exact match and F1.

  python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers safetensors
  /tmp/venv/bin/python tests/models/compare_answers_with_transformers.py build/qat_dist [--squad FILE --tokenizer FOLDER]

A tiny model is trained until it knows a dozen answers by heart, and is exported for transformers at 8 and 4 bits of
weights. Its answers are then measured by files whose right answers are what it learned, the same in other words, a part
of it, more than it, something else and nothing at all. With --squad, a published file, and --tokenizer, a folder with
GPT-2's vocab.json and merges.txt, a random GPT-2 answers the first --items questions too; its 256 positions are too few
for most of their texts. Prompts, batches padded at the left, answers and SQuAD's normalization are made here anew.
Exits with 1 if an answer differs, or a figure by more than 1e-9.
"""
import argparse
import collections
import json
import pathlib
import re
import string
import sys
import tempfile

import torch
import transformers

from checks import check, failures, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
LENGTH = 128       # bytes of a lesson
ANSWER_TOKENS = 24
# A text, a question, what is learned, and what is right beside it by one file and another: each a part of the text.
LESSONS = [
    ("Box 0 is a red one, of Ann.", [("What is it?", "a red one", ["red one"], ["one"]),
                                     ("Whose?", "Ann", ["Ann", "red"], ["Box 0"])]),
    ("Box 1 is dark blue, of Bob.", [("What is it?", "dark blue", ["dark blue, of Bob", "blue"], ["blue"]),
                                     ("Whose?", "Bob", ["Bob."], ["is dark blue, of Bob"])]),
    ("Box 2 is the Green \u00c9toile!", [("What is it?", "green \u00e9toile", ["the Green \u00c9toile!"], ["Green"]),
                                         ("Whose?", "", [], ["Box"])]),
    ("Box 3: 'one, two' of Tom's.", [("What is it?", "one two", ["'one, two'"], ["one, two' of Tom's"]),
                                     ("Whose?", "Toms", ["Tom's"], ["Tom"])]),
    ("Box 4 is new, new and old.", [("What is it?", "new and new", ["new, new and old"], ["new"]),
                                    ("Whose?", "", [], [])]),
]
def prompt_of(context, question):
    return f'Reading:"{context}"\n\nQuestion:"{question}"\n\nAnswer:'


def normalized(text):
    """evaluate-v2.0.py of SQuAD"""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer, right):
    answer, right = normalized(answer).split(), normalized(right).split()
    same = sum((collections.Counter(answer) & collections.Counter(right)).values())
    if not answer or not right:
        return float(answer == right)
    if same == 0:
        return 0.0
    precision, recall = same / len(answer), same / len(right)
    return 2 * precision * recall / (precision + recall)


def figures(answers, rights):
    """Exact match and F1 in percent."""
    exact = overlap = 0.0
    for answer, right in zip(answers, rights, strict=True):
        right = [text for text in right if normalized(text)] or [""]
        exact += max(float(normalized(answer) == normalized(text)) for text in right)
        overlap += max(f1(answer, text) for text in right)
    return 100 * exact / len(answers), 100 * overlap / len(answers)


def their_answers(model, encode, decode, prompts, end):
    answers = []
    for first in range(0, len(prompts), 5):
        batch = [encode(one) for one in prompts[first:first + 5]]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in batch])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in batch])
        with torch.no_grad():
            found = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=ANSWER_TOKENS,
                                   pad_token_id=end, eos_token_id=end)
        for row in found[:, longest:].tolist():
            text = decode(row[:row.index(end)] if end in row else row).strip()
            answers.append(one_for_all(text.split("\n")[0].strip()))
    return answers


def one_for_all(text):
    """How many U+FFFD stand for bytes that are no UTF-8 is a matter of taste."""
    return re.sub("\ufffd+", "\ufffd", text)


def our_answers(program, checkpoint, squad, bits, out, *more):
    run(program, "eval", "--checkpoint", checkpoint, "--bits", bits, "--squad", squad, "--answer-tokens", ANSWER_TOKENS,
        "--answer-batch", 4, "--output", out, "--set", "compute.device=cpu", *more)
    answers = json.loads((out / f"answers_squad_{bits}.json").read_text())
    (found,) = json.loads((out / "report.json").read_text())["generated_answers"]
    return {key: one_for_all(text) for key, text in answers.items()}, (found["exact_match"], found["f1"])


def squad_file(path, which):
    paragraphs = []
    for i, (context, questions) in enumerate(LESSONS):
        qas = []
        for j, (question, learned, first, second) in enumerate(questions):
            right = {"first": first, "second": second}[which]
            qas.append({"id": f"{i}.{j}", "question": question, "is_impossible": not right,
                        "answers": [{"text": text, "answer_start": context.index(text)} for text in right]})
        paragraphs.append({"context": context, "qas": qas})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "boxes", "paragraphs": paragraphs}]}))
    return [[answer["text"] for answer in qa["answers"]] for paragraph in paragraphs for qa in paragraph["qas"]]


def compare(what, ours, our_figures, theirs, their_figures):
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    differs = next((f"; {a!r} and not {b!r}" for a, b in zip(ours, theirs) if a != b), "")
    close = all(abs(a - b) <= 1e-9 for a, b in zip(our_figures, their_figures))
    check(what, same == len(theirs) and close,
          f"{same} of {len(theirs)} answers equal, exact match {our_figures[0]:.4f} and {their_figures[0]:.4f}, F1 "
          f"{our_figures[1]:.4f} and {their_figures[1]:.4f}{differs}")


def compare_learned(program, work):
    prompts, text = [], b""
    for context, questions in LESSONS:
        for question, learned, *_ in questions:
            prompts.append(prompt_of(context, question))
            lesson = (prompts[-1] + (" " + learned if learned else "")).encode()
            assert len(lesson) < LENGTH, (len(lesson), lesson)
            text += lesson.ljust(LENGTH, b"\n")
    (work / "lessons.txt").write_bytes(text + b"R")
    run(program, "tokenize", work / "lessons.txt", "--val-fraction", 0, "-o", work / "tokens")
    shard = json.dumps([str(work / "tokens_train_000.bin")])
    folder = work / "run"
    run(program, "--config", ROOT / "configs/tiny_cpu.json", "--set", f"run.dir={folder}", "--set", f"data.train={shard}",
        "--set", f"data.val={shard}", "--set", f"data.sequence_length={LENGTH}", "--set", "model.n_positions=160",
        "--set", "model.vocab_size=257", "--set", "quant.activation_bits=32", "--set", "quant.kv_bits=32", "--set",
        "precision.cycles=1", "--set", "train.steps=400", "--set", "eval.bits=[8]")
    for bits in (8, 4):
        exported = work / f"exported {bits}"
        run(program, "export", "--checkpoint", folder, "-o", exported, "--bits", bits)
        model = transformers.GPT2LMHeadModel.from_pretrained(exported, torch_dtype=torch.float32).eval()
        theirs = their_answers(model, lambda text: list(text.encode()),
                               lambda ids: bytes(ids).decode(errors="replace"), prompts, end=256)
        for which in ("first", "second"):
            squad = work / f"{which}.json"
            rights = squad_file(squad, which)
            ours, our_figures = our_answers(program, folder, squad, bits, work / f"{which} {bits}")
            compare(f"learned answers at {bits} bits, {which} file", list(ours.values()), our_figures, theirs,
                    figures(theirs, rights))
            check("  they are not zero, nor all right", 0 < our_figures[0] < our_figures[1] <= 100)


def compare_published(program, work, squad, folder, items):
    tokenizer = transformers.GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    encode = lambda text: tokenizer(text)["input_ids"]
    torch.manual_seed(3)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_head=4, n_embd=64, n_positions=256)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape) * (0.1 if value.dim() == 1 else 0.3) +
                        (1 if "ln_" in name and name.endswith("weight") else 0))
    model.save_pretrained(work / "random")
    run(program, "import", work / "random", "-o", work / "checkpoint")
    ids, prompts, rights, paragraphs = [], [], [], []
    for paragraph in (p for article in json.loads(squad.read_text())["data"] for p in article["paragraphs"]):
        qas = paragraph["qas"][:items - len(ids)]
        paragraphs += [{"context": paragraph["context"], "qas": qas}] if qas else []
        for qa in qas:
            context = encode(paragraph["context"])
            while len(encode(prompt_of(tokenizer.decode(context), qa["question"]))) > 256 - ANSWER_TOKENS:
                context.pop()
            ids.append(qa["id"])
            prompts.append(prompt_of(tokenizer.decode(context).rstrip("\ufffd"), qa["question"]))
            rights.append([answer["text"] for answer in qa["answers"]])
    (work / "some.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    ours, our_figures = our_answers(program, work / "checkpoint", work / "some.json", 32, work / "published",
                                    "--merges", folder / "merges.txt", "--set", "compute.dtype=fp32")
    theirs = their_answers(model, encode, tokenizer.decode, prompts, end=50256)
    compare(f"a random model, {len(ids)} questions of {squad.name}", [ours[one] for one in ids], our_figures, theirs,
            figures(theirs, rights))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--squad", type=pathlib.Path, help="a file as published")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="with --squad: GPT-2's vocab.json and merges.txt")
    parser.add_argument("--items", type=int, default=100, help="questions of --squad")
    arguments = parser.parse_args()
    if arguments.squad and not arguments.tokenizer:
        parser.error("--squad needs --tokenizer")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        compare_learned(arguments.program, work)
        if arguments.squad:
            compare_published(arguments.program, work, arguments.squad, arguments.tokenizer, arguments.items)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: "
          f"{'all good' if not failures else str(len(failures)) + ' FAILED'}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
