"use strict";
/* The picture of docs/touch/factor-analysis.md: points to drag, coordinates to hide, rows to draw. What it shows is computed in
linear-gaussian.js; factor-analysis-questions.js asks before it is shown. */
const factorAnalysis = (() => {
  const math = linearGaussian;
  const NAMES = Object.keys(math.approximations);
  const STORY = { W: [[-0.7, 1.5], [1.4, 0.8], [0.9, 1.1]], loc: [1, 0, -1], scale: [0.6, 0.7, 0.9] };
  const START = { x: [1.8, 2, 1.3], mask: [false, true, true] };
  const page = document.getElementById("factor-analysis");
  const find = (selector) => page.querySelector(selector);
  const LABELS = ["x₁", "x₂", "x₃"];
  const marginal = (j) => Math.hypot(...STORY.W[j], STORY.scale[j]); // standard deviation of x_j under the story

  const state = {
    story: structuredClone(STORY), ...structuredClone(START), // x, mask
    z: null, // of the row that was drawn, until somebody moves it
    shown: new Set(NAMES),
    guess: null, // the answer that was chosen to a question
  };

  // ---- drawing -----------------------------------------------------------------------------------------------------

  function draw(parent, tag, attributes = {}, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    set(element, attributes);
    element.textContent = text;
    return parent.appendChild(element);
  }
  const set = (element, attributes) => Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  const inkOf = (name) => name.replace(" ", "-");

  /** A plane of latents, z1 to the right and z2 up, from -3.2 to 3.2; strokes keep their width. */
  function plane(svg) {
    set(svg, { viewBox: "-3.2 -3.2 6.4 6.4" });
    const axes = draw(svg, "g", { transform: "scale(1 -1)" });
    set(draw(axes, "path", { d: "M-3.2 0H3.2M0 -3.2V3.2" }), { class: "axis" });
    place(draw(axes, "circle", { r: 1, class: "prior" }), math.PRIOR);
    return axes;
  }

  /** Turn the unit circle into the ellipse that holds 90 % of q; the style sheet lets it move there. */
  function place(circle, q) {
    const L = math.cholesky(q.covariance).map((row) => row.map((value) => value * Math.sqrt(math.LEVEL)));
    circle.style.transform = `matrix(${[L[0][0], L[1][0], 0, L[1][1], ...q.mean].map((value) => value.toFixed(5))})`;
  }

  /** A point that follows a pointer, in units of its svg's view box, or the arrow keys, which give a direction. */
  function draggable(point, moveTo, moveBy) {
    const svg = point.ownerSVGElement;
    const follow = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      moveTo(at.x, at.y);
    };
    point.addEventListener("pointerdown", (event) => {
      point.setPointerCapture(event.pointerId);
      page.classList.add("dragging");
    });
    point.addEventListener("pointermove", (event) => point.hasPointerCapture(event.pointerId) && follow(event));
    point.addEventListener("lostpointercapture", () => page.classList.remove("dragging"));
    point.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      moveBy(...way.map((step) => step * (event.shiftKey ? 5 : 1)));
    });
  }
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // ---- the latent plane --------------------------------------------------------------------------------------------

  const latent = plane(find(".plane"));
  for (const t of [-3, -2, -1, 1, 2, 3]) {
    draw(latent, "path", { d: `M${t} -.06V.06M-.06 ${t}H.06`, class: "axis" });
    draw(find(".plane"), "text", { x: t, y: 0.3, class: "tick" }, String(t).replace("-", "−"));
  }
  draw(find(".plane"), "text", { x: 2.95, y: -0.14 }, "z₁");
  draw(find(".plane"), "text", { x: 0.22, y: -2.92 }, "z₂");
  const bands = LABELS.map((label) => ({
    area: draw(latent, "rect", { x: -20, y: -1, width: 40, height: 2, class: "band" }),
    name: draw(find(".plane"), "text", { class: "band-name" }, label),
  }));
  const ellipses = Object.fromEntries([...NAMES].reverse().map((name) => [name, draw(latent, "circle", { r: 1, class: `q ${inkOf(name)}` })]));
  const guess = draw(latent, "circle", { r: 1, class: "guess" });
  const truth = draw(latent, "path", { d: "M-.11 -.11L.11 .11M-.11 .11L.11 -.11", class: "truth" });
  const arrows = LABELS.map((label, j) => {
    const group = draw(latent, "g", { class: "loading" });
    const line = draw(group, "path");
    const name = draw(find(".plane"), "text", { class: "loading" }, label.replace("x", "w"));
    const tip = draw(group, "circle", { r: 0.13, tabindex: 0, role: "slider", "aria-label": `loading of ${label}` });
    set(tip, { "aria-valuemin": -3, "aria-valuemax": 3 });
    draggable(tip, (u, v) => turn(j, u, -v), (du, dv) => turn(j, state.story.W[j][0] + 0.05 * du, state.story.W[j][1] + 0.05 * dv));
    return { line, name, tip };
  });

  function turn(j, u, v) {
    if (Math.hypot(u, v) < 0.2) return; // without any loading there is no band to draw
    state.story.W[j] = [clamp(u, -3, 3), clamp(v, -3, 3)];
    state.z = null;
    render();
  }

  function drawPlane(answers) {
    for (const name of NAMES) {
      place(ellipses[name], answers[name]);
      ellipses[name].classList.toggle("off", !state.shown.has(name));
    }
    state.story.W.forEach((w, j) => drawBand(bands[j], w, j));
    arrows.forEach(({ line, name, tip }, j) => {
      const [u, v] = state.story.W[j];
      set(line, { d: `M0 0L${u} ${v}` });
      set(name, { x: u + 0.28 * Math.sign(u || 1), y: 0.08 - v });
      set(tip, { cx: u, cy: v, "aria-valuenow": u.toFixed(2), "aria-valuetext": `${u.toFixed(2)}, ${v.toFixed(2)}` });
    });
    truth.style.display = state.z ? "" : "none";
    if (state.z) truth.style.transform = `translate(${state.z[0]}px, ${state.z[1]}px)`;
    guess.style.display = state.guess ? "" : "none";
    if (state.guess) place(guess, state.guess);
  }

  /** Where x_j alone would put z: within 1.645 standard deviations of the noise of the line w_j z + loc_j = x_j. */
  function drawBand({ area, name }, w, j) {
    const size = Math.hypot(...w);
    const [c, s] = [w[0] / size, w[1] / size];
    const offset = (state.x[j] - state.story.loc[j]) / size;
    const [u, v] = [offset * c, offset * s];
    const half = (1.645 * state.story.scale[j]) / size;
    area.style.transform = `matrix(${[-s, c, half * c, half * s, u, v]})`;
    const ways = [-1, 1].map((way) => [way * -s, way * c]).map(([du, dv]) => {
      const reach = Math.min((2.5 - Math.sign(du) * u) / Math.abs(du || 1e-9), (2.5 - Math.sign(dv) * v) / Math.abs(dv || 1e-9));
      return [u + reach * du, v + reach * dv];
    });
    const [x, y] = ways[0][1] > ways[1][1] ? ways[0] : ways[1]; // the upper end
    const inside = Math.max(Math.abs(x), Math.abs(y)) < 3 && state.mask[j];
    set(name, { x, y: -y + 0.08 });
    name.classList.toggle("off", !inside);
    area.classList.toggle("off", !state.mask[j]);
  }

  // ---- the row: one axis a coordinate ------------------------------------------------------------------------------

  const [LEFT, RIGHT] = [16, 224]; // of an axis, in units of its view box; it shows three standard deviations either side
  const across = (value, j) => LEFT + ((value - STORY.loc[j]) / (3 * marginal(j)) + 1) / 2 * (RIGHT - LEFT);
  const strips = LABELS.map((label, j) => {
    const line = find(".row").insertBefore(document.createElement("div"), find(".hint"));
    line.className = "coordinate";
    const button = line.appendChild(document.createElement("button"));
    button.addEventListener("click", () => {
      state.mask[j] = !state.mask[j];
      render();
    });
    const svg = draw(line, "svg", { viewBox: "0 -12 240 80", role: "group", "aria-label": label });
    draw(svg, "path", { d: `M${LEFT} 20H${RIGHT}M${across(STORY.loc[j], j)} 15V25`, class: "axis" });
    const ends = [STORY.loc[j] - 3 * marginal(j), STORY.loc[j], STORY.loc[j] + 3 * marginal(j)];
    ends.forEach((value) => draw(svg, "text", { x: across(value, j), y: 40, class: "tick" }, value.toFixed(1).replace("-", "−")));
    const intervals = NAMES.map((name, k) => draw(svg, "path", { class: `interval ${inkOf(name)}`, "data-y": 33 + 8 * k }));
    const filled = draw(svg, "path", { d: `M${across(STORY.loc[j], j)} 13l7 7l-7 7l-7 -7z`, class: "filled" });
    const value = draw(svg, "text", { y: 3, class: "value" });
    const point = draw(svg, "circle", { cy: 20, r: 10, class: "point", tabindex: 0, role: "slider", "aria-label": label });
    set(point, { "aria-valuemin": ends[0].toFixed(2), "aria-valuemax": ends[2].toFixed(2) });
    draggable(
      point,
      (at) => move(j, STORY.loc[j] + ((2 * (at - LEFT)) / (RIGHT - LEFT) - 1) * 3 * marginal(j)),
      (right, up) => move(j, state.x[j] + 0.1 * (right + up)),
    );
    return { line, button, svg, intervals, filled, value, point };
  });

  function move(j, value) {
    state.x[j] = clamp(value, STORY.loc[j] - 3 * marginal(j), STORY.loc[j] + 3 * marginal(j));
    state.z = null;
    render();
  }

  function drawRow(answers) {
    strips.forEach(({ line, button, svg, intervals, filled, value, point }, j) => {
      const seen = state.mask[j];
      const number = state.x[j].toFixed(2).replace("-", "−");
      line.classList.toggle("hidden-entry", !seen);
      button.textContent = `${LABELS[j]} ${seen ? "seen" : "hidden"}`;
      button.setAttribute("aria-pressed", !seen);
      button.setAttribute("aria-label", `hide ${LABELS[j]}`);
      const at = clamp(across(state.x[j], j), LEFT, RIGHT);
      set(point, { cx: at, "aria-valuenow": state.x[j].toFixed(2), "aria-valuetext": `${number}, ${seen ? "seen" : "hidden"}` });
      set(value, { x: at });
      value.textContent = seen ? number : "";
      svg.querySelectorAll(".tick").forEach((tick) => tick.classList.toggle("off", !seen));
      filled.classList.toggle("off", seen || !state.shown.has("mean imputation"));
      intervals.forEach((interval, k) => {
        const { mean, sd } = math.predictive(state.story, j, answers[NAMES[k]]);
        const [from, to] = [mean - 1.645 * sd, mean + 1.645 * sd].map((end) => clamp(across(end, j), 2, 238));
        const y = interval.dataset.y;
        set(interval, { d: `M${from} ${y}H${to}M${across(mean, j)} ${y - 3}v6` });
        interval.classList.toggle("off", seen || !state.shown.has(NAMES[k]));
      });
    });
  }

  // ---- numbers, and coverage ---------------------------------------------------------------------------------------

  let counts = { key: "", rows: 0, held: {}, last: {}, expected: {} };
  const random = () => find(".pattern").value === "random";
  const share = (part, whole) => `${((100 * part) / whole).toFixed(1)} %`;
  const figures = Object.fromEntries(NAMES.map((name) => {
    const row = find(`tr[data-name="${name}"]`);
    row.querySelector("input").addEventListener("change", (event) => {
      state.shown[event.target.checked ? "add" : "delete"](name);
      render();
    });
    const svg = row.querySelector(".coverage svg");
    set(svg, { viewBox: "0 0 210 24" });
    draw(svg, "path", { d: "M5 12H205M5 9v6M105 9v6M205 9v6", class: "axis" });
    draw(svg, "path", { d: "M185 1V23", class: "level" });
    const expected = draw(svg, "path", { class: "expected" });
    const error = draw(svg, "path", { class: `error ${inkOf(name)}` });
    const dot = draw(svg, "circle", { cy: 12, r: 4.5, class: `share ${inkOf(name)}` });
    return [name, { row, svg, expected, error, dot }];
  }));

  /** Counts belong to a story and a way of hiding: of any other they start anew. */
  function currentCounts() {
    const key = JSON.stringify([state.story.W, random() || state.mask]);
    if (counts.key !== key) {
      const all = Array.from({ length: 8 }, (_, bits) => [1, 2, 4].map((bit) => Boolean(bits & bit)));
      const masks = random() ? all : [state.mask];
      const over = (name) => masks.reduce((sum, mask) => sum + math.coverage(state.story, mask, math.approximations[name]), 0);
      const of = (value) => Object.fromEntries(NAMES.map((name) => [name, value(name)]));
      counts = { key, rows: 0, held: of(() => 0), last: {}, expected: of((name) => over(name) / masks.length) };
    }
    return counts;
  }

  function drawRows(count) {
    for (let i = 0; i < count; i += 1) {
      Object.assign(state, math.draw(state.story, Math.random)); // z, x
      if (random()) state.mask = state.mask.map(() => Math.random() < 0.5);
      const tally = currentCounts();
      tally.rows += 1;
      for (const name of NAMES) {
        tally.last[name] = math.holds(math.approximations[name](state.story, state.x, state.mask), state.z);
        tally.held[name] += tally.last[name];
      }
    }
    state.guess = null;
    render();
  }

  function writeNumbers(answers) {
    const { story, x, mask } = state;
    const { rows, held, last, expected } = currentCounts();
    find(".evidence").textContent = math.logEvidence(story, x, mask).toFixed(3).replace("-", "−");
    find(".rows").textContent = rows;
    for (const name of NAMES) {
      const { row, svg, ...marks } = figures[name];
      const gap = math.kl(answers[name], answers.exact);
      row.querySelector("input").checked = state.shown.has(name);
      row.querySelector(".elbo").textContent = math.elbo(story, x, mask, answers[name]).toFixed(3).replace("-", "−");
      row.querySelector(".kl").textContent = Math.abs(gap).toFixed(3);
      row.querySelector(".kl").style.setProperty("--bar", `${Math.min(100, 40 * gap)}%`);
      const p = rows ? held[name] / rows : 0;
      const error = rows ? Math.sqrt((p * (1 - p)) / rows) : 0;
      svg.classList.toggle("off", !rows);
      set(marks.dot, { cx: 5 + 200 * p });
      set(marks.error, { d: `M${5 + 200 * Math.max(0, p - error)} 12H${5 + 200 * Math.min(1, p + error)}` });
      set(marks.expected, { d: `M${5 + 200 * expected[name]} 10l-4 -8h8z` });
      row.querySelector(".share-text").textContent = rows ? `${share(held[name], rows)} ± ${(100 * error).toFixed(1)}` : "–";
      row.querySelector(".last").textContent = name in last ? (last[name] ? "last: in" : "last: out") : "";
    }
  }

  let speaking = 0;
  /** Tell a screen reader once things stand still. */
  function announce() {
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      const elbos = NAMES.slice(1).map((name) => `${name} ${figures[name].row.querySelector(".elbo").textContent}`);
      find(".spoken").textContent = `log evidence ${find(".evidence").textContent} nats; ELBO: ${elbos.join(", ")}`;
    }, 900);
  }

  function render() {
    const answers = Object.fromEntries(NAMES.map((name) => [name, math.approximations[name](state.story, state.x, state.mask)]));
    drawPlane(answers);
    drawRow(answers);
    writeNumbers(answers);
    announce();
  }

  // ---- buttons --------------------------------------------------------------------------------------

  let running = 0;
  const stop = () => {
    running = clearInterval(running);
    find(".run").textContent = "Run";
  };
  find(".run").addEventListener("click", () => {
    if (running) return stop();
    running = setInterval(drawRows, 150, 1);
    find(".run").textContent = "Stop";
  });
  find(".one").addEventListener("click", () => drawRows(1));
  find(".hundred").addEventListener("click", () => drawRows(100));
  find(".pattern").addEventListener("change", render);
  find(".loadings").addEventListener("change", (event) => page.classList.toggle("with-loadings", event.target.checked));
  find(".reset").addEventListener("click", () => enter(START, NAMES));

  /** Show a row of the first story, and these answers to it. */
  function enter({ x, mask }, shown, chosen = null) {
    stop();
    Object.assign(state, { x: [...x], mask: [...mask], story: structuredClone(STORY), shown: new Set(shown), z: null, guess: chosen });
    render();
  }

  /** The numbers of the program on this page, which ppvae printed in the build, beside those computed here. */
  function agree() {
    const printed = document.getElementById("ppvae-numbers");
    if (!printed) return;
    const theirs = JSON.parse(printed.textContent);
    const startingAnswer = (name) => math.approximations[name](STORY, START.x, START.mask);
    const evidence = math.logEvidence(STORY, START.x, START.mask);
    const pairs = [["log p(x_o)", theirs.evidence, evidence], ...NAMES.map((name) => {
      return [`ELBO, ${name}`, theirs.elbo[name], math.elbo(STORY, START.x, START.mask, startingAnswer(name))];
    })];
    const body = document.querySelector("#agreement tbody");
    for (const [name, build, here] of pairs) {
      const row = body.insertRow();
      [name, build.toFixed(9), here.toFixed(9), Math.abs(build - here).toExponential(0)].forEach((text) => (row.insertCell().textContent = text));
    }
  }

  agree();
  enter(START, NAMES);
  return { STORY, START, NAMES, page, plane, place, draw, inkOf, enter };
})();
