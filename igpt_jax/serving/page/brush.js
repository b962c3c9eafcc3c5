// A picture to paint a mask on, with mouse, finger or keyboard.

import { byId, make } from "./dom.js";

const SIDE = 256; // of the canvas; the server cuts and scales

let picture = null;
let mask = null;
let old = [];
let at = [SIDE / 2, SIDE / 2];
let last = null;

const canvas = () => byId("canvas");
const size = () => Number(byId("brush-size").value) * SIDE / 200;
const pen = () => mask.getContext("2d", { willReadFrequently: true });

function show(hasRing = false) {
  const ink = canvas().getContext("2d");
  ink.drawImage(picture, 0, 0);
  ink.globalAlpha = 0.7; // of the whole mask: strokes that cross do not add up
  ink.drawImage(mask, 0, 0);
  ink.globalAlpha = 1;
  if (!hasRing) return;
  ink.lineWidth = 2;
  for (const [colour, more] of [["black", 1], ["white", -1]]) {
    ink.strokeStyle = colour;
    ink.beginPath();
    ink.arc(...at, size() + more, 0, 2 * Math.PI);
    ink.stroke();
  }
}

function remember() {
  const copy = make("canvas", { width: SIDE, height: SIDE });
  copy.getContext("2d").drawImage(mask, 0, 0);
  old = [...old.slice(-19), copy];
}

function paint(from, to) {
  const ink = pen();
  ink.strokeStyle = ink.fillStyle = "rgb(235 64 140)";
  ink.lineCap = "round";
  ink.lineWidth = 2 * size();
  ink.beginPath();
  ink.moveTo(...from);
  ink.lineTo(to[0] + 0.01, to[1]);
  ink.stroke();
}

function place(event) {
  const box = canvas().getBoundingClientRect();
  return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
}

function onKey(event) {
  const steps = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] };
  const step = steps[event.key];
  const slider = byId("brush-size");
  if (step) at = at.map((value, axis) => Math.min(SIDE, Math.max(0, value + step[axis])));
  else if (event.key === " ") { remember(); paint(at, at); }
  else if (event.key === "+") slider.value = Number(slider.value) + 2;
  else if (event.key === "-") slider.value = Number(slider.value) - 2;
  else return;
  event.preventDefault();
  show(true);
}

/** Takes a picture, cut to its middle square as the server cuts it. */
export async function open(blob) {
  const bitmap = await createImageBitmap(blob);
  const side = Math.min(bitmap.width, bitmap.height);
  picture = make("canvas", { width: SIDE, height: SIDE });
  picture.getContext("2d").drawImage(
    bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, SIDE, SIDE);
  mask = make("canvas", { width: SIDE, height: SIDE });
  old = [];
  canvas().width = canvas().height = SIDE;
  byId("brush").hidden = false;
  show();
}

/** The mask as a file, white where it is painted; null where nothing is. */
export function maskFile() {
  const pixels = pen().getImageData(0, 0, SIDE, SIDE);
  let isPainted = false;
  for (let i = 0; i < pixels.data.length; i += 4) {
    const value = pixels.data[i + 3] > 127 ? 255 : 0;
    isPainted ||= value === 255;
    pixels.data.fill(value, i, i + 3);
    pixels.data[i + 3] = 255;
  }
  if (!isPainted) return null;
  const made = make("canvas", { width: SIDE, height: SIDE });
  made.getContext("2d").putImageData(pixels, 0, 0);
  return new Promise((resolve) => { made.toBlob(resolve, "image/png"); });
}

/** Listens to mouse, finger and keys. */
export function start() {
  const area = canvas();
  area.addEventListener("pointerdown", (event) => {
    area.setPointerCapture(event.pointerId);
    remember();
    last = place(event);
    paint(last, last);
    show(event.pointerType === "mouse");
  });
  area.addEventListener("pointermove", (event) => {
    if (picture === null) return;
    at = place(event);
    if (last !== null) {
      paint(last, at);
      last = at;
    }
    show(event.pointerType === "mouse");
  });
  area.addEventListener("pointerleave", () => { if (picture) show(); });
  for (const kind of ["pointerup", "pointercancel"]) {
    area.addEventListener(kind, () => { last = null; });
  }
  area.addEventListener("keydown", onKey);
  area.addEventListener("focus", () => { if (picture) show(area.matches(":focus-visible")); });
  area.addEventListener("blur", () => { if (picture) show(); });
  byId("brush-undo").addEventListener("click", () => { mask = old.pop() ?? mask; show(); });
  byId("brush-clear").addEventListener("click", () => {
    remember();
    mask = make("canvas", { width: SIDE, height: SIDE });
    show();
  });
}
