// Plays speech while the server still generates it. `props.value` is {run, rate, chunks}: the list of chunks grows, and
// each is 16-bit samples in base64. gradio sends only what is new, and may show several chunks at once.

const status = () => element.querySelector(".player-status");
let context = null;
let clickTime = 0;
let run = null; // which click the chunks belong to
let numPlayed = 0;
let endTime = 0; // when the last chunk ends, in seconds of the context
let sources = [];
let message = "";

function say(text) {
  message = text;
  status().textContent = text;
}

function stop() {
  for (const source of sources) source.stop();
  sources = [];
  endTime = 0;
}

function play(chunk, rate) {
  const bytes = Uint8Array.from(atob(chunk), (character) => character.charCodeAt(0));
  const samples = Float32Array.from(new Int16Array(bytes.buffer), (sample) => sample / 32768);
  const buffer = context.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  // A chunk that comes too late leaves a gap; the others follow each other to the sample.
  endTime = Math.max(endTime, context.currentTime + 0.02);
  source.start(endTime);
  endTime += buffer.duration;
  sources.push(source);
}

// A browser lets a page play only after a click, so the context begins with one.
document.addEventListener("click", (event) => {
  if (event.target.closest("#speak-button")) {
    context = context || new AudioContext();
    context.resume();
    stop();
    clickTime = performance.now();
    say("waiting for the first sound");
  }
  if (event.target.closest("#stop-button")) {
    stop();
    say("stopped");
  }
});

watch("value", () => {
  status().textContent = message; // the template was drawn again
  const value = props.value;
  if (!value || !context) return;
  if (value.run !== run) {
    run = value.run;
    numPlayed = 0;
  }
  for (const chunk of value.chunks.slice(numPlayed)) play(chunk, value.rate);
  if (numPlayed === 0 && value.chunks.length > 0) {
    const delay = (performance.now() - clickTime) / 1000;
    say(`first sound ${delay.toFixed(2)} s after the click`);
  }
  numPlayed = value.chunks.length;
});
