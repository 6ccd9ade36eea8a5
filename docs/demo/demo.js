// f(x + t u) beside f(x) + t J u, by models that compute f(x) and J(x) u in one call.
//
// onnxruntime-web comes from a CDN; index.html?ort=PATH/ takes it from elsewhere, a folder that has the
// files of the package's dist/ folder.

import { DIGITS } from "./digits.js";

const CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/";
const SIDE = 8;
const PIXELS = SIDE * SIDE;
const [LOW, HIGH, POINTS] = [-0.5, 1.5, 81];
const find = (selector) => document.querySelector(selector);

const base = new URL(new URLSearchParams(location.search).get("ort") ?? CDN, location.href).href;
let ort, classifier, autoencoder;

// -- models ------------------------------------------------------------------------------------

/** f and J u at n points along one direction: {f: [n, m], jvp: [n, m]} as flat arrays. */
async function push(session, points, u) {
  const n = points.length / PIXELS;
  const directions = new Float32Array(points.length);
  for (let i = 0; i < n; i++) directions.set(u, i * PIXELS);
  const tensor = (data) => new ort.Tensor("float32", data, [n, 1, SIDE, SIDE]);
  const results = await session.run({ image: tensor(points), image_u: tensor(directions) });
  const jvp = session.outputNames.find((name) => name.endsWith("_jvp"));
  return { f: results[jvp.slice(0, -"_jvp".length)].data, jvp: results[jvp].data };
}

const moved = (x, u, t) => x.map((value, i) => value + t * u[i]);

// -- directions --------------------------------------------------------------------------------

/** x one pixel to the right. */
const shifted = (x) => x.map((_, i) => (i % SIDE ? x[i - 1] : 0));

/** The same numbers every time, roughly normal, of standard deviation 0.4. */
function noise() {
  let state = 1;
  const uniform = () => (state = (state * 48271) % 2147483647) / 2147483647;
  return Float32Array.from({ length: PIXELS }, () => 0.8 * (uniform() + uniform() + uniform() - 1.5));
}

const DIRECTIONS = [
  ...DIGITS.map((digit, i) => [String(i), (x) => digit.map((value, k) => value - x[k])]),
  ["brighter", (x) => x.map((value) => 0.5 * value)],
  ["shifted", (x) => shifted(x).map((value, i) => value - x[i])],
  ["noise", noise],
];

// -- drawing -----------------------------------------------------------------------------------

/** Pixels as shades of grey: 0 white, 1 black. */
function grey(selector, values) {
  paint(selector, values, (value) => Array(3).fill(255 * (1 - Math.min(Math.max(value, 0), 1))));
}

/** Signed pixels: blue below 0, orange above, white at 0. */
function signed(selector, values, scale) {
  const hue = (v) => (v < 0 ? [47, 111, 179] : [217, 72, 15]);
  paint(selector, values, (value) => {
    const share = Math.min(Math.abs(value) / scale, 1);
    return hue(value).map((channel) => 255 + share * (channel - 255));
  });
}

