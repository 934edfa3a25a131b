"""The page of `focallm demo`: what stands beside a sound, and what is safe to show."""

import io

import matplotlib.image
import numpy as np
import pytest
from transformers.audio_utils import hertz_to_mel

from focallm.tasks.page import Clip, Section, markdown_to_html, render_clip, render_page, spectrogram

RATE = 16000
TONE = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE).astype(np.float32)


def test_beside_a_clip_is_what_was_said_what_was_heard_and_what_was_measured():
    clip = Clip("spoken", TONE, RATE, said="Good <morning>.", heard="Could <warning>.", measured="word error rate 12 %")
    figure = render_clip(clip)
    assert "<p>said: Good &lt;morning&gt;.</p>" in figure
    assert "<p>heard: Could &lt;warning&gt;.</p>" in figure
    assert '<p class="measured">measured: word error rate 12 %</p>' in figure


def test_a_clip_without_a_recognizer_claims_nothing_about_what_was_heard():
    assert "heard" not in render_clip(Clip("spoken", TONE, RATE, said="Good morning."))
    assert "<p>heard: (no words)</p>" in render_clip(Clip("spoken", TONE, RATE, heard=""))


def test_a_tone_is_drawn_at_its_frequency():
    image = matplotlib.image.imread(io.BytesIO(spectrogram(TONE, RATE)))
    x = round(0.4 * image.shape[1])  # crosses no label
    rows = np.flatnonzero(image[:, x, 3] > 0)  # what is not transparent
    column = image[rows[0] : rows[-1], x, :3].sum(axis=1)
    height = 1 - column.argmax() / len(column)
    assert height == pytest.approx(hertz_to_mel(1000, "slaney") / hertz_to_mel(RATE / 2, "slaney"), abs=0.03)


def test_a_table_scrolls_in_a_box_and_keeps_escaped_bars():
    table = markdown_to_html("| | rate |\n|---|---|\n| a \\| b | 1 |")
    assert table.startswith('<div class="scroll" tabindex="0"><table>')
    assert "<th>rate</th>" in table
    assert "<td>a | b</td><td>1</td>" in table


def test_a_page_links_to_the_documentation_only_if_there_is_one():
    sections = [Section("Codec", "text", "focallm encode", [])]
    assert '<a href="../docs/index.md">' in render_page("demo", [], sections, "", "../docs/index.md")
    assert "<a " not in render_page("demo", [], sections, "", None)
