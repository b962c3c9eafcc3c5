// Elements made of data: texts become text nodes and never HTML.

import { t } from "./i18n.js";

export const byId = (id) => document.getElementById(id);

/** An element; `props` are properties, those that begin with "on" are listeners. */
export function make(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Gives an element a text that changes with the language. */
export function say(element, name) {
  element.dataset.t = name;
  element.textContent = t(name);
  return element;
}

let timer = 0;

/** Tells the reader something, and a screen reader, too. */
export function tell(text, isBad = false) {
  const status = byId("status");
  const top = document.querySelector("dialog[open]") ?? document.body;
  if (status.parentElement !== top) top.append(status); // what is behind a dialog is not read
  status.textContent = text;
  status.classList.toggle("bad", isBad);
  clearTimeout(timer);
  if (text) timer = setTimeout(() => { status.textContent = ""; }, isBad ? 15000 : 5000);
}

/** Small pictures show their pixels; large ones are smooth. */
export function setPicture(image, url) {
  image.addEventListener("load", () => {
    image.classList.toggle("pixels", image.naturalWidth <= 128);
    if (url.startsWith("blob:")) URL.revokeObjectURL(url);
  }, { once: true });
  image.src = url;
}

/** Files that are dropped on an element or chosen with its input. */
export function onPicture(area, input, take) {
  const first = (files) => { if (files.length) take(files[0]); };
  input.addEventListener("change", () => { first(input.files); input.value = ""; });
  for (const kind of ["dragenter", "dragover"]) {
    area.addEventListener(kind, (event) => { event.preventDefault(); area.classList.add("over"); });
  }
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("over");
    first(event.dataTransfer.files);
  });
}
