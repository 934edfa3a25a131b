"""The page: each handler with tiny random models, and the whole page in a browser."""

import base64
import contextlib
import io
import itertools
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focallm.lm import SpeechLM
from focallm.lm.continuous_batching import BatchFullError, ContinuousBatch
from focallm.lm.loading import PACKAGED_MODELS
from focallm.tasks import stream_speech
from focallm.tasks.cli.serving import app
from focallm.tasks.demo import SAMPLE, mixture_sample, noisy_sample
from focallm.tokenizer import read_audio, write_audio

gradio = pytest.importorskip("gradio")

try:
    from selenium import webdriver
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.keys import Keys
except ImportError:
    webdriver = None

from focallm.tasks.inference.measured import harm  # noqa: E402
from focallm.tasks.serve.page import build_page  # noqa: E402
from focallm.tasks.serve.page_tasks import PageLimits, PageTasks, collected_warnings, load_page_models  # noqa: E402

TEXT = "ann bob"
RATE = 16000


@pytest.fixture(scope="module")
def models(speech_lm):
    rewriter = speech_lm("se-features", "ss-features")
    return {"tts": speech_lm("tts", "zero-shot"), "se": rewriter, "ss": rewriter}


@pytest.fixture(scope="module")
def page(models):
    return build_page(models, limits=PageLimits(seconds=3.0, characters=20))


@pytest.fixture
def recording(tmp_path):
    """A file with a second of speech."""
    audio, rate = read_audio(SAMPLE, RATE)
    write_audio(tmp_path / "voice.wav", audio[:rate], rate)
    return str(tmp_path / "voice.wav")


def handler(page, elem_id: str, event: str = "click"):
    """The function behind a button, whose results have the `elem_id` or the class of components as keys."""

    def name(component) -> str:
        return component.elem_id or type(component).__name__

    for function in page.fns.values():
        for target, target_event in function.targets:
            if page.blocks[target].elem_id == elem_id and target_event == event and function.fn:
                return lambda *inputs: named(function.fn(*inputs), name)
    raise AssertionError(f"nothing happens at {event} of {elem_id}")


def named(result, name):
    if isinstance(result, dict):
        return {name(component): value for component, value in result.items()}
    return ({name(component): value for component, value in item.items()} for item in result)


def speak(page, text=TEXT, voice="ann", reference=None, reference_text="", speed=1.0, temperature=1.0, seed=0):
    return list(handler(page, "speak-button")(text, voice, reference, reference_text, speed, temperature, seed))


def test_speech_arrives_in_chunks_that_are_the_whole(page):
    first, *chunks, last = speak(page)
    assert first["player"]["chunks"] == []
    rate, audio = last["speech"]
    sent = [np.frombuffer(base64.b64decode(chunk), "<i2") for chunk in chunks[-1]["player"]["chunks"]]
    assert rate == chunks[-1]["player"]["rate"] == RATE
    assert len(sent) == len(chunks) > 1
    np.testing.assert_array_equal(np.concatenate(sent), audio)
    assert "stop reason" in last["speak-status"]
    assert "first sound after" in last["speak-status"]


