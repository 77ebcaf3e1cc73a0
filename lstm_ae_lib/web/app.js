// The page: choosing a picture, progress, before and after. worker.js computes.
const MOST_PIXELS = 24e6, LEAST_SIDE = 2;
const KINDS = ["image/png", "image/jpeg", "image/webp"];
const $ = (id) => document.getElementById(id);
const state = { worker: null, job: 0, picture: null, name: "picture", url: null, started: 0 };
// A function that adds two vectors: valid only where there is SIMD.
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);

function say(message) {
  $("message").textContent = message;
  $("message").hidden = !message;
}

function stop() {
  state.worker?.terminate();
  state.worker = null;
  $("working").hidden = true;
}

function worker() {
  if (!state.worker) {
    const made = new Worker("worker.js", { type: "module" });
    made.onmessage = ({ data }) => data.job === state.job && answered(data);
    made.onerror = (event) => {
      if (made !== state.worker) return;
      event.preventDefault();
      stop();
      $("status").textContent = "";
      say("The worker stopped, perhaps for want of memory. Try again, or a smaller picture.");
    };
    state.worker = made;
  }
  return state.worker;
}

function answered({ error, done, pixels, failed, progress, tiles }) {
  if (error) {
    stop();
    $("status").textContent = "";
    say(`This picture could not be restored: ${error}`);
  } else if (done) {
    $("working").hidden = true;
    show(pixels);
    const seconds = ((performance.now() - state.started) / 1000).toFixed(1);
    const kept = failed ? ` ${failed} of its tiles are unlike all that the network was trained on, and stay as they were.` : "";
    $("status").textContent = `${state.name}: ${state.picture.width} x ${state.picture.height} pixels, restored in ${seconds} s.${kept}`;
  } else {
    $("progress").value = progress;
    $("status").textContent = `Tile ${Math.round(progress * tiles)} of ${tiles}`;
  }
}

function show(pixels) {
  const { width, height, data } = state.picture;
  for (const [id, shown] of [["before", data], ["after", pixels]]) {
    Object.assign($(id), { width, height });
    $(id).getContext("2d").putImageData(new ImageData(shown, width, height), 0, 0);
  }
  // As wide as the window allows, at most 80 % of its height; small pictures are enlarged.
  $("compare").style.width = `min(100%, ${Math.max(width, 480)}px, ${(80 * width) / height}vh)`;
  $("after").toBlob((blob) => {
    URL.revokeObjectURL(state.url);
    state.url = URL.createObjectURL(blob);
    Object.assign($("download"), { href: state.url, download: `${state.name.replace(/\.[^.]*$/, "")}-restored.png` });
    $("result").hidden = false;
    slide();
  });
}

function slide() {
  $("after").style.clipPath = `inset(0 0 0 ${$("slider").value}%)`;
  $("line").style.left = `calc(${$("slider").value}% - 1px)`;
}

function run() {
  if (!state.picture) return;
  stop();  // what was asked for before is given up
  say("");
  $("result").hidden = true;
  $("working").hidden = false;
  $("progress").removeAttribute("value");
  $("status").textContent = "Loading the network";
  state.started = performance.now();
  state.job += 1;
  const pixels = new Uint8ClampedArray(state.picture.data), { width, height } = state.picture;
  worker().postMessage({ job: state.job, pixels, width, height, weights: state.weights[$("weights").selectedIndex] }, [pixels.buffer]);
}

async function sizeOf(file) {  // without decoding all of it
  const url = URL.createObjectURL(file), image = new Image();
  try {
    await new Promise((loaded, failed) => Object.assign(image, { onload: loaded, onerror: failed, src: url }));
    return [image.naturalWidth, image.naturalHeight];
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function take(file) {
  const asked = (state.job += 1);
  stop();
  $("result").hidden = true;
  $("status").textContent = "";
  state.picture = null;
  try {
    const refuse = (why) => { throw new RangeError(`${file.name || "This"} ${why}`); };
    if (file.type && !KINDS.includes(file.type)) refuse("is not a PNG, JPEG or WebP picture.");
    const [width, height] = await sizeOf(file).catch(() => refuse("cannot be read: it is damaged, or not a PNG, JPEG or WebP picture."));
    if (width * height > MOST_PIXELS) refuse(`is too large: ${width} x ${height} pixels, at most 24 megapixels are allowed.`);
    if (Math.min(width, height) < LEAST_SIDE) refuse(`is too small: ${width} x ${height} pixels, at least ${LEAST_SIDE} x ${LEAST_SIDE} are needed.`);
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
    const bitmap = await createImageBitmap(file, options).catch(() => refuse("is damaged: it cannot be decoded."));
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const picture = context.getImageData(0, 0, bitmap.width, bitmap.height);
    bitmap.close();
    if (asked !== state.job) return;  // another one was dropped meanwhile
    Object.assign(state, { picture, name: file.name || "sample.png" });
    run();
  } catch (error) {
    if (asked === state.job) say(error instanceof RangeError ? error.message : `This picture could not be opened: ${error.message}`);
  }
}

function listen() {
  const drop = $("drop");
  for (const name of ["dragenter", "dragover"]) {
    addEventListener(name, (event) => (event.preventDefault(), drop.classList.add("over")));
  }
  for (const name of ["dragleave", "drop"]) addEventListener(name, () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
  $("file").onchange = () => $("file").files.length && take($("file").files[0]);
  $("sample").onclick = async () => {
    const answer = await fetch("sample.png");
    take(new File([await answer.blob()], "sample.png", { type: "image/png" }));
  };
  $("weights").onchange = () => (describe(), run());
  $("slider").oninput = slide;
  $("cancel").onclick = () => {
    state.job += 1;
    stop();
    $("status").textContent = "Cancelled.";
  };
}

function describe() {
  $("task").textContent = `For ${state.weights[$("weights").selectedIndex].task}.`;
}

try {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
    throw new Error("This page needs a browser with WebAssembly SIMD: Chrome 91, Firefox 89, Safari 16.4, or newer.");
  }
  state.weights = (await (await fetch("weights.json")).json()).weights;
  for (const { name } of state.weights) $("weights").append(new Option(name, name));
  describe();
  listen();
  document.body.dataset.ready = "yes";
} catch (error) {
  say(error.message);
}
