// What was made, found by words, page by page.

import * as api from "./api.js";
import { byId, make, say, tell } from "./dom.js";
import { pictureItem } from "./pictures.js";

let next = null;
let asked = 0;

async function load(isNew) {
  asked += 1;
  const mine = asked;
  const wanted = { limit: "24" };
  const text = byId("search-text").value.trim();
  if (text) wanted.q = text;
  if (byId("search-label").value) wanted.label = byId("search-label").value;
  if (byId("search-model").value) wanted.model = byId("search-model").value;
  if (!isNew && next !== null) wanted.before = String(next);
  try {
    const page = await api.search(wanted);
    if (mine !== asked) return;
    const items = page.pictures.map((picture) => pictureItem(picture).item);
    if (isNew) byId("pictures").replaceChildren();
    byId("pictures").append(...items);
    if (isNew && !items.length) {
      byId("pictures").append(say(make("li", { class: "hint wide" }), "nothing"));
    }
    next = page.next;
    byId("more").hidden = next === null;
  } catch (error) {
    tell(error.message, true);
  }
}

/** Shows the newest. */
export const refresh = () => load(true);

/** Shows the few newest where nothing has been asked for yet. */
export async function showLately() {
  try {
    const page = await api.search({ limit: "8" });
    const items = page.pictures.map((picture) => pictureItem(picture).item);
    if (!items.length) items.push(say(make("li", { class: "hint wide" }), "empty"));
    byId("lately").replaceChildren(...items);
  } catch (error) {
    if (error.status !== 403) tell(error.message, true); // a key may draw and not read
  }
}

/** The models that one can search by. */
export function showModels(models) {
  const select = byId("search-model");
  const chosen = select.value;
  select.replaceChildren(say(make("option", { value: "" }), "all"),
    ...models.map((one) => make("option", { value: one.name, textContent: one.name })));
  select.value = chosen;
  byId("search-label").hidden = !models.some((one) => one.num_classes);
}

/** Listens to the fields. */
export function start() {
  byId("search").addEventListener("submit", (event) => { event.preventDefault(); load(true); });
  let timer = 0;
  for (const field of ["search-text", "search-label"]) {
    byId(field).addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(refresh, 400);
    });
  }
  byId("search-model").addEventListener("change", refresh);
  byId("more").addEventListener("click", () => load(false));
}