function paint(selector, values, colour) {
  const canvas = find(selector);
  canvas.width = canvas.height = SIDE;
  const pixels = new ImageData(SIDE, SIDE);
  values.forEach((value, i) => pixels.data.set([...colour(value), 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

const minus = (text) => text.replace("-", "−");

function drawBars(truth, linear, jvp, [low, high]) {
  const at = (value) => (100 * (Math.min(Math.max(value, low), high) - low)) / (high - low);
  const top = truth.indexOf(Math.max(...truth));
  find("#bars").replaceChildren(
    ...Array.from(truth, (value, k) => {
      const row = document.createElement("tr");
      row.className = k === top ? "top" : "";
      row.innerHTML = `<td>${k}</td><td class="bar"><div class="track" style="--zero:${at(0)}%">
        <i style="left:${at(Math.min(value, 0))}%;width:${Math.abs(at(value) - at(0))}%"></i>
        <b style="left:${at(linear[k])}%"></b></div></td>
        <td class="truth">${minus(value.toFixed(3))}</td><td class="linear">${minus(linear[k].toFixed(3))}</td>
        <td class="jvp">${minus(jvp[k].toFixed(3))}</td>`;
      return row;
    }),
  );
}

/** Curves of some logits over t, each with its tangent at t = 0. */
function drawPlot(curves, here, classes, [low, high], t) {
  const [left, right, top, bottom] = [30, 500, 8, 194];
  const x = (time) => left + ((right - left) * (time - LOW)) / (HIGH - LOW);
  const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
  const line = (points) => `M${points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L")}`;
  const tens = Array.from({ length: 20 }, (_, i) => 10 * (i - 10)).filter((v) => low <= v && v <= high);
  const marks = tens.map(
    (value) => `<line class="axis" x1="${left}" x2="${right}" y1="${y(value)}" y2="${y(value)}"/>
      <text x="${left - 6}" y="${y(value) + 4}" text-anchor="end">${minus(value.toFixed(0))}</text>`,
  );
  const times = [-0.5, 0, 0.5, 1].map(
    (time) => `<text x="${x(time)}" y="212" text-anchor="middle">${minus(String(time))}</text>`,
  );
  const drawn = classes.map((k, i) => {
    const points = Array.from({ length: POINTS }, (_, p) => [timeOf(p), curves[10 * p + k]]);
    const tangent = [LOW, HIGH].map((time) => [time, here.f[k] + time * here.jvp[k]]);
    const stroke = `style="stroke:var(--c${i})" clip-path="url(#inside)"`;
    return `<path class="tangent" d="${line(tangent)}" ${stroke}/><path d="${line(points)}" ${stroke}/>
      <text x="${right + 4}" y="${y(points.at(-1)[1]) + 4}" style="fill:var(--c${i});font-weight:600">${k}</text>`;
  });
  find("#plot").innerHTML = `<clipPath id="inside"><rect x="${left}" y="0" width="${right - left}" height="200"/></clipPath>
    ${marks.join("")}${times.join("")}<text x="${right}" y="212" text-anchor="end">t</text>${drawn.join("")}
    <line class="now" x1="${x(t)}" x2="${x(t)}" y1="0" y2="200"/>`;
}

const timeOf = (point) => LOW + ((HIGH - LOW) * point) / (POINTS - 1);

// -- state -------------------------------------------------------------------------------------

const state = { start: 3, towards: 8 };
let at; // what belongs to x and u: {x, u, here, image, curves, classes, range}

/** f, J u and the curves for a new x or u. */
async function choose() {
  const x = DIGITS[state.start];
  const u = DIRECTIONS[state.towards][1](x);
  await push(classifier, x, u); // the first call is not what the others are
  const began = performance.now();
  const here = await push(classifier, x, u);
  const took = performance.now() - began;
  const image = await push(autoencoder, x, u);
  const along = new Float32Array(POINTS * PIXELS);
  for (let p = 0; p < POINTS; p++) along.set(moved(x, u, timeOf(p)), p * PIXELS);
  const curves = (await push(classifier, along, u)).f;
  const change = (k) => Math.max(...Array.from({ length: POINTS }, (_, p) => Math.abs(curves[10 * p + k] - here.f[k])));
  const classes = [...here.f.keys()].sort((a, b) => change(b) - change(a)).slice(0, 4);
  const range = [Math.floor(Math.min(...curves, 0)), Math.ceil(Math.max(...curves))];
  at = { x, u, here, image, curves, classes, range };
  for (const [group, chosen] of Object.entries(state)) {
    const buttons = [...find(`#${group}`).children];
    buttons.forEach((button, i) => button.setAttribute("aria-checked", String(i === chosen)));
  }
  find("#about").textContent =
    `onnxruntime-web ${ort.env.versions.web}, WASM. f(x) and J u of the classifier together: ${took.toFixed(1)} ms.`;
}

/** Everything that depends on t. */
async function move() {
  const t = Number(find("#t").value);
  const point = moved(at.x, at.u, t);
  const truth = await push(classifier, point, at.u);
  const image = await push(autoencoder, point, at.u);
  const ahead = ({ f, jvp }) => f.map((value, i) => value + t * jvp[i]);
  find("#t-shown").textContent = minus(t.toFixed(2));
  grey("#image-x", at.x);
  signed("#image-u", at.u, 1);
  grey("#image-moved", point);
  drawBars(truth.f, ahead(at.here), at.here.jvp, at.range);
  drawPlot(at.curves, at.here, at.classes, at.range, t);
  const linear = ahead(at.image);
  const apart = image.f.map((value, i) => value - linear[i]);
  const size = Math.hypot(...image.f.map((value, i) => value - at.image.f[i]));
  grey("#image-truth", image.f);
  grey("#image-linear", linear);
  signed("#image-apart", apart, 1);
  signed("#image-jvp", at.image.jvp, 1);
  find("#apart").textContent = size ? `${((100 * Math.hypot(...apart)) / size).toFixed(1)} %` : "0.0 %";
}

let queue = Promise.resolve();
let newest = 0;
let stale = true; // whether x or u changed since `choose`

/** Bring the page up to date, after what runs now; of several calls that wait the last one draws. */
function update() {
  const mine = ++newest;
  document.body.dataset.state = "busy";
  queue = queue.then(async () => {
    if (mine !== newest) return;
    if (stale) {
      stale = false;
      await choose();
    }
    await move();
    if (mine === newest) document.body.dataset.state = "ready";
  }).catch(report);
}

function report(error) {
  document.body.dataset.state = "failed";
  find("#status").className = "failed";
  find("#status").textContent = `This page could not run its models: ${error?.message ?? error}
onnxruntime-web is taken from ${base}; a copy of its dist/ folder serves as well: index.html?ort=PATH/`;
}

function buttons(group, labels) {
  find(`#${group}`).replaceChildren(
    ...labels.map((label, i) => {
      const button = document.createElement("button");
      button.textContent = label;
      button.setAttribute("role", "radio");
      button.addEventListener("click", () => {
        state[group] = i;
        stale = true;
        update();
      });
      return button;
    }),
  );
}

async function main() {
  ort = await import(`${base}ort.wasm.min.mjs`);
  ort.env.wasm.wasmPaths = base;
  ort.env.wasm.numThreads = 1; // more need headers that plain servers don't send
  const options = { executionProviders: ["wasm"] };
  classifier = await ort.InferenceSession.create("digits_cnn_jvp.onnx", options);
  autoencoder = await ort.InferenceSession.create("digits_autoencoder_jvp.onnx", options);
  buttons("start", DIGITS.map((_, i) => String(i)));
  buttons("towards", DIRECTIONS.map(([label]) => label));
  find("#t").addEventListener("input", update);
  find("#status").textContent = "";
  update();
}

main().catch(report);