def test_a_seed_repeats_speech(page):
    one, same, other = (speak(page, seed=seed)[-1]["speech"][1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert len(one) != len(other) or (one != other).any()


def test_speech_has_the_voice_of_a_recording(page, recording):
    own_voice = speak(page)[-1]["speech"][1]
    imitated = speak(page, reference=recording, reference_text="ann")[-1]["speech"][1]
    assert len(own_voice) != len(imitated) or (own_voice != imitated).any()


def test_words_have_times_and_follow_the_speed(recording):
    page = build_page({"tts": SpeechLM.from_pretrained("mini")})
    normal = speak(page, "Good morning.", None)[-1]
    fast = speak(page, "Good morning.", None, speed=2.0)[-1]
    assert re.findall(r">(\w+)<", normal["words"]) == re.findall(r">(\w+)<", fast["words"]) == ["good", "morning"]
    times = [float(time) for time in re.findall(r"[\d.]+(?= to| s)", normal["words"])]
    rate, audio = normal["speech"]
    assert times == sorted(times)
    assert times[-1] <= len(audio) / rate
    assert len(fast["speech"][1]) < 0.7 * len(audio)


def test_visitors_do_not_mix_their_speech(page):
    def final(steps):
        return [step for step in steps if "speech" in step][-1]["speech"][1]

    alone = [speak(page, seed=seed) for seed in (0, 1)]
    visits = [handler(page, "speak-button")(TEXT, "ann", None, "", 1.0, 1.0, seed) for seed in (0, 1)]
    # Each visitor reads a step in turn.
    steps = list(itertools.zip_longest(*visits, fillvalue={}))
    for i in (0, 1):
        np.testing.assert_array_equal(final([pair[i] for pair in steps]), final(alone[i]))


def test_visitors_share_the_batch_of_a_server(page, models, monkeypatch):
    expected = speak(page)[-1]["speech"][1]

    def refuse(*_):
        raise BatchFullError("16 requests run and 64 wait")

    with ContinuousBatch(models["tts"], max_rows=2) as batch:
        page = build_page(models, batch)
        np.testing.assert_array_equal(speak(page)[-1]["speech"][1], expected)
        monkeypatch.setattr(batch, "stream", refuse)
        assert "too many others wait" in speak(page)[-1]["speak-status"].lower()


def test_enhanced_speech_is_as_long_as_the_recording_and_mixes_with_it(page, recording):
    result = handler(page, "enhance-button")(recording, 0.0)
    assert result["before-picture"] != result["after-picture"]
    assert "spectrogram: enhanced" in result["after-picture"]
    wet = result["enhanced"][1]
    noisy, _ = read_audio(recording)
    assert len(wet) == len(noisy)

    mix = handler(page, "dry", "input")
    np.testing.assert_array_equal(mix(result["State"], 0.0)["enhanced"][1], wet)
    np.testing.assert_allclose(mix(result["State"], 1.0)["enhanced"][1] / 32767, noisy, atol=1e-4)
    half = mix(result["State"], 0.5)["enhanced"][1]
    np.testing.assert_allclose(half / 32767, (noisy + wet / 32767) / 2, atol=1e-4)


def test_the_slider_waits_for_a_recording(page):
    assert "enhanced" not in handler(page, "dry", "input")(None, 0.5)


def test_speakers_are_separated(page, recording):
    result = handler(page, "separate-button")(recording, 2)
    first, second = result["speaker-1"][1], result["speaker-2"][1]
    assert len(first) == len(second) == RATE
    assert (first != second).any()


def test_a_recording_is_converted(page, recording, tmp_path):
    audio, rate = read_audio(SAMPLE)
    write_audio(tmp_path / "other.wav", audio[-rate:], rate)
    result = handler(page, "convert-button")(recording, str(tmp_path / "other.wav"))
    assert len(result["converted"][1]) == RATE
    assert "constraint" in result["convert-status"]


def test_tokens_are_shown_and_decoded_again(page, models, recording):
    encoded = handler(page, "encode-button")(recording)
    codec = models["tts"].audio_tokenizer
    ids = codec(recording)["input_ids"][0].tolist()
    assert encoded["ids"] == " ".join(map(str, ids))
    assert f"{codec.bits_per_second:.0f} bit/s" in encoded["tokens-status"]
    decoded = handler(page, "decode-button")
    np.testing.assert_array_equal(decoded(encoded["ids"])["decoded"][1], encoded["decoded"][1])
    # As Python or a token file would print them.
    np.testing.assert_array_equal(decoded(str(ids))["decoded"][1], encoded["decoded"][1])
    assert (decoded(" ".join(map(str, ids[::-1])))["decoded"][1] != encoded["decoded"][1]).any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": "  "}, "There is no text"),
        ({"text": 21 * "a"}, "The text has 21 characters, and this page takes up to 20"),
        ({"text": "привет"}, "cannot spell"),
        ({"reference": "missing.wav"}, "There is no audio file missing.wav"),
        ({"seed": None}, "Speed, temperature and seed are numbers"),
    ],
)
def test_a_mistake_in_speech_is_a_sentence(page, options, sentence):
    *_, last = speak(page, **options)
    assert sentence in last["speak-status"]
    assert last["speak-status"].count("<") == 2
    assert "speech" not in last


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (None, "There is no recording"),
        (lambda path: write_audio(path, np.zeros(RATE), RATE), "The recording is silent"),
        (lambda path: write_audio(path, np.ones(800), RATE), "lasts only 50 ms"),
        (lambda path: write_audio(path, np.ones(4 * RATE), RATE), "lasts 4.0 s, and this page takes up to 3 s"),
        (lambda path: path.write_bytes(b"....ftypM4A ...."), "Input.wav is AAC or MP4"),
        (lambda path: path.write_bytes(b"<b>Hello, this is a text</b>"), "Input.wav is not audio that can be read"),
    ],
)
@pytest.mark.parametrize("button", ["enhance", "separate", "convert", "encode"])
def test_a_wrong_recording_is_a_sentence(page, tmp_path, button, make, sentence):
    path = None
    if make is not None:
        make(tmp_path / "input.wav")
        path = str(tmp_path / "input.wav")
    others = {"enhance": [0.0], "separate": [2], "convert": [None], "encode": []}
    result = handler(page, f"{button}-button")(path, *others[button])
    (status,) = (value for name, value in result.items() if name.endswith("-status"))
    assert sentence in status
    assert str(tmp_path) not in status
    # One line, whose only tags are those of the sentence.
    assert "\n" not in status
    assert status.count("<") == 2
    assert not any(value for name, value in result.items() if not name.endswith("-status"))


