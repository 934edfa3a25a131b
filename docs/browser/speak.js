// Speak with a folder that `focallm export onnx` wrote: the program speak.py, for browsers.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

// More threads need a page that is isolated from other origins.
ort.env.wasm.numThreads = 1;

const PAUSES = { ",": ",", ";": ",", ":": ",", ".": ".", "!": ".", "?": "?" };
const ABBREVIATION = /(?<![\p{L}\p{N}_])(?:\p{L}\.\p{L}(?![\p{L}\p{N}_])|(?:dr|mr|mrs|ms|prof|st|jr|sr|vs|etc)\.)/u;

export class Speaker {
  /** Load the folder at a URL that ends with a slash. */
  static async load(url) {
    const speaker = new Speaker();
    const info = await (await fetch(url + "model.json")).json();
    if (!info.speech) throw new Error("This folder holds no voice: export a model of aligned speech, such as mini.");
    Object.assign(speaker, { lm: info.lm, speech: info.speech, codec: info.codec });
    speaker.lexicon = await (await fetch(url + "lexicon.json")).json();
    const weights = new Uint8Array(await (await fetch(url + "lm.data")).arrayBuffer());
    const options = { externalData: [{ path: "lm.data", data: weights }] };
    speaker.prefill = await ort.InferenceSession.create(url + "prefill.onnx", options);
    speaker.decodeStep = await ort.InferenceSession.create(url + "decode_step.onnx", options);
    speaker.decoder = await ort.InferenceSession.create(url + "decoder.onnx");
    return speaker;
  }

  get voices() {
    return Object.keys(this.speech.voices);
  }

  /** Return samples, a Float32Array at codec.output_sampling_rate. */
  async speak(text, voice = this.voices[0]) {
    return this.decode(await this.codes(text, voice));
  }

  /** Return the codes of a text. */
  async codes(text, voice = this.voices[0]) {
    const codes = [];
    for (const units of this.pieces(this.units(text))) codes.push(...(await this.generate(units, voice)));
    return codes;
  }

  /** Turn codes into samples. */
  async decode(codes) {
    const inputs = { codes: int64(codes) };
    const arrays = { bool: Uint8Array, int64: BigInt64Array, float32: Float32Array };
    for (const { name, dtype, shape } of this.codec.decoder.state) {
      const size = shape.reduce((a, b) => a * b, 1);
      inputs[name] = new ort.Tensor(dtype, new arrays[dtype](size), shape);
    }
    return (await this.decoder.run(inputs)).samples.data;
  }

  /** Split a text into phonemes and pauses. */
  units(text) {
    const words = text.toLowerCase().replaceAll("’", "'");
    const abbreviation = words.match(ABBREVIATION);
    if (abbreviation) throw new Error(`Found the abbreviation “${abbreviation[0]}”: write it in words.`);
    const units = ["▁"];
    for (const part of words.match(/\p{L}+(?:'\p{L}+)*|[,;:.!?]|\S/gu) ?? []) {
      if (!(part in PAUSES)) units.push(...`▁${this.pronounce(part)}`.match(/▁?ˈ?[^▁ˈ]/gu) ?? []);
      else if (units.length > 1 && !(units.at(-1) in PAUSES)) units.push(PAUSES[part]);
    }
    if (units.length === 1) throw new Error("There is no word to speak: type at least one.");
    return units.at(-1) in PAUSES ? units : [...units, "."];
  }

  /** Look up a word. Punctuation is silent, and numbers are for the caller to write in words. */
  pronounce(word) {
    if (Object.hasOwn(this.lexicon, word)) return this.lexicon[word];
    if (/\p{N}/u.test(word)) throw new Error(`Found the digit ${word}: write numbers in words.`);
    if (/\p{L}/u.test(word)) throw new Error(`The lexicon lacks “${word}”: write it in words that it has.`);
    if (/[\p{S}&@#%*/\\]/u.test(word)) throw new Error(`Found the sign ${word}: write it in words.`);
    return "";
  }

  /** Split a long text after a pause or, where there is none, before a word. */
  *pieces(units) {
    const size = this.speech.max_units;
    while (units.length > size) {
      let end = units.slice(0, size).findLastIndex((unit, i) => i > 0 && unit in PAUSES) + 1;
      if (end === 0) end = units.slice(0, size + 1).findLastIndex((unit, i) => i > 1 && unit.startsWith("▁"));
      if (end < 1) end = size;
      yield units.slice(0, end);
      units = ["▁", ...units.slice(end)];
    }
    yield units;
  }

  /** Write the codes of a piece. The model reads each unit one span before the codes of that unit. */
  async generate(units, voice) {
    const spelled = units.map((unit) => this.speech.units[unit]);
    const [minFrames, maxFrames] = this.speech.frames_of_unit;
    const prompt = [...this.speech.voices[voice], ...spelled[0], ...spelled[1]];
    const openings = [...spelled.slice(2), [this.speech.next], []];
    const capacity = prompt.length + units.length * (maxFrames + Math.max(...spelled.map((ids) => ids.length)));
    this.stride = this.lm.cache_shape.reduce((a, b) => a * b);
    this.cache = new Float32Array(capacity * this.stride);
    this.length = 0;
    let logits = await this.read(prompt);
    const first = this.speech.first_code;
    const codes = [];
    for (const [i, opening] of openings.entries()) {
      const closing = i < units.length - 1 ? this.speech.next : this.speech.end;
      let survival = 1; // the probability that the unit is still open; its median length is where that is 0.5
      for (let frame = 0; frame < maxFrames; frame++) {
        const weights = exponentials(logits, first, first + this.codec.codebook_size);
        const total = weights.reduce((a, b) => a + b);
        if (frame >= minFrames) survival *= total / (total + Math.exp(logits[closing] - weights.peak));
        if (survival < 0.5) break;
        codes.push(likeliestBits(weights, total));
        logits = await this.read([first + codes.at(-1)]);
      }
      for (const id of opening) logits = await this.read([id]);
    }
    return codes;
  }

  /** Let the model read ids, and return the logits of what follows. */
  async read(ids) {
    const graph = ids.length === 1 ? this.decodeStep : this.prefill;
    const past = this.cache.subarray(0, this.length * this.stride);
    const cache = new ort.Tensor("float32", past, [this.length, ...this.lm.cache_shape]);
    const output = await graph.run({ ids: int64(ids), cache });
    this.cache.set(output.new_cache.data, this.length * this.stride);
    this.length += ids.length;
    return output.logits.data;
  }
}

/** Each bit takes the value that holds more of the probability. */
function likeliestBits(weights, total) {
  let code = 0;
  for (let bit = 1; bit < weights.length; bit *= 2) {
    let ones = 0;
    for (let i = 0; i < weights.length; i++) if (i & bit) ones += weights[i];
    if (ones > total / 2) code += bit;
  }
  return code;
}

/** Exponentials of a range of logits, in proportion to probabilities. */
function exponentials(logits, start, stop) {
  const range = Float64Array.from(logits.subarray(start, stop));
  const peak = range.reduce((a, b) => Math.max(a, b));
  const weights = range.map((logit) => Math.exp(logit - peak));
  weights.peak = peak;
  return weights;
}

function int64(numbers) {
  return new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [numbers.length]);
}

/** Return a WAV file of 16 bits. */
export function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (offset, string) => [...string].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, x)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}
