"use strict";
/* Predict before reveal: the words of the questions stand in docs/touch/factor-analysis.md, the drawn answers here. */
(() => {
  const math = linearGaussian;
  const { STORY, START, NAMES, page, plane, place, draw, inkOf, enter } = factorAnalysis;
  const find = (selector) => page.querySelector(selector);
  const [ALL, NONE] = [[true, true, true], [false, false, false]];
  const at = (name, x, mask) => math.approximations[name](STORY, x, mask);
  const wider = (q, by) => ({ mean: q.mean, covariance: q.covariance.map((row) => row.map((value) => value * by)) });
  const [complete, holed] = [at("exact", START.x, ALL), at("exact", START.x, START.mask)];
  const FAR = [START.x[0], -3, START.x[2]];
  const far = at("exact", FAR, ALL);
  const upright = (q, a, b) => ({ mean: q.mean, covariance: [[a, 0], [0, b]] });
  const [[wide, tilt], [, high]] = holed.covariance;
  const across = (wide + high - Math.hypot(wide - high, 2 * tilt)) / 2; // the smaller eigenvalue
  const QUESTIONS = [
    { before: { x: START.x, mask: ALL }, after: START, shown: ["exact"], from: complete, answers: [complete, wider(complete, 2.5), holed] },
    { before: { x: START.x, mask: ALL }, after: { x: FAR, mask: ALL }, shown: ["exact"], from: complete, answers: [wider(far, 2.5), far, wider(complete, 2.5)] },
    { before: START, after: START, shown: ["exact", "mean field"], from: holed,
      answers: [upright(holed, wide, high), at("mean field", START.x, START.mask), upright(holed, across, across)] },
    { before: { x: START.x, mask: ALL }, after: { x: START.x, mask: NONE }, shown: ["exact", "mean imputation"], from: complete,
      answers: [math.PRIOR, at("mean imputation", START.x, NONE), complete] },
  ];
  const cards = [...page.querySelectorAll(".question")];
  const memory = { // a browser may refuse to remember
    get: () => { try { return Number(localStorage.getItem("ppvae-factor-analysis")) || 0; } catch { return 0; } },
    set: (count) => { try { localStorage.setItem("ppvae-factor-analysis", count); } catch { /* asked again next time */ } },
  };

  /** Ask question i and lock the picture until it is answered; past the last one, let play. */
  function ask(i) {
    const asking = i < cards.length;
    cards.forEach((card, k) => (card.hidden = k !== i));
    find(".asking").hidden = !asking;
    find(".again").hidden = asking;
    find(".work").inert = asking;
    find(".next").hidden = true;
    if (asking) {
      cards[i].classList.remove("answered");
      cards[i].querySelectorAll("button").forEach((button) => button.classList.remove("chosen"));
      enter(QUESTIONS[i].before, ["exact"]);
    } else enter(START, NAMES);
  }

  cards.forEach((card, i) => {
    const { after, shown, from, answers } = QUESTIONS[i];
    card.querySelectorAll("button").forEach((button, k) => {
      const axes = plane(button.insertBefore(document.createElementNS("http://www.w3.org/2000/svg", "svg"), button.firstChild));
      place(draw(axes, "circle", { r: 1, class: "before" }), from);
      place(draw(axes, "circle", { r: 1, class: `q ${inkOf(shown.at(-1))}` }), answers[k]);
      button.addEventListener("click", () => {
        const right = button.hasAttribute("data-right");
        card.querySelectorAll("button").forEach((other) => other.classList.toggle("chosen", other === button));
        card.classList.add("answered");
        card.querySelector(".verdict").textContent = right ? "Right. " : "Not so. ";
        enter(after, shown, right ? null : answers[k]);
        find(".work").inert = false;
        find(".next").hidden = false;
        find(".next").textContent = i + 1 < cards.length ? "Next question" : "Play";
        memory.set(i + 1);
        find(".next").onclick = () => ask(i + 1);
        find(".plane").scrollIntoView({ block: "nearest" });
      });
    });
  });

  find(".again").addEventListener("click", () => ask(0));
  find(".skip").addEventListener("click", () => {
    memory.set(cards.length);
    ask(cards.length);
  });
  ask(memory.get());
})();
