"""The program `focallm`: every command is one function below, and its signature is its options.

Heavy libraries are imported inside the functions, so that `focallm --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Any

from .cli_speech import continue_file, convert_file, enhance_file, separate_file, speak_to_file, transcribe_file
from .cli_speech import prepare as _prepare


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


def tokenize(
    corpus: Path,
    store: Path,
    codec: str = "mini",
    layout: str | None = None,
    columns: dict[str, str] | None = None,
    mix: Path | None = None,
    noise: Path | None = None,
    features: bool = False,
    batch_seconds: float = 60.0,
    quiet: bool = False,
) -> None:
    """Turn a corpus into a token store; stopped at any time, it continues when it is called again.

    Args:
        corpus: a folder of audio, a folder or file with a manifest, a folder that datasets saved, or parquet.
        store: folder of the token store.
        codec: mini, a folder or a hub id.
        layout: iemocap, libri1mix, libri2mix, libri3mix, librispeech, libritts, mls, vctk or voicebank, where the
            corpus is a folder as these are published; libri...mix and voicebank bring what a model hears along.
        columns: names that differ in a manifest or dataset, such as {"text": "sentence"}.
        mix: a YAML file such as configs/mix/enhancement.yaml: store noisy, overlapping or disguised speech, too.
        noise: recordings of noise, a corpus as well, for recipes that draw recorded noise.
        features: store the encoder's continuous features of what a model hears, too.
        batch_seconds: audio per batch; it changes the speed, never the tokens.
        quiet: no progress bar.
    """
    _prepare()
    from ..data.corpora import read_corpus
    from ..data.mixing import Mixer, read_recipe
    from ..data.token_store import describe
    from ..data.tokenization import tokenize_corpus
    from ..tokenizer import AudioTokenizer

    if noise is not None and mix is None:
        raise ValueError("--noise needs --mix, a recipe that says how loud the noise is to be")
    items = read_corpus(corpus, layout=layout, columns=columns)
    manifest = tokenize_corpus(
        # Mistakes in the recipe are found before the codec is loaded.
        items if mix is None else Mixer(read_recipe(mix), items, read_corpus(noise) if noise else ()),
        store,
        AudioTokenizer.from_pretrained(codec),
        features=features,
        batch_seconds=batch_seconds,
        progress=not quiet,
    )
    print(describe(manifest) if manifest else "this process is done; the last one to finish writes the manifest")


def align(store: Path, texts: Path | None = None, language: str = "en-us", quiet: bool = False) -> None:
    """Find the phonemes of a token store's texts, and which frames belong to each; for tts-aligned and the like.

    Args:
        store: a token store of a corpus with transcripts, made with --features.
        texts: a text file, whose words are to be known too.
        language: as espeak-ng calls it.
        quiet: no progress bar.
    """
    _prepare()
    from ..data.alignment import align_store

    more = texts.read_text(encoding="utf-8").splitlines() if texts else ()
    print(align_store(store, more, language, progress=not quiet))


def train(
    task: str, store: Path, run: Path, recipe: Path | None = None, codec: str = "mini", quiet: bool = False
) -> None:
    """Train a language model on a token store; stopped at any time, it continues when it is called again.

    Args:
        task: tts, zero-shot, tts-aligned, zero-shot-aligned, pronounce, se, se-features, ss, ss-features, vc, asr,
            continuation, text, or one of the recipe's own.
        store: a token store with what the task needs; if not, the error says how to make it.
        run: folder of the run; the model is left in its `model` folder.
        recipe: a YAML file such as configs/lm/mini_tts.yaml; the defaults of `LMRecipe` without it.
        codec: the codec that made the store.
        quiet: no progress bar.
    """
    _prepare()
    from .train import first_process, train_task

    said = train_task(task, store, run, recipe, codec, quiet)
    if first_process():
        print(said)


def train_codec(
    recipe: Path, corpus: Path, run: Path, only: str | None = None, scorer: str | None = None, quiet: bool = False
) -> None:
    """Train a codec, or one stage of it; stopped at any time, it continues when it is called again.

    Args:
        recipe: a YAML file: one stage, or several that build on each other, such as configs/codec/mini.yaml.
        corpus: a folder of audio, or a folder or file with a manifest.
        run: folder of the run; each stage leaves its codec in a folder `model`, or `teacher` after stage teacher.
        only: train this stage of several; those that it builds on are done.
        scorer: folder of a Whisper model for faster-whisper; evaluations then count the words that decoding changes,
            and say how similar voices stay.
        quiet: no progress bar.
    """
    _prepare()
    from .codec_training import train_stages

    print(train_stages(recipe, corpus, run, only, scorer, quiet))


def evaluate(
    task: str,
    data: Path,
    model: str = "mini",
    limit: int = 0,
    scorer: str = "mel",
    seed: int = 0,
    mix: Path | None = None,
    noise: Path | None = None,
    full: bool = False,
    record: Path | None = None,
    layout: str | None = None,
    quiet: bool = False,
) -> None:
    """Measure a codec or a language model on recordings with transcripts.

    Args:
        task: codec, tts, se or ss.
        data: a corpus with transcripts that was not trained on.
        model: mini or a folder.
        limit: only this many items, chosen by the seed; 0 for all.
        scorer: mel (needs nothing else) or the folder of a Whisper model for faster-whisper (adds word error rates).
        seed: of the choice of items and of sampling.
        mix: for se and ss, a YAML file such as configs/mix/enhancement.yaml: what the model is to hear; not needed
            where the corpus has it, as with --layout voicebank (for se and codec) or libri2mix (for ss).
        noise: recordings of noise, for recipes that draw recorded noise.
        full: also DNSMOS and the likeness of the voice, and what others make of the same items: Codec2 and Opus; flite
            and espeak-ng; spectral gating and DeepFilterNet.
        record: a .jsonl file of what was measured of each item; what it holds is not measured again.
        layout: where data is a folder as a corpus is published, its name; see focallm tokenize --help.
        quiet: no progress bar.
    """
    _prepare()
    from .evaluation import evaluate_task

    print(evaluate_task(task, data, model, limit, scorer, seed, mix, noise, full, record, not quiet, layout))


def release(recipe: Path, run: Path, out: Path, evaluations: list[Path] | None = None, seed: int = 0) -> None:
    """Turn a trained codec or LM into a folder to ship: half precision, and a card from the run's own record.

    Args:
        recipe: the YAML file that it was trained with.
        run: folder of the run.
        out: folder of the weights and their card.
        evaluations: records that focallm evaluate --full --record wrote of these weights, a table each.
        seed: of the tables' intervals.
    """
    _prepare()
    from ..lm.loading import is_speech_lm
    from .release import release_codec
    from .release_lm import release_lm

    write = release_lm if is_speech_lm(run / "model") else release_codec
    print(write(recipe, run, out, evaluations or [], seed))


def tables(name: str, runs: Path, data: Path, limit: int = 0, scorer: str = "mel", seed: int = 0) -> None:
    """Print a table of the paper with what was measured here beside what is published.

    Args:
        name: ablation (the paper's Table 6).
        runs: folder of the trained rows, such as runs/ablation.
        data: a corpus with transcripts that was not trained on.
        limit: only this many items, chosen by the seed; 0 for all.
        scorer: mel (needs nothing else) or the folder of a Whisper model for faster-whisper (adds word error rates).
        seed: of the choice of items and of the intervals.
    """
    _prepare()
    from .tables import ablation_table

    if name != "ablation":
        raise ValueError(f"ablation is the table that there is, found {name!r}")
    print(ablation_table(runs, data, limit, scorer, seed))


def benchmark(
    what: str,
    model: str | None = None,
    store: Path | None = None,
    threads: int = 2,
    batch: int = 1,
    tokens: int = 500,
) -> None:
    """Measure speed and memory on this machine and print a table.

    Args:
        what: codec, lm (against transformers.generate, in turn), or packing (training on packed against padded rows).
        model: mini, a folder or a hub id; for a codec also focalcodec_50hz (the full-size configuration with random
            weights), its default; mini is that of an lm.
        store: a token store of the mini codec, for packing.
        threads: CPU threads to use.
        batch: items at once, of an lm.
        tokens: codes to write for each item, of an lm.
    """
    _prepare()
    if what == "codec":
        from .benchmark import benchmark_codec

        print(benchmark_codec(model or "focalcodec_50hz", threads))
    elif what == "lm":
        from .benchmark_lm import benchmark_lm

        print(benchmark_lm(model or "mini", batch, tokens, threads))
    elif what == "packing":
        from .benchmark_packing import benchmark_packing

        if store is None:
            raise ValueError("packing needs --store, a token store whose lengths are packed")
        print(benchmark_packing(store, threads))
    else:
        raise ValueError(f"codec, lm and packing can be measured, found {what!r}")


def demo(audio: Path | None = None, out: Path = Path("out"), quiet: bool = False) -> None:
    """Show everything that the weights in the package can do, on one page to hear and to see, out/index.html.

    Args:
        audio: a recording of yours, to encode, imitate, clean and take apart; bundled ones by default.
        out: folder for the page and its sounds.
        quiet: no progress bar.
    """
    _prepare()
    from .demo import run_demo

    print(run_demo(audio, out, progress=not quiet))


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
    "align": align,
    "train": train,
    "train-codec": train_codec,
    "speak": speak_to_file,
    "enhance": enhance_file,
    "separate": separate_file,
    "convert": convert_file,
    "transcribe": transcribe_file,
    "continue": continue_file,
    "evaluate": evaluate,
    "release": release,
    "tables": tables,
    "benchmark": benchmark,
    "demo": demo,
    "info": info,
}


def main() -> None:
    """Entry point of `focallm`: run a command; a mistake of the user's is one sentence, not a traceback."""
    from jsonargparse import auto_cli

    flags = ("--quiet", "--features", "--full")  # jsonargparse has no plain flags
    sys.argv = [f"{word}=true" if word in flags else word for word in sys.argv]
    try:
        auto_cli(COMMANDS, as_positional=True, prog="focallm")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"focallm: {error}")
