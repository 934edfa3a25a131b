"""The program `focallm`: every command is one function, here or in `cli_*`, and its signature is its options.

Heavy libraries are imported inside the functions, so that `focallm --help` answers at once.
"""

import json
import sys
from pathlib import Path
from typing import Any

from .measuring import benchmark, evaluate, probe, tables
from .speech import continue_file, convert_file, enhance_file, separate_file, speak_to_file, transcribe_file
from .speech import prepare as _prepare


def encode(audio: Path, out: Path, codec: str = "mini") -> None:
    """Turn a recording into tokens.

    Args:
        audio: an audio file.
        out: where the tokens go: an .npz with `codes` and `num_samples`.
        codec: mini, a folder or a hub id.
    """
    _prepare()
    from ..files import encode_file

    print(encode_file(audio, out, codec))


def decode(tokens: Path, out: Path, codec: str = "mini") -> None:
    """Turn tokens back into sound.

    Args:
        tokens: an .npz that `focallm encode` wrote.
        out: an audio file to write (.wav, .flac, .ogg).
        codec: the codec that made the tokens.
    """
    _prepare()
    from ..files import decode_file

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
    from ...data.corpus import read_corpus
    from ...data.mixing import Mixer, read_recipe
    from ...data.token_store import describe
    from ...data.tokenization import tokenize_corpus
    from ...tokenizer import AudioTokenizer

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
    from ...data.alignment import align_store

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
    from ..training.train_lm import first_process, train_task

    said = train_task(task, store, run, recipe, codec, quiet)
    if first_process():
        print(said)


def train_codec(
    recipe: Path, corpus: Path, run: Path, only: str | None = None, asr: str | None = None, quiet: bool = False
) -> None:
    """Train a codec, or one stage of it; stopped at any time, it continues when it is called again.

    Args:
        recipe: a YAML file: one stage, or several that build on each other, such as configs/codec/mini.yaml.
        corpus: a folder of audio, or a folder or file with a manifest.
        run: folder of the run; each stage leaves its codec in a folder `model`, or `teacher` after stage teacher.
        only: train this stage of several; those that it builds on are done.
        asr: folder of a Whisper model for faster-whisper; evaluations then count the words that decoding changes,
            and say how similar voices stay.
        quiet: no progress bar.
    """
    _prepare()
    from ..training.train_codec import train_stages

    print(train_stages(recipe, corpus, run, only, asr, quiet))


def release(recipe: Path, run: Path, out: Path, evaluations: list[Path] | None = None, seed: int = 0) -> None:
    """Turn a trained codec or LM into a folder to ship: half precision, and a card from the run's own record.

    Args:
        recipe: the YAML file that it was trained with.
        run: folder of the run.
        out: folder of the weights and their card.
        evaluations: records that focallm evaluate --record wrote of these weights, a table each.
        seed: of the tables' intervals.
    """
    _prepare()
    from ...lm.loading import is_speech_lm
    from ..release import release_codec
    from ..release_lm import release_lm

    write = release_lm if is_speech_lm(run / "model") else release_codec
    print(write(recipe, run, out, evaluations or [], seed))


def demo(audio: Path | None = None, out: Path = Path("out"), quiet: bool = False) -> None:
    """Show everything that the weights in the package can do, on one page to hear and to see, out/index.html.

    Args:
        audio: a recording of yours, to encode, imitate, clean and take apart; bundled ones by default.
        out: folder for the page and its sounds.
        quiet: no progress bar.
    """
    _prepare()
    from ..demo import run_demo

    print(run_demo(audio, out, progress=not quiet))


def info(model: str) -> None:
    """Say what a codec or a speech LM is: rates, sizes, parameters.

    Args:
        model: mini, a folder or a hub id.
    """
    _prepare()
    from ..files import describe_model

    print(describe_model(model))


_FLAGS = ("--quiet", "--features", "--others")  # jsonargparse has no plain flags
_LISTS = ("--codecs", "--data", "--mix")  # of tables


COMMANDS: dict[str, Any] = {
    "encode": encode,
    "decode": decode,
    "tokenize": tokenize,
    "align": align,
    "train": train,
    "train-codec": train_codec,
    "probe": probe,
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


def spelt_out(words: list[str]) -> list[str]:
    """Plain flags, and the lists of `tables`, as jsonargparse wants them: --quiet=true, --data=["a", "b"]."""
    several = _LISTS if words[1:2] == ["tables"] else ()
    found: list[str] = []
    lists: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            current = lists.setdefault(word, []) if word in several else None
            found += [f"{word}=true" if word in _FLAGS else word] if current is None else []
        elif current is not None:
            current.append(word)
        else:
            found.append(word)
    return found + [f"{name}={json.dumps(values)}" for name, values in lists.items()]


def main() -> None:
    """Entry point of `focallm`: run a command; a mistake of the user's is one sentence, not a traceback."""
    from jsonargparse import auto_cli

    sys.argv = spelt_out(sys.argv)
    try:
        auto_cli(COMMANDS, as_positional=True, prog="focallm")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"focallm: {error}")
