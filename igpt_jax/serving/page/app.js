// The page: its parts, the chosen model, the language and the key.

import * as api from "./api.js";
import { readFields, showFields } from "./asked.js";
import * as classify from "./classify.js";
import * as complete from "./complete.js";
import { byId, make, tell } from "./dom.js";
import * as gallery from "./gallery.js";
import { onLanguage, otherLanguage, switchLanguage, t, translate } from "./i18n.js";
import { show } from "./jobs.js";
import { onAction } from "./pictures.js";

const PARTS = ["draw", "complete", "classify", "gallery"];
let known = { models: [], max_images: 1 };

const model = () => known.models.find((one) => one.name === byId("model").value)
  ?? known.models[0];

function open(part) {
  const shown = PARTS.includes(part) ? part : "draw";
  for (const name of PARTS) byId(name).hidden = name !== shown;
  for (const link of byId("tabs").children) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown === "gallery" && known.models.length) gallery.refresh();
}

function go(part) {
  if (location.hash === `#${part}`) open(part);
  else location.hash = part;
}

function fields() {
  if (!known.models.length) return;
  for (const name of ["draw", "complete"]) {
    showFields(byId(`${name}-asked`), byId(`${name}-settings`), model(), known.max_images);
  }
}

async function load() {
  try {
    known = await api.models();
    byId("model").replaceChildren(
      ...known.models.map((one) => make("option", { value: one.name, textContent: one.name })));
    tell("");
    fields();
    open(location.hash.slice(1));
  } catch (error) {
    tell(error.message, true);
  }
}

async function draw() {
  const asked = readFields(byId("draw-asked"), byId("draw-settings"));
  const job = await api.generate({ model: model().name, ...asked });
  tell(t("accepted"));
  const name = asked.label === undefined ? null : model().class_names[asked.label];
  const label = asked.label === undefined ? null : `${t("cls")} ${asked.label} ${name ?? ""}`;
  show(byId("draw-jobs"), job, asked.prompt ?? label ?? model().name);
}

function keyDialog() {
  const dialog = byId("key-dialog");
  if (!dialog.open) dialog.showModal();
}

function start() {
  translate();
  const button = byId("language");
  const label = () => { [button.textContent, button.lang] = otherLanguage(); };
  label();
  button.addEventListener("click", switchLanguage);
  onLanguage(() => { label(); fields(); });
  byId("model").addEventListener("change", fields);
  byId("draw-form").addEventListener("submit", (event) => {
    event.preventDefault();
    draw().catch((error) => tell(error.message, true));
  });
  byId("key-open").addEventListener("click", keyDialog);
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.setKey(byId("key").value);
    byId("key").value = "";
    byId("key-dialog").close();
    load();
  });
  api.onNoKey(keyDialog);
  onAction("again", (job, what) => { go("draw"); show(byId("draw-jobs"), job, what); });
  onAction("edit", (blob) => { go("complete"); complete.open(blob); });
  complete.start(model);
  classify.start(model);
  gallery.start();
  window.addEventListener("hashchange", () => open(location.hash.slice(1)));
  load();
}

start();
