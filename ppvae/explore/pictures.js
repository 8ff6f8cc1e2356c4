// Pictures of a row: an image, or a bar for each column of a table.

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
