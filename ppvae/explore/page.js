"use strict";
// What is drawn here was computed by ppvae: asked of its server as one drags, or recorded beforehand (a page without a server).

const { about, recorded } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const HALF = 150, MIDDLE = 160;                      // of the plane's picture
const state = { row: 0, there: [], seen: [], latent: null, axes: [0, 1], z: [], codes: [], span: 3, inferred: null };

// --- questions ---------------------------------------------------------------------------------------

const waiting = {};                                  // of each question one is under way; of those behind it the last counts
async function ask(question, said, show) {
  if (waiting[question]) { waiting[question].next = [said, show]; return; }
  waiting[question] = {};
  const began = performance.now();
  try {
    const answer = recorded ? replay[question](said) : await posted(question, said);
    $("trouble").hidden = true;
    show(answer);
    document.body.dataset[question] = (performance.now() - began).toFixed(0);
  } catch (error) {
    trouble(error);
  }
  const { next } = waiting[question];
  delete waiting[question];
  if (next) await ask(question, ...next);
}

async function posted(question, said) {
  let reply;
  try {
    reply = await fetch(question, { method: "POST", body: JSON.stringify(said) });
  } catch {
    throw new Error("The server does not answer: it was stopped. Start ppvae explore again, then reload this page.");
  }
  const answer = await reply.json();
  if (!reply.ok) throw new Error(`${answer.seen}. Likely cause: ${answer.cause}. Try: ${answer.remedy}`);
  return answer;
}

function trouble(error) {
  $("trouble").textContent = error.message;
  $("trouble").hidden = false;
}

const replay = {
  row: ({ row }) => recorded.rows[row],
  codes: () => recorded.plane,
  infer: ({ row, seen }) => {
    const erased = new Set(recorded.blocks.filter((_, d) => !seen[d]));
    return recorded.rows[row].inferred[[...erased].reduce((choice, block) => choice + 2 ** block, 0)];
  },
  decode: ({ row, z }) => {
    const [first, second] = state.axes.map((axis) => nearest(axis === undefined ? 0 : z[axis]));
    const side = recorded.plane.grid.length;
    return { image: recorded.rows[row].decoded[(side - 1 - second) * side + first] };
  },
};

function nearest(at) {
  const { grid } = recorded.plane;
  return Math.round(Math.max(0, Math.min(1, (at - grid[0]) / (grid.at(-1) - grid[0]))) * (grid.length - 1));
}

// --- pictures of a row -------------------------------------------------------------------------------

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const [channels, height, width] = about.shape ?? [1, 1, about.features];
const LANE = Math.max(8, Math.min(40, Math.floor(480 / about.features)));

function draw(canvas, values, seen) {
  if (about.shape) image(canvas, values, seen); else lanes(canvas, values, seen);
}

