// The page: its parts, the chosen model, the language and the key.

import * as api from "./api.js";
import { readFields, showFields } from "./asked.js";
import * as classify from "./classify.js";
import * as complete from "./complete.js";
import { byId, make, tell } from "./dom.js";
import * as gallery from "./gallery.js";
import { onLanguage, otherLanguage, switchLanguage, t, translate } from "./i18n.js";
import { restore, show } from "./jobs.js";
import * as pictures from "./pictures.js";

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
  document.title = `${t(shown)} · igpt_jax`;
  if (shown === "gallery" && known.models.length) gallery.refresh();
}

function go(part) {
  if (location.hash === `#${part}`) open(part);
  else location.hash = part;
}

function choose(name) {
  byId("model").value = name;
  fields();
}

/** Where the chosen model cannot do something: says so, and which can. */
function offer(part, form, can, text) {
  const others = known.models.filter(can);
  byId(form).hidden = !can(model());
  byId(`${part}-none`).hidden = can(model());
  byId(`${part}-none`).replaceChildren(t(text), " ", others.length ? t("tryModel") : "",
    make("br"), ...others.map((one) => make("button", {
      type: "button", textContent: one.name, onclick: () => choose(one.name),
    })));
}

function fields() {
  if (!known.models.length) return;
  const { max_images: most } = known;
  showFields(byId("draw-asked"), byId("draw-settings"), model(), most);
  const toComplete = { ...model(), attributes: {} }; // the API completes without them
  showFields(byId("complete-asked"), byId("complete-settings"), toComplete, most);
  offer("complete", "complete-form", (one) => one.completes, "noComplete");
  offer("classify", "classify-panel", (one) => one.num_classes > 0, "noClasses");
}

async function load() {
  try {
    known = await api.models();
    byId("model").replaceChildren(
      ...known.models.map((one) => make("option", { value: one.name, textContent: one.name })));
    tell("");
    fields();
    gallery.showModels(known.models);
    open(location.hash.slice(1));
    await Promise.all([gallery.showLately(), restore()]);
  } catch (error) {
    if (error.status !== 401) tell(error.message, true); // the dialog of the key asks for one
  }
}

async function draw() {
  const asked = readFields(byId("draw-asked"), byId("draw-settings"));
  const job = await api.generate({ model: model().name, ...asked });
  const name = model().class_names[asked.label] ?? "";
  const label = asked.label === undefined ? null : `${t("cls")} ${asked.label} ${name}`.trim();
  const attributes = Object.values(asked.attributes ?? {}).join(", ");
  show(byId("draw-jobs"), job, asked.prompt || label || attributes || model().name);
}

function keyDialog(isWrong = false) {
  const dialog = byId("key-dialog");
  byId("key-open").hidden = false;
  byId("key-wrong").textContent = isWrong ? t("wrongKey") : "";
  if (!dialog.open) dialog.showModal();
}

function startKey() {
  byId("key-open").hidden = !api.hasKey();
  byId("key-open").addEventListener("click", () => keyDialog());
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.setKey(byId("key").value);
    byId("key").value = "";
    byId("key-dialog").close();
    load();
  });
  api.onNoKey(keyDialog);
}

function startLanguage() {
  const button = byId("language");
  const label = () => { [button.textContent, button.lang] = otherLanguage(); };
  label();
  button.addEventListener("click", switchLanguage);
  onLanguage(() => { label(); fields(); open(location.hash.slice(1)); });
}

function edit(blob, picture) {
  const names = [picture.model, model().name, ...known.models.map((one) => one.name)];
  const able = names.find((name) => known.models.find((one) => one.name === name)?.completes);
  if (able) choose(able);
  go("complete");
  complete.open(blob);
}

function start() {
  translate();
  startLanguage();
  startKey();
  byId("model").addEventListener("change", fields);
  let isAsking = false;
  byId("draw-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (isAsking) return; // a double click
    isAsking = true;
    await draw().catch((error) => tell(error.message, true));
    isAsking = false;
  });
  pictures.onAction("again", (job, what) => { go("draw"); show(byId("draw-jobs"), job, what); });
  pictures.onAction("edit", edit);
  pictures.start();
  complete.start(model);
  classify.start(model);
  gallery.start();
  window.addEventListener("hashchange", () => open(location.hash.slice(1)));
  load();
}

start();
