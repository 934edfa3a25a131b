"""Every table from end to end, on seconds of speech, and what its measured rows say."""

import math
from dataclasses import replace

import numpy as np
import pytest

from focallm.data.utterance import Utterance
from focallm.tasks.evaluation import baselines
from focallm.tasks.evaluation.baselines import PAPER, open_baseline
from focallm.tasks.paper.codecs import resynthesize_in_chunks
from focallm.tasks.paper.conversion import choose_references
from focallm.tasks.paper.measured import measured_row
from focallm.tasks.paper.published import published_rows
from focallm.tasks.paper.rendering import Interval
from focallm.tasks.paper.table_config import TableConfig
from focallm.tasks.paper.tables import TABLES, make_tables
from focallm.tokenizer import AudioTokenizer, write_audio


def measured_rows(number: int, config: TableConfig) -> list:
    return [row for row in TABLES[number](config).rows if not row.source]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 9, 10])
def test_tables_have_published_and_measured_rows(table_config, number):
    table = TABLES[number](table_config)
    assert [row for row in table.rows if row.source] == published_rows(number)
    measured = [row for row in table.rows if not row.source]
    assert bool(measured) == (number != 7)  # of training data nothing is measured
    intervals = [cell for row in measured for cell in row.cells.values() if isinstance(cell, Interval)]
    assert all(cell.low <= cell.value <= cell.high for cell in intervals)


def test_bundled_codec_matches_its_card(table_config):
    (row,) = measured_rows(1, table_config)
    assert (row.name, row.cells["bit_rate"], row.cells["frame_rate"], row.cells["code_width"]) == ("mini", 0.65, 50, 13)
    assert row.cells["params"] == pytest.approx(7.87, abs=0.01)
    assert row.cells["macs"] > 0.1


def test_resynthesis_tables_start_with_the_recordings(table_config):
    reference, codec = measured_rows(2, table_config)
    assert (reference.name, codec.name) == ("Reference", "mini")
    assert reference.cells["mel"].value == 0 < codec.cells["mel"].value
    assert 0 < codec.cells["code_usage"] < 5  # 300 tokens of 8192 codes
    clean, noisy, coded = measured_rows(3, table_config)
    assert [row.name for row in (clean, noisy, coded)] == ["Reference", "noisy", "mini"]
    assert clean.cells["mel"].value == 0 < noisy.cells["mel"].value


def test_downstream_table_has_trained_tasks_and_commands_for_the_others(table_config, tmp_path):
    rows = measured_rows(5, table_config)
    assert {row.cells["task"] for row in rows} == {"ASR", "SI", "SER", "SE", "SS", "TTS"}
    nothing = TableConfig(data=table_config.data, runs=tmp_path)
    notes = "\n".join(TABLES[5](nothing).notes)
    assert f"Not trained yet: focallm probe asr STORE {tmp_path}/mini/asr --codec mini" in notes
    assert f"Not trained yet: focallm train tts STORE {tmp_path}/mini/tts --codec mini" in notes


def test_streaming_table_has_a_row_per_chunk_size(table_config):
    rows = [row for row in measured_rows(9, table_config) if row.name == "mini"]
    assert [row.cells["chunk_ms"] for row in rows] == [math.inf, 125, 250, 500]
    assert len({row.cells["mel"].value for row in rows}) == 4


def test_inputs_table_has_a_row_per_task_and_input(table_config):
    rows = measured_rows(10, table_config)
    assert {(row.cells["task"], row.cells["input"]) for row in rows if row.cells.get("input")} == {
        (task, way) for task in ("SE", "SS") for way in ("discrete", "continuous")
    }


def test_a_second_run_reads_all_results_from_the_record(table_config, monkeypatch):
    first = make_tables("2", table_config, "csv", None)
    monkeypatch.setattr(baselines, "_resynthesize", None)
    assert make_tables("2", replace(table_config), "csv", None) == first


def test_codecs_of_the_paper_open_by_name_with_local_weights(fixtures):
    folder = fixtures.parent / "codecs" / "bigcodec"
    bigcodec = open_baseline(f"bigcodec={folder}")
    assert bigcodec.name == PAPER["bigcodec"][0] == "BigCodec"
    wave = np.random.default_rng(0).standard_normal(8001).astype(np.float32)
    again, facts = bigcodec.process(wave)
    assert len(again) == 8001
    assert len(facts["codes"]) == 41  # frames of 200 samples
    assert open_baseline(str(folder)).name == "codecs/bigcodec"


