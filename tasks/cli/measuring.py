"""Commands that measure: codecs, language models, tables, speed. Heavy libraries are imported inside, as in `cli`."""

from pathlib import Path
from typing import Literal

from .speech import prepare as _prepare


def probe(
    task: str, store: Path, run: Path, recipe: Path | None = None, codec: str = "mini", quiet: bool = False
) -> None:
    """Train a small network on a codec's tokens and test it; stopped at any time, it continues when it is called again.

    Args:
        task: asr (what is said), speaker (by whom) or emotion (in what mood).
        store: a token store with transcripts, speakers, or a column emotion.
        run: folder of the run; the error rate is left in its `result.json`.
        recipe: a YAML file such as configs/probes/mini_asr.yaml; the paper's recipe without it.
        codec: the codec that made the store.
        quiet: no progress bar.
    """
    _prepare()
    from ..evaluation.probes import probe as run_probe

    print(run_probe(task, store, run, recipe, codec, quiet))


def evaluate(
    task: str,
    data: Path,
    model: str = "mini",
    limit: int = 0,
    scorers: str = "mel",
    seed: int = 0,
    mix: Path | None = None,
    noise: Path | None = None,
    whisper: str | None = None,
    language: str = "en",
    others: bool = False,
    record: Path | None = None,
    layout: str | None = None,
    utmos: str | None = None,
    quiet: bool = False,
) -> None:
    """Measure a codec or a language model on recordings with transcripts.

    Args:
        task: codec, tts, se or ss.
        data: a corpus with transcripts that was not trained on.
        model: mini or a folder.
        limit: only this many items, chosen by the seed; 0 for all.
        scorers: mel (distances, which need nothing else), published (those of the FocalCodec paper: Whisper small,
            UTMOS, DNSMOS, WavLM; also PESQ and STOI) or offline (what stands in for them without a network).
        seed: of the choice of items and of sampling.
        mix: for se and ss, a YAML file such as configs/mix/enhancement.yaml: what the model is to hear; not needed
            where the corpus has it, as with --layout voicebank (for se and codec) or libri2mix (for ss).
        noise: recordings of noise, for recipes that draw recorded noise.
        whisper: another recogniser: a folder for faster-whisper, or a folder or hub id for transformers.
        language: of the recordings, as Whisper calls it.
        others: also what others make of the same items: Codec2 and Opus; flite and espeak-ng; spectral gating and
            DeepFilterNet.
        record: a .jsonl file of what was measured of each item; what it holds is not measured again.
        layout: where data is a folder as a corpus is published, its name; see focallm tokenize --help.
        utmos: a checkout of github.com/tarepan/SpeechMOS; without it, published scorers fetch it, offline have none.
        quiet: no progress bar.
    """
    _prepare()
    from ..evaluation.evaluate import evaluate_task

    arguments = (task, data, model, limit, scorers, seed, mix, noise, whisper, language, others, record)
    print(evaluate_task(*arguments, progress=not quiet, layout=layout, utmos=utmos))


def tables(
    name: str,
    codecs: list[str] | None = None,
    data: list[Path] | None = None,
    layout: str | None = None,
    scorers: Literal["published", "offline", "mel"] = "mel",
    whisper: str | None = None,
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
) -> None:
    """Print tables of the FocalCodec paper, with what is measured here beside what is published.

    Args:
        name: 1 codecs, 2 clean speech resynthesised, 3 noisy speech, 4 voice conversion, 5 downstream tasks,
            6 ablations, 7 training data, 8 TS3-Codec, 9 offline and in chunks, 10 codes and features; or all.
        codecs: encodec, dac, wavlm6_km, speechtokenizer, semanticodec, mimi, wavtokenizer, bigcodec, stable_codec,
            focalcodec_50hz, _25hz, _12_5hz, each also as NAME=FOLDER; codec2-700C, codec2-1300, opus-6; mini, a folder
            or a hub id. mini by default.
        data: corpora with transcripts; Tables 2 and 3 are of all, the others of the first.
        layout: where they are folders as corpora are published, their name; see focallm tokenize --help.
        scorers: published (the paper's; from the hub), offline (stand-ins that pip installs) or mel (distances only).
        whisper: another recogniser than that of the scorers: a folder or a hub id.
        utmos: a checkout of github.com/tarepan/SpeechMOS, where the scorers cannot fetch it.
        limit: only this many items of each corpus, chosen by the seed; 0 for all.
        seed: of the choice of items and of the intervals.
        record: a .jsonl file of what was measured of each item; what it holds is not measured again.
        mix: recipes such as configs/mini/test_enhancement.yaml, for Tables 3, 5 and 10.
        noise: recordings of noise, for recipes that draw recorded noise.
        runs: folder of what was trained: ablation/ROW (Table 6), CODEC/TASK (Table 5).
        model: a speech LM, of Table 10.
        format: text, markdown, latex or csv.
        out: a folder for the tables in all formats.
        quiet: no progress bars.
    """
    _prepare()
    from ..paper import TableConfig, make_tables

    config = TableConfig(
        tuple(codecs or ["mini"]), tuple(data or ()), layout, scorers, whisper, utmos, limit, seed, record,
        tuple(mix or ()), noise, runs, model, progress=not quiet,
    )  # fmt: skip
    print(make_tables(name, config, format, out))


def benchmark(
    what: str,
    model: str | None = None,
    threads: int = 2,
    batch: int = 1,
    tokens: int = 500,
) -> None:
    """Measure speed and memory on this machine and print a table.

    Args:
        what: codec, or lm (against transformers.generate, in turn).
        model: mini, a folder or a hub id; for a codec also focalcodec_50hz (the full-size configuration with random
            weights), its default; mini is that of an lm.
        threads: CPU threads to use.
        batch: items at once, of an lm.
        tokens: codes to write for each item, of an lm.
    """
    _prepare()
    if what == "codec":
        from ..benchmarks.codec import benchmark_codec

        print(benchmark_codec(model or "focalcodec_50hz", threads))
    elif what == "lm":
        from ..benchmarks.lm import benchmark_lm

        print(benchmark_lm(model or "mini", batch, tokens, threads))
    else:
        raise ValueError(f"codec and lm can be measured, found {what!r}")
