"use strict";
// What is drawn here was computed by ppvae: asked of its server as one drags, or recorded beforehand (a page without a server).

const { about, recorded } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const HALF = 150, MIDDLE = 160;                      // of the plane's picture
const state = { row: 0, there: [], seen: [], latent: null, axes: [0, 1], z: [], codes: [], span: 3, inferred: null };

const waiting = {};                                  // of each question one is under way; of those behind it the last counts
async function ask(question, said, show) {
  if (waiting[question]) { waiting[question].next = [said, show]; return; }
  waiting[question] = {};
  try {
    const answer = recorded ? replay[question](said) : await posted(question, said);
    $("trouble").hidden = true;
    show(answer);
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
