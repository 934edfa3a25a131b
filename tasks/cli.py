"""The program `focallm`: every command is one function below, and its signature is its options.

Heavy libraries are imported inside the functions, so that `focallm --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Any


def encode(audio: Path, out: Path, codec: str = "mini") -> None:
    """Turn a recording into tokens.

    Args:
        audio: an audio file.
        out: where the tokens go: an .npz with `codes` and `num_samples`.
        codec: mini, a folder or a hub id.
    """
    _prepare()
    from .files import encode_file

    print(encode_file(audio, out, codec))


def decode(tokens: Path, out: Path, codec: str = "mini") -> None:
    """Turn tokens back into sound.

    Args:
        tokens: an .npz that `focallm encode` wrote.
        out: an audio file to write (.wav, .flac, .ogg).
        codec: the codec that made the tokens.
    """
    _prepare()
    from .files import decode_file

    print(decode_file(tokens, out, codec))


def tokenize(corpus: Path, store: Path, codec: str = "mini", batch_seconds: float = 60.0, quiet: bool = False) -> None:
    """Turn a corpus into a token store; stopped at any time, it continues when it is called again.

    Args:
        corpus: a folder of audio, or a folder or file with a manifest.
        store: folder of the token store.
        codec: mini, a folder or a hub id.
        batch_seconds: audio per batch; it changes the speed, never the tokens.
        quiet: no progress bar.
    """
    _prepare()
    from ..data.corpora import read_corpus
    from ..data.token_store import describe
    from ..data.tokenization import tokenize_corpus
    from ..tokenizer import AudioTokenizer

    manifest = tokenize_corpus(
        read_corpus(corpus),
        store,
        AudioTokenizer.from_pretrained(codec),
        batch_seconds=batch_seconds,
        progress=not quiet,
    )
    print(describe(manifest) if manifest else "this process is done; the last one to finish writes the manifest")


def train(
    task: str, store: Path, run: Path, recipe: Path | None = None, codec: str = "mini", quiet: bool = False
) -> None:
    """Train a language model on a token store; stopped at any time, it continues when it is called again.

    Args:
        task: tts.
        store: a token store with texts.
        run: folder of the run; the model is left in its `model` folder.
        recipe: a YAML file such as configs/lm/mini_tts.yaml; the defaults of `LMRecipe` without it.
        codec: the codec that made the store.
        quiet: no progress bar.
    """
    _prepare()
    from .train import train_task

    print(train_task(task, store, run, recipe, codec, quiet))


def train_codec(recipe: Path, corpus: Path, run: Path, quiet: bool = False) -> None:
    """Train one stage of a codec; stopped at any time, it continues when it is called again.

    Args:
        recipe: a YAML file such as configs/codec/mini_quantizer.yaml.
        corpus: a folder of audio, or a folder or file with a manifest.
        run: folder of the run; the model is left in its `model` folder.
        quiet: no progress bar.
    """
    _prepare()
    from ..data.corpora import read_corpus
    from ..tokenizer.training import read_recipe
    from ..tokenizer.training import train_codec as train_stage

    train_stage(read_recipe(recipe), [Path(item.audio) for item in read_corpus(corpus)], run, quiet)
    print(f"{run}/model holds the codec: focallm encode RECORDING tokens.npz --codec {run}/model")


def speak_to_file(
    text: str,
    out: Path = Path("out/speech.wav"),
    model: str = "mini",
    voice: str | None = None,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> None:
    """Read a text aloud into a file.

    Args:
        text: what to say.
        out: an audio file to write (.wav, .flac, .ogg).
        model: mini, or a folder that `focallm train tts` made.
        voice: a voice of the model; its most frequent one by default.
        temperature: 0 is greedy.
        top_p: draw from the likeliest tokens that hold this share of the probability.
        seed: the same seed gives the same speech.
    """
    _prepare()
    from ..lm import Sampling
    from .tts import speak

    result = speak(text, model, voice, Sampling(temperature, top_p=top_p), seed)
    result.save(out)
    s = result.stats
    print(
        f"{out}: {s['seconds']:.2f} s in the voice {s['voice']}, {s['tokens']} tokens, stop reason "
        f"{result.stop_reason}, {s['attempts']} attempt(s), real-time factor {s['real_time_factor']:.2f}"
    )


def evaluate(task: str, data: Path, model: str = "mini", limit: int = 0, scorer: str = "mel", seed: int = 0) -> None:
    """Measure a codec or a language model on recordings with transcripts.

    Args:
        task: codec or tts.
        data: a corpus with transcripts that was not trained on.
        model: mini or a folder.
        limit: only this many items, chosen by the seed; 0 for all.
        scorer: mel (needs nothing else) or the folder of a Whisper model for faster-whisper (adds word error rates).
        seed: of the choice of items and of sampling.
    """
    _prepare()
    from .evaluation import evaluate_task

    print(evaluate_task(task, data, model, limit, scorer, seed))


def benchmark(what: str, model: str = "focalcodec_50hz", threads: int = 2) -> None:
    """Measure speed and memory on this machine and print a table.

    Args:
        what: codec.
        model: focalcodec_50hz (the full-size configuration with random weights), mini, a folder or a hub id.
        threads: CPU threads to use.
    """
    _prepare()
    from .benchmark import benchmark_codec

    if what != "codec":
        raise ValueError(f"only codec can be measured, found {what!r}")
    print(benchmark_codec(model, threads))


def demo(audio: Path | None = None, out: Path = Path("out")) -> None:
    """Encode and decode a recording, speak a sentence, and write what came out with a short report.

    Args:
        audio: a recording of yours; a bundled one by default.
        out: folder for sounds, spectrogram and report.
    """
    _prepare()
    from .demo import run_demo

    print(run_demo(audio, out))


def info(model: str) -> None:
    """Say what a codec or a speech LM is: rates, sizes, parameters.

    Args:
        model: mini, a folder or a hub id.
    """
    _prepare()
    from .files import describe_model

    print(describe_model(model))


COMMANDS: dict[str, Any] = {
    "encode": encode,
    "decode": decode,
    "tokenize": tokenize,
    "train": train,
    "train-codec": train_codec,
    "speak": speak_to_file,  # not called as the tasks of this package are: jsonargparse would import those to compare
    "evaluate": evaluate,
    "benchmark": benchmark,
    "demo": demo,
    "info": info,
}


def _prepare() -> None:
    """Say what happens in plain lines; leave progress bars to work that is long."""
    import logging

    from transformers.utils import logging as transformers_logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("focallm").setLevel(logging.INFO)
    transformers_logging.disable_progress_bar()


def main() -> None:
    """Entry point of `focallm`: run a command; a mistake of the user's is one sentence, not a traceback."""
    from jsonargparse import auto_cli

    sys.argv = [f"{word}=true" if word == "--quiet" else word for word in sys.argv]  # jsonargparse has no plain flags
    try:
        auto_cli(COMMANDS, as_positional=True, prog="focallm")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"focallm: {error}")
