"""Work that is killed again and again, before any of its file operations, ends like undisturbed work.

Run as a program (`python test_kills.py FOLDER`), this file is the process that forks, and kills what it forked.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

from focallm.data.corpus import read_corpus
from focallm.data.token_store import TokenStore
from focallm.data.tokenization import tokenize_corpus
from focallm.tasks.evaluation.evaluate import EvaluationConfig, evaluate
from focallm.tasks.evaluation.results import read_record
from focallm.tasks.training.train_codec import train_stages
from focallm.tasks.training.train_lm import train_task
from focallm.tokenizer import AudioTokenizer, write_audio

CODEC_RECIPE = """
stages:
  quantizer:
    stage: quantizer
    model: &model
      encoder: {type: mel, dim: 20}
      compressor: &focal
        {input_dim: 20, output_dim: 6, hidden_dims: [16], factors: [1], focal_window: 3, focal_level: 1,
         focal_factor: 2}
      quantizer: {codebook_size: 64}
      decompressor: {<<: *focal, input_dim: 6, output_dim: 20}
      decoder: {type: vocos, input_dim: 20, num_layers: 1, dim: 16, ffn_dim: 32}
    steps: 2
    <<: &common
      {batch_size: 2, clip_seconds: 0.2, validation_files: 1, evaluate_every: 1, checkpoint_every: 1, warmup_steps: 1}
  decoder: {stage: decoder, model: *model, parts_from: {compressor: quantizer}, gan: null, steps: 1, <<: *common}
"""
LM_RECIPE = """
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 16, attention_dropout: 0.1}
max_length: 100
validation_fraction: 0.2
evaluate: {samples: 1}
trainer: {max_steps: 3, per_device_train_batch_size: 2, use_cpu: true, report_to: [],
          eval_strategy: steps, eval_steps: 2, save_strategy: steps, save_steps: 1, save_total_limit: 2}
"""


def _tokenize(place: Path, out: Path) -> None:
    tokenizer = AudioTokenizer.from_pretrained(place / "codec")
    tokenize_corpus(read_corpus(place / "corpus"), out, tokenizer, shard_size=2, listen=1, progress=False)


def _train_codec(place: Path, out: Path) -> None:
    train_stages(place / "codec.yaml", place / "corpus", out, None, None, quiet=True)


def _train(place: Path, out: Path) -> None:
    train_task("tts", place / "store", out, place / "lm.yaml", str(place / "codec"), quiet=True)


def _evaluate(place: Path, out: Path) -> None:
    config = EvaluationConfig("codec", place / "corpus", str(place / "codec"), record=out / "r.jsonl")
    evaluate(config)


JOBS = {"tokenize": _tokenize, "train-codec": _train_codec, "train": _train, "evaluate": _evaluate}


def _files(folder: Path) -> set[str]:
    """Names of all files, without those of TensorBoard, whose names hold the time."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {name for name in names if not name.startswith("arrow") and "/events.out" not in name}


def _content(job: str, folder: Path) -> object:
    """What two runs of a job must have in common."""
    if job == "tokenize":
        return TokenStore(folder, verify=True).manifest["shards"]
    if job == "evaluate":
        results = read_record(folder / "r.jsonl")
        return {key: [{**result, "rtf": 0} for result in item] for key, item in sorted(results.items())}
    weights = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("model/*.safetensors")}
    tables = []
    for path in sorted(folder.rglob("losses.csv")):
        rows = [line.split(",") for line in path.read_text().splitlines()]
        kept = [i for i, name in enumerate(rows[0]) if name != "time"]
        tables.append([[row[i] for i in kept] for row in rows])
    return weights, tables


@pytest.fixture(scope="module")
def place(tmp_path_factory, codec):
    """A folder with a corpus, a codec, a token store and recipes."""
    folder = tmp_path_factory.mktemp("place")
    rng, rows = np.random.default_rng(0), []
    (folder / "corpus").mkdir()
    for i in range(6):
        write_audio(folder / "corpus" / f"{i}.wav", 0.1 * rng.standard_normal(6400).astype(np.float32), 16000)
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": f"number {i}", "speaker": "a"})
    (folder / "corpus" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    AudioTokenizer(codec("mel")).save_pretrained(folder / "codec")
    (folder / "codec.yaml").write_text(CODEC_RECIPE)
    (folder / "lm.yaml").write_text(LM_RECIPE)
    _tokenize(folder, folder / "store")
    return folder


@pytest.fixture(scope="module")
def num_kills(place):
    """How often each job was killed, or the error with which it ended, by job."""
    # One process for all jobs, because it takes long to import everything.
    done = subprocess.run([sys.executable, __file__, str(place)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("job", JOBS)
def test_killed_work_ends_like_undisturbed_work(job, place, num_kills):
    assert isinstance(num_kills[job], int), num_kills[job]
    assert num_kills[job] > 5
    whole, broken = place / job / "whole", place / job / "broken"
    assert _content(job, broken) == _content(job, whole)
    assert _files(broken) == _files(whole)


def _fork(job: str, place: Path, out: Path, num_operations: int | None) -> int:
    """Do a job in a forked process, which kills itself before a file operation in `out`. Return the status."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    count = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        writes = event in ("os.rename", "os.remove", "os.mkdir", "os.chmod", "shutil.rmtree", "os.truncate")
        if event == "open":
            writes = bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and str(args[0]).startswith(str(out)):
            count += 1
            if count == num_operations:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(hook)
        sys.stdout = sys.stderr
        JOBS[job](place, out)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _kill_again_and_again(job: str, place: Path) -> int | str:
    """Do a job undisturbed, and with kills. Return the number of kills, or an error."""
    (place / job).mkdir()
    if _fork(job, place, place / job / "whole", None):
        return "undisturbed, it fails"
    num_kills = 0
    num_operations = 1
    while status := _fork(job, place, place / job / "broken", num_operations):
        if status != -signal.SIGKILL:
            return f"after {num_kills} kills it fails"
        num_kills += 1
        num_operations += num_kills
    return num_kills


if __name__ == "__main__":
    os.environ.pop("RANK", None)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    print(json.dumps({name: _kill_again_and_again(name, folder) for name in JOBS}))