@pytest.mark.parametrize("ids", ["", "1 2 x", "1 -2", "1 99999", "1 " * 200])
def test_wrong_ids_are_a_sentence(page, ids):
    result = handler(page, "decode-button")(ids)
    assert "mistake" in result["tokens-status"]
    assert result["decoded"] is None


def test_a_bug_is_not_shown_as_a_mistake(models, recording, monkeypatch):
    def fail(*_):
        raise KeyError("secret")

    monkeypatch.setattr(PageTasks, "enhance", fail)
    with pytest.raises(KeyError):
        handler(build_page(models), "enhance-button")(recording, 0.0)


def test_warnings_of_other_visitors_are_not_shown():
    logger = logging.getLogger("focallm.tasks")
    other = threading.Thread(target=logger.warning, args=["another's"])
    with collected_warnings() as warnings:
        other.start()
        other.join()
        logger.warning("one's own")
    logger.warning("later")
    assert warnings == ["one's own"]


def test_the_examples_are_recordings(page):
    examples = [function.fn for function in page.fns.values() if function.fn and not function.inputs]
    assert len(examples) == 5
    for example in examples:
        rate, audio = example()
        assert rate == RATE
        assert np.abs(audio).max() > 1000
    for sample in (noisy_sample, mixture_sample):
        audio, rate = sample()
        assert rate < len(audio) < 5 * rate


def test_what_was_measured_stands_beside_the_sound(models):
    shown = str(build_page(models).get_config_file())
    assert "word error rate" not in shown
    lm = models["se"]
    lm.model.config.name_or_path = str(PACKAGED_MODELS["mini-rewriting"])
    try:
        shown = str(build_page(models).get_config_file())
    finally:
        lm.model.config.name_or_path = ""
    assert "(enhanced), so its output is harder to understand than its input" in shown
    for task, row in (("se", "(enhanced)"), ("ss", "(separated)")):
        assert (row in shown) == bool(harm("mini", task))


def test_the_page_has_tabs_for_what_the_models_can_do(page, models, speech_lm, tmp_path):
    def tabs(page):
        return [block.label for block in page.blocks.values() if isinstance(block, gradio.Tab)]

    assert tabs(page) == ["Speak", "Enhance", "Separate", "Convert", "Tokens"]
    assert tabs(build_page({"se": models["se"]})) == ["Enhance", "Convert", "Tokens"]
    speech_lm("tts").save_pretrained(tmp_path / "speaks")
    assert list(load_page_models(tmp_path / "speaks")) == ["tts"]
    speech_lm("asr").save_pretrained(tmp_path / "listens")
    with pytest.raises(ValueError, match="found one for asr"):
        load_page_models(tmp_path / "listens")


def test_a_model_that_only_imitates_asks_for_a_recording(models, recording, speech_lm):
    lm = speech_lm("zero-shot")
    lm.info = replace(lm.info, voices=())
    page = build_page({"tts": lm})
    *_, last = speak(page, voice=None)
    assert "record a voice" in last["speak-status"]
    *_, last = speak(page, voice=None, reference=recording, reference_text="ann")
    assert len(last["speech"][1]) > 0


