// Restores one picture after another: tiles as lstm_ae_lib.restoring cuts and blends them, the network on ONNX Runtime Web.
import * as ort from "./ort/ort.js";

const here = (name) => new URL(name, import.meta.url).href;
ort.env.wasm.wasmPaths = { mjs: here("./ort/ort-wasm.js"), wasm: here("./ort/ort-wasm.wasm") };
// Threads need a server that isolates the page (COOP and COEP headers); one thread works from any.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
const sessions = new Map();

async function open(weights) {
  if (!sessions.has(weights.file)) {
    const answer = await fetch(weights.file);
    if (!answer.ok) throw new Error(`${weights.file} cannot be loaded: ${answer.status}`);
    const content = await answer.arrayBuffer();
    if (self.crypto?.subtle) {  // there is none on a page that is neither https nor local
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
      const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      if (found !== weights.sha256) throw new Error(`${weights.file} is damaged: its SHA-256 is not the one this page was made with`);
    }
    sessions.set(weights.file, await ort.InferenceSession.create(content, { executionProviders: ["wasm"] }));
  }
  return sessions.get(weights.file);
}

function evenly(value) {  // rounds halves to even, as Python does
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

// Along one axis: where tiles begin, how long they are, and each one's weights, which add up to 1 with the others'.
export function tilesAlong(size, { tile, overlap, stride }) {
  const count = Math.max(1, Math.ceil((size - overlap) / (tile - overlap)));
  const length = Math.min(size, tile, Math.ceil((size + (count - 1) * overlap) / (count * stride)) * stride);
  const starts = Array.from({ length: count }, (_, place) => evenly((place * (size - length)) / Math.max(1, count - 1)));
  const rising = (place) => Math.min(1, Math.max(0, (3 * (place + 0.5)) / overlap - 1));
  const total = new Float64Array(size);
  const parts = starts.map((start) => {
    const weights = Float64Array.from({ length }, (_, place) =>
      (start ? rising(place) : 1) * (start + length < size ? rising(length - 1 - place) : 1));
    weights.forEach((weight, place) => (total[start + place] += weight));
    return { start, length, weights };
  });
  parts.forEach((part) => part.weights.forEach((weight, place) => (part.weights[place] = weight / total[part.start + place])));
  return parts;
}

function padded(size, { stride, smallest, overlap }) {
  const fits = size % stride === 0 && size >= smallest;
  return fits ? size : Math.ceil((size + Math.floor(overlap / 3)) / stride) * stride;
}

function mirrored(place, size) {  // the outermost pixel once
  const period = 2 * (size - 1), within = place % period;
  return within < size ? within : period - within;
}

async function restore({ pixels, width, height, weights }, report) {
  const session = await open(weights), rule = weights.rule;
  const columns = tilesAlong(width, rule), rows = tilesAlong(height, rule);
  const sums = new Float32Array(3 * width * height);
  let done = 0, failed = 0;
  report({ progress: 0, tiles: rows.length * columns.length });
  for (const row of rows) {
    for (const column of columns) {
      const high = padded(row.length, rule), wide = padded(column.length, rule);
      const seen = new Float32Array(3 * high * wide);
      for (let down = 0; down < high; down++) {
        const line = (row.start + mirrored(down, row.length)) * width + column.start;
        for (let across = 0; across < wide; across++) {
          const from = 4 * (line + mirrored(across, column.length)), to = 3 * (down * wide + across);
          for (let colour = 0; colour < 3; colour++) seen[to + colour] = pixels[from + colour] / 255;
        }
      }
      const outputs = await session.run({ degraded: new ort.Tensor("float32", seen, [1, high, wide, 3]) });
      const made = outputs.restored.data;
      let most = 0;
      for (let down = 0; down < row.length; down++) {
        for (let place = 3 * down * wide; place < 3 * (down * wide + column.length); place++) {
          const change = Math.abs(made[place] - seen[place]);
          if (!(change <= most)) most = change;  // NaN too
        }
      }
      const wild = !(most <= rule.most), values = wild ? seen : made;
      failed += wild;
      for (let down = 0; down < row.length; down++) {
        for (let across = 0; across < column.length; across++) {
          const weight = row.weights[down] * column.weights[across], from = 3 * (down * wide + across);
          const to = 3 * ((row.start + down) * width + column.start + across);
          for (let colour = 0; colour < 3; colour++) sums[to + colour] += weight * Math.min(1, Math.max(0, values[from + colour]));
        }
      }
      done += 1;
      report({ progress: done / (rows.length * columns.length), tiles: rows.length * columns.length });
    }
  }
  for (let place = 0; place < width * height; place++) {
    for (let colour = 0; colour < 3; colour++) pixels[4 * place + colour] = evenly(255 * Math.min(1, sums[3 * place + colour]));
  }
  return { pixels, failed };
}

self.onmessage = async ({ data }) => {
  try {
    const { pixels, failed } = await restore(data, (more) => self.postMessage({ job: data.job, ...more }));
    self.postMessage({ job: data.job, done: true, pixels, failed }, [pixels.buffer]);
  } catch (error) {
    self.postMessage({ job: data.job, error: String(error.message || error) });
  }
};