def test_a_failed_download_says_how_to_pass_local_weights(monkeypatch):
    def nothing(*args):
        raise OSError("no network")

    monkeypatch.setattr("focallm.tokenizer.AudioTokenizer.from_pretrained", nothing)
    with pytest.raises(OSError, match="no network\\nTo use local weights of Mimi: --codecs mimi=FOLDER"):
        open_baseline("mimi")


def test_reference_is_the_longest_recording_of_the_next_speaker(tmp_path):
    items = [Utterance(str(i), tmp_path, "", speaker, seconds) for i, (speaker, seconds) in enumerate(
        [("ann", 1.0), ("bob", 2.0), ("bob", 3.0), ("cat", 1.0)])]  # fmt: skip
    assert [item.id for item in choose_references(items)] == ["2", "3", "3", "0"]
    with pytest.raises(ValueError, match="at least two named speakers, found \\['ann'\\]"):
        choose_references(items[:1])


@pytest.mark.parametrize("name", ["tiny_50hz", "tiny_50hz_causal"])
@pytest.mark.parametrize("samples", [1, 5000, 16001])
def test_chunks_keep_the_length_and_a_causal_codec_streams_exactly(codec, name, samples):
    tokenizer = AudioTokenizer(codec(name))
    wave = 0.1 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    again, _ = resynthesize_in_chunks(tokenizer, wave, 125)
    assert again.shape == wave.shape
    if codec(name).config.causal and samples == 16001:
        offline, _ = baselines.codec_baseline(name, tokenizer).process(wave)
        np.testing.assert_allclose(again[:15000], offline[:15000], atol=1e-3)


def test_cells_are_means_and_error_rates_with_intervals():
    lines = [{"errors": i, "words": 10, "similarity": 0.5 + 0.1 * i, "bit_rate": 650.0} for i in range(4)]
    cells = measured_row("a", lines, 0).cells
    assert cells["wer"].value == 15.0
    assert cells["failed"] == 0.0
    assert measured_row("a", [{"errors": 3, "words": 4}, {"errors": 2, "words": 4}], 0).cells["failed"] == 50.0
    assert cells["wer"].low < 15.0 < cells["wer"].high
    assert cells["similarity"].value == pytest.approx(65.0)
    assert cells["bit_rate"] == 0.65
    assert "dwer" not in cells


def test_undefined_scores_are_counted():
    lines = [{"similarity": 0.5}, {"undefined": ["similarity", "utmos"]}]
    cells = measured_row("a", lines, 0).cells
    assert cells["undefined"] == 2
    assert cells["similarity"].value == 50
    assert "undefined" not in measured_row("b", lines[:1], 0).cells


def test_missing_options_are_named(tmp_path):
    with pytest.raises(ValueError, match="give --data FOLDER"):
        TABLES[2](TableConfig())
    with pytest.raises(ValueError, match="Table 5 needs trained probes and models: give --runs"):
        TABLES[5](TableConfig())
    with pytest.raises(ValueError, match="Table 6 needs trained codecs: give --runs"):
        TABLES[6](TableConfig())


def test_tables_are_written_in_all_formats(table_config, tmp_path):
    make_tables("7", table_config, "text", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"table_07.{s}" for s in ("csv", "md", "tex", "txt")]
    with pytest.raises(ValueError, match="the paper has the tables 1 to 10, or all of them, found '11'"):
        make_tables("11", table_config, "text", None)


def test_a_corpus_with_noisy_recordings_needs_no_mixing_recipe(table_config, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("clean_testset_wav", "noisy_testset_wav", "testset_txt"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        clean = 0.1 * rng.standard_normal(8000).astype(np.float32)
        write_audio(tmp_path / f"clean_testset_wav/p232_00{i}.wav", clean, 16000)
        write_audio(tmp_path / f"noisy_testset_wav/p232_00{i}.wav", clean + 0.05, 16000)
        (tmp_path / f"testset_txt/p232_00{i}.txt").write_text("the cat")
    config = replace(table_config, data=(tmp_path,), layout="voicebank", mix=(), record=None)
    clean, noisy, coded = measured_rows(3, config)
    assert [row.name for row in (clean, noisy, coded)] == ["Reference", "noisy", "mini"]
    assert clean.cells["mel"].value == 0 < noisy.cells["mel"].value < coded.cells["mel"].value
    with pytest.raises(ValueError, match="--layout voicebank or libri2mix"):
        TABLES[3](replace(table_config, mix=()))
