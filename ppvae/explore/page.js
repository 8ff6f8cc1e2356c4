// The row that is erased, and the hands: what pointer, keys and buttons do.

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
