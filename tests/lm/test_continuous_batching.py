"""Requests that share a running batch get what they would get alone, whatever joins or leaves around them."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from focallm.lm import Sampling, SpeechLM, Vocabulary
from focallm.lm.continuous_batching import BatchFullError, CancelledError, ContinuousBatch
from focallm.lm.features import SpeechLMForConditionalGeneration
from focallm.lm.generation import Item, RunningBatch, generate
from focallm.lm.info import SpeechLMInfo
from focallm.lm.pieces import aligned_prompts
from focallm.lm.templates import Phase, Prompt
from focallm.tasks.definitions import TEMPLATES

GREEDY = Sampling(temperature=0)
SAMPLINGS = [
    GREEDY,
    Sampling(),
    Sampling(1.0, top_k=9, min_p=0.05, repetition_window=4),
    Sampling(bitwise=True),
    Sampling(0.7, guidance=2.0),
    Sampling(0, guidance=3.0),
]
FEATURE_SIZE = 6
MODELS = ["llama", "qwen3", "gpt2", "llama with features"]


class Codec:
    """The attributes of an audio tokenizer that `SpeechLM` uses."""

    vocab_size = 32
    is_binary = True

    @property
    def codec(self):
        return self


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.characters(["abc▁ˈ.,"], 32)


def lively(vocabulary, name):
    """A random model whose logits differ widely and depend on all ids before."""
    rows = vocabulary.padded_size
    shape = {"vocab_size": rows, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0}
    torch.manual_seed(1)
    if name == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_embd=16, n_layer=2, n_head=2, n_positions=256))
    elif name == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape, num_key_value_heads=1, head_dim=8))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    if name == "llama with features":
        restart_ids = [vocabulary.control("speech"), vocabulary.control("speaker")]
        model = SpeechLMForConditionalGeneration.wrap(model, FEATURE_SIZE, vocabulary.control("feature"), restart_ids)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.6 if parameter.ndim > 1 else 1.0)
    return model.eval()


def speech_lm(vocabulary, name="llama"):
    return SpeechLM(lively(vocabulary, name), vocabulary, Codec(), SpeechLMInfo())


def random_prompt(vocabulary, choices, has_features=False):
    task = choices.choice(["tts", "tts-aligned", "ss", "asr"] + ["se-features"] * 2 * has_features)
    most = choices.randint(3, 25)
    text = "".join(choices.choices("abc ", k=choices.randint(1, 20)))
    codes = [choices.randrange(32) for _ in range(choices.randint(1, 12))]
    if task == "tts":
        return TEMPLATES[task].prompt(vocabulary, (1, most), speaker="a", text=text)
    if task == "tts-aligned":
        units = ["▁", *(f"▁ˈ{letter}" for letter in text if letter != " "), "."]
        return TEMPLATES[task].prompt(vocabulary, (1, 5), speaker="a", units=units)
    if task == "ss":
        return TEMPLATES[task].prompt(vocabulary, (len(codes),) * 2, streams=2, mixture_codes=codes)
    if task == "asr":
        return TEMPLATES[task].prompt(vocabulary, (0, most), codes=codes)
    features = torch.randn(len(codes), FEATURE_SIZE)
    return TEMPLATES[task].prompt(vocabulary, (len(codes),) * 2, noisy_features=features)


def assert_equal(found, expected):
    assert [span.tolist() for span in found.spans] == [span.tolist() for span in expected.spans]
    for name in ("stop_reason", "num_spans_at_max", "unit_lengths"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize("name", MODELS)
def test_items_that_join_and_leave_at_random_steps_write_what_they_write_alone(vocabulary, name):
    model = lively(vocabulary, name)
    choices = random.Random(0)
    torch.manual_seed(0)
    batch = RunningBatch(model, vocabulary)
    started = []
    cancelled = set()
    for step in range(90):
        if step < 60 and choices.random() < 0.35:
            arriving = []
            for _ in range(choices.randint(1, 3)):
                prompt = random_prompt(vocabulary, choices, has_features="features" in name)
                arriving.append(Item(prompt, choices.choice(SAMPLINGS), len(started) + len(arriving), vocabulary))
            batch.join(arriving)
            started += arriving
        batch.write()
        for item in batch.items:
            if choices.random() < 0.01:
                item.is_cancelled = True
                cancelled.add(item)
        batch.read()
    while batch.items:
        batch.write()
        batch.read()
    assert len(started) > 15
    assert cancelled
    for seed, item in enumerate(started):
        (alone,) = generate(model, vocabulary, [item.prompt], item.sampling, [seed])
        if item in cancelled and not item.constraint.done:
            written = [i for span in item.constraint.spans for i in span]
            offsets = {"codes": vocabulary.audio_offset, "text": 0}
            expected = []
            kinds = [kind for kind, _ in item.constraint.merged_spans()]
            for kind, span in zip(kinds, alone.spans, strict=False):
                expected += (span + offsets[kind]).tolist()
            assert written == expected[: len(written)]
        else:
            assert_equal(item.generation(), alone)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_threads_share_a_batch(vocabulary, name):
    lm = speech_lm(vocabulary, name)
    choices = random.Random(0)
    requests = []
    for i in range(40):
        prompts = [random_prompt(vocabulary, choices) for _ in range(choices.randint(1, 3))]
        requests.append((prompts, choices.choice(SAMPLINGS), i))
    highest = []

    def answer(request):
        prompts, sampling, seed = request
        found = batch.generate(prompts, sampling, seed)
        highest.append(batch.num_running)
        return found

    with ContinuousBatch(lm, max_rows=6, max_waiting=3) as batch, ThreadPoolExecutor(12) as threads:
        for (prompts, sampling, seed), found in zip(requests, threads.map(answer, requests), strict=True):
            for one, expected in zip(found, lm.generate(prompts, sampling=sampling, seed=seed), strict=True):
                assert_equal(one, expected)
    assert max(highest) <= 6


def test_a_stream_yields_the_codes_of_generate(vocabulary):
    lm = speech_lm(vocabulary)
    tts = TEMPLATES["tts"]
    prompts = [tts.prompt(vocabulary, (9, 30), speaker="a", text=text) for text in ("cab", "a")]
    with ContinuousBatch(lm) as batch:
        stream = batch.stream(prompts, seed=3, chunk=4)
        chunks = []
        while True:
            try:
                chunks.append(next(stream).codes)
            except StopIteration as stop:
                generations = stop.value
                break
    expected = lm.generate(prompts, seed=3)
    assert [code for codes in chunks for code in codes] == torch.cat([one.codes for one in expected]).tolist()
    assert max(map(len, chunks)) == 4
    for found, alone in zip(generations, expected, strict=True):
        assert_equal(found, alone)


class Gate:
    """Lets a shared batch take only so many steps, so that a test knows what runs."""

    def __init__(self, lm, monkeypatch):
        self._steps = threading.Semaphore(0)
        original = RunningBatch.read

        def read(batch):
            is_shared = threading.current_thread() is not threading.main_thread()
            if batch.items and is_shared:
                self._steps.acquire()
            original(batch)

        monkeypatch.setattr(RunningBatch, "read", read)

    def open(self, steps=10**6):
        for _ in range(min(steps, 10_000)):
            self._steps.release()


def speech_prompt(vocabulary, length=40):
    return TEMPLATES["tts"].prompt(vocabulary, (length, length), speaker="a", text="cab")


def test_requests_wait_up_to_a_limit(vocabulary, monkeypatch):
    lm = speech_lm(vocabulary)
    gate = Gate(lm, monkeypatch)
    with ContinuousBatch(lm, max_rows=2, max_waiting=2) as batch:
        streams = [batch.submit([speech_prompt(vocabulary)], seed=i, chunk=1) for i in range(2)]
        for stream in streams:
            assert len(next(iter(stream)).codes) == 1  # both run
        waiting = [batch.submit([speech_prompt(vocabulary)], seed=i) for i in (2, 3)]
        assert (batch.num_running, batch.num_waiting) == (2, 2)
        with pytest.raises(BatchFullError, match="2 requests run and 2 wait"):
            batch.submit([speech_prompt(vocabulary)])
        gate.open()
        for i, request in enumerate([*streams, *waiting]):
            assert_equal(request.result()[0], lm.generate(speech_prompt(vocabulary), seed=i))


def test_a_cancelled_request_frees_its_row_at_the_next_step(vocabulary, monkeypatch):
    lm = speech_lm(vocabulary)
    gate = Gate(lm, monkeypatch)
    with ContinuousBatch(lm, max_rows=1, max_waiting=1) as batch:
        running = batch.stream([speech_prompt(vocabulary)], chunk=1)
        next(running)
        waiting = batch.submit([speech_prompt(vocabulary)], seed=5, chunk=1)
        running.close()
        gate.open(2)  # the present step, and the one at which the row is given up
        assert next(iter(waiting)).codes == lm.generate(speech_prompt(vocabulary), seed=5).codes[:1].tolist()
        dropped = batch.submit([speech_prompt(vocabulary)])
        dropped.cancel()
        with pytest.raises(CancelledError):
            dropped.result()
        gate.open()
        assert_equal(waiting.result()[0], lm.generate(speech_prompt(vocabulary), seed=5))
        (after_all,) = batch.generate([speech_prompt(vocabulary)], seed=6)
        assert_equal(after_all, lm.generate(speech_prompt(vocabulary), seed=6))


def test_an_error_ends_only_its_request(vocabulary):
    lm = speech_lm(vocabulary, "llama with features")
    se = TEMPLATES["se-features"]
    with ContinuousBatch(lm) as batch:
        good = [speech_prompt(vocabulary), se.prompt(vocabulary, (3, 3), noisy_features=torch.ones(3, FEATURE_SIZE))]
        wrong = se.prompt(vocabulary, (3, 3), noisy_features=torch.ones(3, FEATURE_SIZE + 1))
        infinite = se.prompt(vocabulary, (3, 3), noisy_features=torch.full((3, FEATURE_SIZE), torch.nan))
        requests = [batch.submit([prompt]) for prompt in (good[0], wrong, infinite, good[1])]
        with pytest.raises(ValueError, match="need features of shape"):
            requests[1].result()
        with pytest.raises(ValueError, match="logits that are not finite"):
            requests[2].result()
        for prompt, request in zip(good, (requests[0], requests[3]), strict=True):
            assert_equal(request.result()[0], lm.generate(prompt))


def test_what_no_model_can_answer_is_refused_at_once(vocabulary):
    prompt = speech_prompt(vocabulary)
    with ContinuousBatch(speech_lm(vocabulary), max_rows=1) as batch:
        too_long = Prompt([1] * 200, (Phase("codes", 1, 100, vocabulary.control("end")),))
        for arguments, message in [
            (([],), "at least one prompt"),
            (([too_long],), "256 positions: shorten the prompt"),
            (([prompt], Sampling(guidance=2)), "guidance needs two rows"),
            (([prompt], None, [1, 2]), "1 prompts need as many seeds"),
            (([prompt], None, 0, 0), "chunk must be"),
            (([TEMPLATES["asr"].prompt(vocabulary, (0, 5), codes=[1])], None, 0, 4), "only codes can be streamed"),
        ]:
            with pytest.raises(ValueError, match=message):
                batch.submit(*arguments)
    with pytest.raises(RuntimeError, match="the batch is closed"):
        batch.submit([prompt])
    with pytest.raises(ValueError, match="at least 1, found 0"):
        ContinuousBatch(speech_lm(vocabulary), max_rows=0)


def test_closing_ends_what_runs_and_what_waits(vocabulary, monkeypatch):
    lm = speech_lm(vocabulary)
    gate = Gate(lm, monkeypatch)
    batch = ContinuousBatch(lm, max_rows=1)
    running = batch.submit([speech_prompt(vocabulary)], chunk=1)
    next(iter(running))
    waiting = batch.submit([speech_prompt(vocabulary)])
    gate.open(1)
    closing = threading.Thread(target=batch.close)
    closing.start()
    gate.open()
    closing.join()
    for request in (running, waiting):
        with pytest.raises(CancelledError, match="the batch was closed"):
            request.result()


def test_after_a_failed_step_the_batch_goes_on(vocabulary, monkeypatch):
    lm = speech_lm(vocabulary)
    with ContinuousBatch(lm) as batch:
        with monkeypatch.context() as patch:

            def fail(*_):
                raise MemoryError("no memory left")

            patch.setattr(RunningBatch, "read", fail)
            with pytest.raises(MemoryError, match="no memory left"):
                batch.generate([speech_prompt(vocabulary)])
        assert_equal(batch.generate([speech_prompt(vocabulary)])[0], lm.generate(speech_prompt(vocabulary)))


def test_a_long_prompt_lets_others_wait_for_one_step_only(vocabulary, monkeypatch):
    """Between two steps the batch reads prompts of 512 ids at most, or a single one."""
    lm = speech_lm(vocabulary)
    sizes = []
    original = RunningBatch.join

    def join(batch, items):
        sizes.append([len(item.prompt.ids) for item in items])
        original(batch, items)

    monkeypatch.setattr(RunningBatch, "join", join)
    monkeypatch.setattr("focallm.lm.continuous_batching._PREFILL_IDS", 100)
    end = vocabulary.control("end")
    gate = Gate(lm, monkeypatch)
    with ContinuousBatch(lm) as batch:
        requests = [batch.submit([speech_prompt(vocabulary)], chunk=1)]
        next(iter(requests[0]))
        for length in (150, 40, 40, 40, 120):
            requests.append(batch.submit([Prompt([1] * length, (Phase("codes", 9, 9, end),))]))
        gate.open()
        for request in requests:
            request.result()
    assert sizes[1:] == [[150], [40, 40], [40], [120]]


def test_mini_speaks_alone_as_in_a_batch():
    lm = SpeechLM.from_pretrained("mini")
    template = lm.info.template("tts-aligned")
    texts = ["Good morning.", "Yes, of course!", "It rains."]
    prompts = [aligned_prompts(lm, template, text, speaker="af_heart") for text in texts]
    samplings = [Sampling(0, bitwise=True), Sampling(0.8), Sampling(1.0, guidance=1.5)]
    with ContinuousBatch(lm, max_rows=4) as batch:
        requests = []
        for seed, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
            requests.append(batch.submit(prompt, sampling, seed, chunk=5))
            next(iter(requests[-1]))  # the next request joins after some steps
        for seed, request in enumerate(requests):
            alone = lm.generate(prompts[seed], sampling=samplings[seed], seed=seed)
            assert_equal(request.result()[0], alone[0])
