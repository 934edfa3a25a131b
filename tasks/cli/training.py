"""Commands that make token stores and models. Heavy libraries are imported inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal


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
) -> str:
    """Encode a corpus into a token store. If interrupted, the same command continues.

    Args:
        corpus: Folder of audio files, a manifest.jsonl or its folder, a folder saved by datasets, or parquet.
        store: Folder to write the token store to.
        codec: mini, a folder or a hub id.
        layout: Name of a published corpus, if the folder has its layout: iemocap, libri1mix, libri2mix, libri3mix,
            librispeech, libritts, mls, vctk or voicebank. libri...mix and voicebank include noisy or mixed input.
        columns: Names of columns that differ in a manifest or dataset, such as '{"text": "sentence"}'.
        mix: YAML file such as configs/mix/enhancement.yaml. The store then also holds noisy, overlapping or
            pitch-shifted input.
        noise: Folder of noise recordings, for a --mix file that mixes them in.
        features: Also store the continuous features that the encoder of the codec computes.
        batch_seconds: Seconds of audio in a batch. It changes the speed, never the tokens.
        quiet: Hide the progress bar.
    """
    from ...data.corpus import read_corpus
    from ...data.mixing.mix_config import MixConfig
    from ...data.mixing.mixer import Mixer
    from ...data.token_store import describe
    from ...data.tokenization import tokenize_corpus
    from ...tokenizer import AudioTokenizer
    from ...tokenizer.configs import load_config

    if noise is not None and mix is None:
        raise ValueError("--noise needs --mix, a YAML file with noise levels such as configs/mix/enhancement.yaml")
    items = read_corpus(corpus, layout=layout, columns=columns)
    # Mistakes in the YAML file are found before the codec is loaded.
    source = Mixer(load_config(MixConfig, mix), items, read_corpus(noise) if noise else ()) if mix else items
    manifest = tokenize_corpus(
        source,
        store,
        AudioTokenizer.from_pretrained(codec),
        features=features,
        batch_seconds=batch_seconds,
        progress=not quiet,
    )
    if not manifest:
        return "this process is done; the last one to finish writes the manifest"
    return describe(manifest)


def align(store: Path, texts: Path | None = None, language: str = "en-us", quiet: bool = False) -> str:
    """Align the phonemes of a token store's transcripts with its frames, for tasks such as tts-aligned.

    Args:
        store: Token store of a corpus with transcripts, made with `focallm tokenize --features`.
        texts: Text file with more words for the pronunciation lexicon.
        language: Language code of espeak-ng.
        quiet: Hide the progress bar.
    """
    from ...data.forced_alignment import align_store
    from ...data.utterance import read_lines

    lines = read_lines(texts) if texts else ()
    return align_store(store, lines, language, progress=not quiet)


def train(
    task: str,
    store: Path,
    run: Path,
    recipe: Path | None = None,
    codec: str = "mini",
    base: str | None = None,
    report_to: Literal["tensorboard", "wandb", "trackio", "none"] | None = None,
    quiet: bool = False,
) -> str | None:
    """Train a language model on a token store. If interrupted, the same command continues.

    Args:
        task: tts, zero-shot, se, se-features, ss, ss-features, vc, asr, continuation, text, tts-aligned,
            zero-shot-aligned, pronounce, or a task that the recipe defines.
        store: Token store with the columns that the task needs; for text, a text file also works.
        run: Folder to write to. The model goes to its subfolder `model`.
        recipe: YAML file such as configs/lm/mini_tts.yaml, which sets the size of the model and its training. The
            default is a small model.
        codec: Codec that made the token store.
        base: Model to start from, instead of that of the recipe: mini, a folder or a hub id.
        report_to: Experiment tracker that gets the metrics, instead of that of the recipe (by default tensorboard).
        quiet: Hide the progress bar.
    """
    from ..training.train_lm import first_process, train_task

    message = train_task(task, store, run, recipe, codec, quiet, base, report_to)
    # Under `accelerate launch`, one process reports.
    return message if first_process() else None


def train_codec(
    recipe: Path,
    corpus: Path,
    run: Path,
    only: str | None = None,
    asr: str | None = None,
    report_to: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard",
    quiet: bool = False,
) -> str:
    """Train a codec. If interrupted, the same command continues.

    Args:
        recipe: YAML file with one stage, or with several that build on each other, such as configs/codec/mini.yaml.
        corpus: Folder of audio files, or a manifest.jsonl or its folder.
        run: Folder to write to. Each stage writes its codec to a subfolder `model`, and the stage teacher its network
            to `teacher`.
        only: Train only the stage of this name. The stages that it builds on must be trained already.
        asr: Folder of a Whisper model for faster-whisper. With it, evaluations report the word error rate and the
            speaker similarity.
        report_to: Experiment tracker that gets the metrics. Audio and spectrograms go to tensorboard only.
        quiet: Hide the progress bar.
    """
    from ..training.train_codec import train_stages

    return train_stages(recipe, corpus, run, only, asr, quiet, report_to)


def release(
    recipe: Path, run: Path, out: Path, *, license: str, evaluations: list[Path] | None = None, seed: int = 0
) -> str:
    """Write the weights of a trained codec or language model in half precision, with a model card.

    Args:
        recipe: YAML file that the model was trained with.
        run: Folder that `focallm train` or `focallm train-codec` wrote.
        out: Folder to write the weights and the card to.
        license: License of the weights, such as apache-2.0, for the card.
        evaluations: Records that `focallm evaluate --record` wrote for these weights. The card shows each as a table.
        seed: Seed of the confidence intervals in these tables.
    """
    from ..release import release as release_run

    return release_run(recipe, run, out, license, evaluations or [], seed)


COMMANDS: dict[str, Callable[..., str | None]] = {
    "tokenize": tokenize,
    "align": align,
    "train": train,
    "train-codec": train_codec,
    "release": release,
}