function image(canvas, values, seen) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height), area = width * height;
  for (let at = 0; at < area; at++) {
    const [y, x] = [Math.floor(at / width), at % width];
    const hidden = seen && !seen[at];
    for (let c = 0; c < 3; c++) pixels.data[4 * at + c] = hidden ? [110, 70, 30][c] + ((x + y) % 2) * 24 : values[at + (channels === 3 ? c * area : 0)];
    pixels.data[4 * at + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function lanes(canvas, values, seen) {                // a bar a column, from its lowest to its highest value
  const names = about.columns && LANE >= 20 && !canvas.id.startsWith("draw"), tall = 120;
  canvas.classList.add("lanes");
  canvas.width = LANE * about.features;
  canvas.height = tall + (names ? 60 : 0);
  const pen = canvas.getContext("2d"), ink = getComputedStyle(document.body);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  for (let d = 0; d < about.features; d++) {
    const hidden = seen && !seen[d], bar = (values[d] / 255) * (tall - 4) + 2;
    pen.fillStyle = ink.getPropertyValue(hidden ? "--line" : "--accent");
    if (hidden) pen.fillRect(d * LANE + 1, 0, LANE - 2, tall); else pen.fillRect(d * LANE + 1, tall - bar, LANE - 2, bar);
    if (names) label(pen, about.columns[d], d * LANE + LANE / 2, tall + 4, ink.color);
  }
}

function label(pen, text, x, y, colour) {
  pen.save();
  pen.translate(x + 3, y);
  pen.rotate(Math.PI / 2);
  pen.fillStyle = colour;
  pen.font = "11px sans-serif";
  pen.fillText(text.slice(0, 9), 0, 0);
  pen.restore();
}

function panel(id, title, board) {
  const figure = document.createElement("figure");
  figure.innerHTML = `<canvas id="${id}" role="img"></canvas><figcaption></figcaption>`;
  figure.querySelector("canvas").setAttribute("aria-label", title);
  figure.querySelector("figcaption").textContent = title;
  $(board).append(figure);
}

// --- the plane ---------------------------------------------------------------------------------------

const NAMESPACE = "http://www.w3.org/2000/svg";
function shape(kind, attributes, parent) {
  const node = document.createElementNS(NAMESPACE, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  (parent ?? $("plane")).append(node);
  return node;
}
const right = (at) => MIDDLE + (HALF * at) / state.span, down = (at) => MIDDLE - (HALF * at) / state.span;
const on = (z) => state.axes.map((axis) => (axis === undefined ? 0 : z[axis]));

function plane() {
  $("plane").replaceChildren();
  const every = Math.max(1, Math.ceil(state.span / 4));
  for (let at = -every * Math.floor(state.span / every); at <= state.span; at += every) {
    shape("line", { x1: right(at), x2: right(at), y1: 10, y2: 310, class: "axis" });
    shape("line", { y1: down(at), y2: down(at), x1: 10, x2: 310, class: "axis" });
    shape("text", { x: right(at) + 2, y: 318 }).textContent = at;
    if (at) shape("text", { x: 1, y: down(at) - 2 }).textContent = at;
  }
  shape("text", { x: 319, y: 306, "text-anchor": "end" }).textContent = `${state.latent}[${state.axes[0]}] →`;
  if (state.axes[1] !== undefined) shape("text", { x: 14, y: 8 }).textContent = `${state.latent}[${state.axes[1]}] ↑`;
  state.codes.forEach((z, row) => {
    if (recorded && row >= recorded.rows.length && !about.label) return;
    const [x, y] = on(z), taken = row === state.row ? "code taken" : "code";
    const dot = about.label
      ? shape("text", { x: right(x), y: down(y) + 3, class: taken, "text-anchor": "middle" })
      : shape("circle", { cx: right(x), cy: down(y), r: row === state.row ? 5 : 3, class: taken });
    if (about.label) dot.textContent = about.label[row];
    dot.dataset.row = row;
  });
  shape("path", { id: "draws", class: "draw" });
  crosses();
  const [x, y] = on(state.z);
  shape("circle", { id: "ring", class: "ring", r: 9, cx: right(x), cy: down(y), tabindex: 0, role: "slider",
    "aria-label": "place in the latent plane; arrow keys move it", "aria-valuetext": "", "aria-valuenow": 0 });
  say();
}

function crosses() {                                  // draws of the posterior of the row below
  const at = (state.inferred?.z[state.latent] ?? []).map((z) => (recorded ? z : on(z)));
  $("draws").setAttribute("d", at.map(([x, y]) => `M${right(x) - 3} ${down(y)}h6M${right(x)} ${down(y) - 3}v6`).join(""));
}

function say() {
  const words = on(state.z).filter((at) => at !== undefined).slice(0, state.axes[1] === undefined ? 1 : 2).map((at) => at.toFixed(2));
  $("place").textContent = `(${words.join(", ")})`;
  $("ring").setAttribute("aria-valuetext", words.join(" and "));
}

function move(first, second) {
  const clipped = [first, second].map((at) => Math.max(-state.span, Math.min(state.span, at)));
  state.axes.forEach((axis, i) => { if (axis !== undefined) state.z[axis] = clipped[i]; });
  const [x, y] = on(state.z);
  $("ring").setAttribute("cx", right(x));
  $("ring").setAttribute("cy", down(y));
  say();
  decode();
}

function decode() {
  ask("decode", { row: state.row, latent: state.latent, z: state.z }, ({ image: found }) => draw($("decoded"), bytes(found)));
}

function pointed(event) {
  const box = $("plane").getBoundingClientRect(), scale = 320 / box.width;
  const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  move(((x - MIDDLE) / HALF) * state.span, ((MIDDLE - y) / HALF) * state.span);
}

async function takePlane() {
  await ask("codes", { latent: state.latent }, ({ codes, axes }) => {
    Object.assign(state, { codes, axes: [axes[0], axes[1]] });
    stretch();
    choices();
    home();
  });
}

function home() {                                     // the ring to the row's posterior mean
  if (state.latent === null) return;
  state.z = [...state.codes[state.row]];
  plane();
  decode();
}

function stretch() {                                  // as far as nearly all codes go
  const all = state.codes.flatMap(on).map(Math.abs).sort((a, b) => a - b);
  state.span = Math.max(3, Math.ceil(10 * all[Math.floor(0.99 * (all.length - 1))]) / 10);
}

function choices() {
  const size = about.latents[state.latent], names = Object.keys(about.latents);
  $("choices").hidden = recorded || (size <= 2 && names.length === 1);
  fill($("latent"), names, state.latent);
  fill($("across"), [...Array(size).keys()], state.axes[0]);
  fill($("up"), [...Array(size).keys()], state.axes[1]);
  $("held").textContent = size > 2 ? `the other ${size - 2} stand where the row's posterior mean is` : "";
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map((value) => new Option(value, value, false, value === chosen)));
}

// --- the row -----------------------------------------------------------------------------------------

function infer() {
  ask("infer", { row: state.row, seen: state.seen.map(Number) }, (answer) => {
    state.inferred = answer;
    const [mean, sd, drawn] = [answer.mean, answer.sd, answer.draws].map(bytes);
    draw($("mean"), mean);
    draw($("sd"), sd);
    for (let s = 0; s < 5; s++) draw($(`draw${s}`), drawn.subarray(s * about.features, (s + 1) * about.features));
    if (state.latent !== null) crosses();
    numbers(answer);
  });
}

function numbers({ evidence, ess }) {
  const seen = state.seen.filter(Boolean).length;
  const words = [`${seen} of ${about.features} entries are seen`];
  if (evidence !== null) words.push(`log p(xₒ) ${about.exact ? "=" : "≈"} ${evidence.toFixed(2)} nats`);
  if (ess !== null && !about.exact) words.push(`${ess.toFixed(0)} of ${about.particles} draws count`);
  if (about.exact) words.push("the guide is the posterior itself");
  $("numbers").textContent = words.join("; ") + ".";
}

async function takeRow(row) {
  const last = (recorded?.rows.length ?? about.rows) - 1;
  state.row = Math.max(0, Math.min(last, row || 0));
  $("row").value = state.row;
  await ask("row", { row: state.row }, ({ image: found, there }) => {
    state.x = bytes(found);
    state.there = there.map(Boolean);
    state.seen = [...state.there];
  });
  home();
  paint();
}

function paint() {
  draw($("shown"), state.x, state.seen);
  infer();
}

function hide(entries, erase) {
  const blocks = recorded && new Set(entries.map((d) => recorded.blocks[d]));
  const chosen = recorded ? recorded.blocks.flatMap((block, d) => (blocks.has(block) ? [d] : [])) : entries;
  for (const d of chosen) state.seen[d] = erase ? false : state.there[d];
  paint();
}

function under(event) {                               // the entries beneath the brush
  const box = $("shown").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (!about.shape) return [Math.max(0, Math.min(about.features - 1, Math.floor(x * about.features)))];
  const radius = recorded ? 0 : (Math.max(height, width) * ($("size").value - 1)) / 56, found = [];
  const [row, column] = [y * height - 0.5, x * width - 0.5];
  for (let i = Math.max(0, Math.round(row - radius)); i <= Math.min(height - 1, Math.round(row + radius)); i++)
    for (let j = Math.max(0, Math.round(column - radius)); j <= Math.min(width - 1, Math.round(column + radius)); j++)
      if (Math.hypot(i - row, j - column) <= radius + 0.71)
        for (let c = 0; c < channels; c++) found.push(c * height * width + i * width + j);
  return found;
}

const all = [...Array(about.features).keys()];
const atOnce = {
  all: () => all,
  none: () => [],
  half: () => all.filter((d) => (about.shape ? Math.floor(d / width) % height >= height / 2 : d >= about.features / 2)),
  random: () => {
    const chosen = Array.from({ length: recorded ? 6 : height * width }, () => Math.random() < 0.5);
    return all.filter((d) => chosen[recorded ? recorded.blocks[d] : d % (height * width)]);
  },
};

// --- hands -------------------------------------------------------------------------------------------

function held(target, begin, during) {
  target.addEventListener("pointerdown", (event) => {
    if (begin(event) === false) return;
    event.preventDefault();
    target.setPointerCapture(event.pointerId);
    target.addEventListener("pointermove", during);
    const end = () => target.removeEventListener("pointermove", during);
    target.addEventListener("pointerup", end, { once: true });
    target.addEventListener("pointercancel", end, { once: true });
  });
}

function wire() {
  held($("plane"), (event) => {
    const { row } = event.target.dataset;
    if (row !== undefined && !(recorded && row >= recorded.rows.length)) { takeRow(Number(row)); return false; }
    pointed(event);
    $("ring").focus();
  }, pointed);
  $("plane").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = on(state.z);
    move(x + 0.1 * step[0], y + 0.1 * step[1]);
  });
  const brush = (event) => hide(under(event), document.querySelector("[name=brush]:checked").value === "erase");
  held($("shown"), brush, brush);
  $("row").addEventListener("change", () => takeRow(Math.round(Number($("row").value))));
  for (const button of document.querySelectorAll("[data-erase]"))
    button.addEventListener("click", () => { state.seen = [...state.there]; hide(atOnce[button.dataset.erase](), true); });
  $("latent").addEventListener("change", () => { state.latent = $("latent").value; takePlane(); });
  for (const [i, id] of ["across", "up"].entries())
    $(id).addEventListener("change", () => { state.axes[i] = Number($(id).value); stretch(); home(); });
}

