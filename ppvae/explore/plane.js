// The latent plane: codes of rows, draws of a posterior, and a ring to drag.

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
  const words = on(state.z).filter((at) => at !== undefined).slice(0, state.axes[1] === undefined ? 1 : 2).map((at) => at.toFixed(2).replace("-0.00", "0.00"));
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