def test_the_command_serves_what_a_model_can_do(speech_lm, tmp_path, monkeypatch, capsys):
    launched = {}

    def launch(self, **options):
        launched.update(options, page=self)
        return None, "http://127.0.0.1:7999/", None

    monkeypatch.setattr(gradio.Blocks, "launch", launch)
    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda self: None)
    speech_lm("tts").save_pretrained(tmp_path / "model")
    app(str(tmp_path / "model"), port=7999, max_characters=3)
    assert "http://127.0.0.1:7999/" in capsys.readouterr().out
    assert (launched["server_name"], launched["server_port"]) == ("127.0.0.1", 7999)
    *_, last = speak(launched["page"], text="anna")
    assert "takes up to 3" in last["speak-status"]


def test_the_page_adds_no_public_address(page):
    assert {function.api_visibility for function in page.fns.values()} == {"private"}


# The whole page, in a headless Chromium.

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120
# Runs a program that may talk to this machine only.
OFFLINE = """
import runpy, socket, sys

def refuse(address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise SystemExit(f"asked {address[0]}")

def connect(self, address, original=socket.socket.connect):
    refuse(address)
    return original(self, address)

def getaddrinfo(host, *arguments, original=socket.getaddrinfo, **options):
    refuse((host,))
    return original(host, *arguments, **options)

socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of the Space, run unchanged in a process that reaches no other machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What Spaces set, except for the port.
    variables = {**os.environ, "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    log = (tmp_path_factory.mktemp("space") / "log").open("w+")
    program = [sys.executable, "-c", OFFLINE, str(ROOT / "configs" / "space" / "app.py")]
    server = subprocess.Popen(program, env=variables, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "Running on" not in Path(log.name).read_text():
            assert server.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
        assert server.poll() is None
        assert "Traceback" not in Path(log.name).read_text()
    finally:
        server.terminate()
        server.wait()
        log.close()


class Visitor:
    """A headless browser on the page. Its microphone hears beeps."""

    def __init__(self, address: str, width: int = 1280, dark: bool = False) -> None:
        self.address = address
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for switch in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-background-networking"):
            options.add_argument(f"--{switch}")
        for switch in ("device", "ui"):
            options.add_argument(f"--use-fake-{switch}-for-media-stream")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options, service)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if dark:
            scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        self.driver.get(address)
        self.wait(lambda: self.find("#speak-button"))

    def find(self, selector: str):
        """The visible elements that a CSS selector matches."""
        return [element for element in self.driver.find_elements("css selector", selector) if element.is_displayed()]

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(StaleElementReferenceException):
                if found := condition():
                    return found
            assert time.monotonic() < deadline, self.driver.find_element("tag name", "body").text
            time.sleep(0.2)

    def click(self, selector: str, text: str | None = None) -> None:
        def target():
            return [element for element in self.find(selector) if text is None or element.text == text]

        element = self.wait(target)[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def text(self, selector: str) -> str:
        return self.wait(lambda: [element.text for element in self.find(selector) if element.text])[0]

    def sound(self, elem_id: str) -> tuple[np.ndarray, int]:
        """Decode the file that the page offers for download."""
        link = self.wait(lambda: self.driver.find_elements("css selector", f"#{elem_id} a[download]"))[0]
        with urllib.request.urlopen(link.get_attribute("href")) as response:
            return read_audio(io.BytesIO(response.read()))

    def hosts(self) -> set[str]:
        """The machines that the page asked for something."""
        hosts = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                url = message["params"].get("request", message["params"])["url"]
                if not url.startswith(("data:", "blob:")):
                    hosts.add(urllib.parse.urlsplit(url).hostname)
        return hosts


@pytest.fixture
def visit(address):
    visitors = []

    def start(**options) -> Visitor:
        visitors.append(Visitor(address, **options))
        return visitors[-1]

    yield start
    errors = []
    hosts = set()
    for visitor in visitors:
        hosts |= visitor.hosts()
        errors += [entry for entry in visitor.driver.get_log("browser") if entry["level"] == "SEVERE"]
        visitor.driver.quit()
    assert hosts == {"127.0.0.1"}
    assert not errors


browser_test = pytest.mark.skipif(
    webdriver is None or not shutil.which("chromium") or not shutil.which("chromedriver"),
    reason="needs selenium, chromium and chromedriver",
)


@pytest.mark.slow
@browser_test
def test_a_typed_text_is_heard_while_it_is_generated(visit):
    visitor = visit()
    # Record what the browser plays.
    visitor.driver.execute_script("""
        window.played = [];
        const start = AudioBufferSourceNode.prototype.start;
        AudioBufferSourceNode.prototype.start = function (time) {
            window.played.push([time, this.buffer.length]);
            return start.call(this, time);
        };
    """)
    box = visitor.find("#speak-text textarea")[0]
    box.clear()
    box.send_keys("The cat sat on the mat, and the dog looked at it.")
    visitor.click("#speak-button")
    visitor.wait(lambda: "first sound" in visitor.text(".player-status"))
    assert "stop reason" in visitor.text("#speak-status")

    audio, rate = visitor.sound("speech")
    stream = stream_speech("The cat sat on the mat, and the dog looked at it.")
    expected = np.concatenate(list(stream))
    assert rate == stream.sampling_rate
    np.testing.assert_allclose(audio, expected.clip(-1, 1), atol=1e-4)
    words = [element.text.split("\n") for element in visitor.find("#words .word")]
    assert [word for word, _ in words] == [word.text for word in stream.result.words]
    assert words[-1][1].endswith(f"{stream.result.words[-1].end_s:.2f} s")
    played = visitor.driver.execute_script("return window.played")
    assert sum(length for _, length in played) == len(audio)
    # Each chunk begins where the one before ended, or later.
    for (time_, length), (next_time, _) in itertools.pairwise(played):
        assert next_time >= time_ + length / rate - 1e-6


@pytest.mark.slow
@browser_test
def test_two_visitors_at_once_hear_their_own_texts(visit):
    texts = ["Good morning.", "They went to the market to buy some bread."]
    visitors = [visit(), visit()]
    for visitor, text in zip(visitors, texts, strict=True):
        box = visitor.find("#speak-text textarea")[0]
        box.clear()
        box.send_keys(text)
    for visitor in visitors:
        visitor.click("#speak-button")
    for visitor, text in zip(visitors, texts, strict=True):
        audio, _ = visitor.sound("speech")
        np.testing.assert_allclose(audio, np.concatenate(list(stream_speech(text))).clip(-1, 1), atol=1e-4)


@pytest.mark.slow
@browser_test
def test_an_uploaded_recording_is_enhanced_and_mixed(visit, tmp_path):
    noisy, rate = noisy_sample()
    write_audio(tmp_path / "noisy.wav", noisy, rate)
    visitor = visit()
    visitor.click("button[role=tab]", "Enhance")
    visitor.click("#enhance-button")
    assert visitor.text("#enhance-status .mistake").startswith("There is no recording")

    upload = visitor.driver.find_elements("css selector", "#noisy-recording input[type=file]")[0]
    upload.send_keys(str(tmp_path / "noisy.wav"))
    visitor.wait(lambda: visitor.find("#noisy-recording [aria-label=Clear]"))
    visitor.click("#enhance-button")
    visitor.wait(lambda: len(visitor.find("img.spectrogram")) == 2)
    wet, _ = visitor.sound("enhanced")
    assert len(wet) == len(noisy)
    assert "harder to understand" in visitor.driver.find_element("tag name", "body").text

    visitor.find("#dry input[type=range]")[0].send_keys(Keys.END)
    visitor.wait(lambda: np.abs(visitor.sound("enhanced")[0] - noisy).max() < 1e-3)


@pytest.mark.slow
@browser_test
def test_a_narrow_dark_page_takes_the_microphone(visit):
    visitor = visit(width=390, dark=True)
    tabs = [element.text for element in visitor.find("button[role=tab]")]
    assert tabs == ["Speak", "Enhance", "Separate", "Convert", "Tokens"]
    for tab in tabs:
        visitor.click("button[role=tab]", tab)
        assert visitor.driver.execute_script("return document.documentElement.scrollWidth") == 390
    visitor.click("[aria-label='Record audio']")
    visitor.click("button.record-button")
    time.sleep(2)
    visitor.click("button.stop-button")
    visitor.wait(lambda: visitor.find("[aria-label=Play]"))
    visitor.click("#encode-button")
    ids = visitor.wait(lambda: visitor.find("#ids textarea")[0].get_attribute("value")).split()
    assert f"{len(ids)} ids" in visitor.text("#tokens-status")
    assert abs(len(visitor.sound("decoded")[0]) / RATE - len(ids) / 50) < 0.05
    background = visitor.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background)[:3])) < 50
