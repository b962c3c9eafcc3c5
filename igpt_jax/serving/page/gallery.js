// What was made, found by words, page by page.

import * as api from "./api.js";
import { byId, make, tell } from "./dom.js";
import { t } from "./i18n.js";
import { pictureItem } from "./pictures.js";

let next = null;
let asked = 0;

async function load(isNew) {
  asked += 1;
  const mine = asked;
  const wanted = { limit: "24" };
  const text = byId("search-text").value.trim();
  if (text) wanted.q = text;
  if (!isNew && next !== null) wanted.before = String(next);
  try {
    const page = await api.search(wanted);
    const items = await Promise.all(page.pictures.map(pictureItem));
    if (mine !== asked) return;
    if (isNew) byId("pictures").replaceChildren();
    byId("pictures").append(...items);
    if (isNew && !items.length) {
      byId("pictures").append(make("li", { class: "hint", textContent: t("nothing") }));
    }
    next = page.next;
    byId("more").hidden = next === null;
  } catch (error) {
    tell(error.message, true);
  }
}

/** Shows the newest. */
export const refresh = () => load(true);

/** Listens to the fields. */
export function start() {
  byId("search").addEventListener("submit", (event) => { event.preventDefault(); load(true); });
  byId("more").addEventListener("click", () => load(false));
}