async function begin() {
  const hidden = about.shape ? "brown: erased" : "grey: erased";
  panel("shown", `the row (${hidden})`, "panels");
  panel("mean", "mean of x given what is left", "panels");
  panel("sd", `standard deviation; ${about.shape ? "white" : "full height"}: half of the range`, "panels");
  for (let s = 0; s < 5; s++) panel(`draw${s}`, `draw ${s + 1}`, "imputations");
  $("shown").classList.add("paint");
  $("panels").classList.toggle("tall", !about.shape);
  $("sizes").hidden = !about.shape || Boolean(recorded);
  $("row").max = (recorded?.rows.length ?? about.rows) - 1;
  if (about.label) $("classes").textContent = ", each the number of its class";
  if (!about.shape) $("how").textContent = "Click columns of the row to erase them: what is missing is inferred from what is left. A bar goes from a column's lowest to its highest value.";
  if (recorded) $("how").textContent = "Click the row to erase a sixth of it (the answers on this page were recorded; ppvae explore takes any entry).";
  [state.latent = null] = Object.keys(about.latents);
  if (recorded && !recorded.plane) state.latent = null;
  wire();
  $("plane-section").hidden = state.latent === null;
  if (state.latent !== null) await takePlane();
  await takeRow(0);
}

begin();
