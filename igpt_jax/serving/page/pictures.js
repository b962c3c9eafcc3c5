// Pictures in lists, and the dialog with their details.

import * as api from "./api.js";
import { byId, make, say, setPicture, tell } from "./dom.js";
import { locale, t } from "./i18n.js";

const actions = { again: () => {}, edit: () => {} };
let shown = null; // the list's item whose details are open

/** What the dialog's buttons do elsewhere on the page. */
export const onAction = (name, action) => { actions[name] = action; };

function title(picture) {
  if (picture.prompt || picture.class_name) return picture.prompt || picture.class_name;
  if (picture.label !== null) return `${t("cls")} ${picture.label}`;
  const attributes = Object.values(picture.settings.attributes ?? {}).join(", ");
  return attributes || t(picture.settings.completes ? "completed" : "picture");
}

async function load(image, picture) {
  try {
    setPicture(image, URL.createObjectURL(await api.file(picture.id)));
    await image.decode();
  } catch (error) {
    tell(error.message, true);
  }
}

/** A list's item of a picture, which opens its details; and a promise that it is loaded. */
export function pictureItem(picture, hasCaption = true) {
  const image = make("img", { alt: title(picture) });
  const caption = hasCaption
    ? make("span", { class: "caption" }, make("bdi", { textContent: title(picture) })) : null;
  const button = make("button", { type: "button", onclick: () => details(picture, item) },
    image, caption);
  const item = make("li", {}, button);
  return { item, loaded: load(image, picture) };
}

function rows(picture) {
  const { settings } = picture;
  const number = new Intl.NumberFormat(locale());
  const date = new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" });
  const values = [
    ["negative", settings.negative_prompt],
    ["cls", picture.class_name ? `${picture.label} ${picture.class_name}` : picture.label],
    ["attributes", settings.attributes && Object.values(settings.attributes).join(", ")],
    ["model", picture.model], ["seed", picture.seed], ["index", picture.index],
    ...["temperature", "cfg_scale", "top_k", "top_p", "keep", "vary"].map((name) => [name,
      typeof settings[name] === "number" ? number.format(settings[name]) : settings[name]]),
    ["size", `${picture.width} × ${picture.height}`],
    ["created", date.format(new Date(picture.created * 1000))],
  ];
  return values.filter(([, value]) => value !== null && value !== undefined).flatMap(
    ([name, value]) => [
      make("dt", { textContent: t(name) }),
      make("dd", {}, make("bdi", { textContent: String(value) })),
    ]);
}

async function download(picture, format) {
  const url = URL.createObjectURL(await api.file(picture.id, format));
  make("a", { href: url, download: `${picture.id}.${format}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function buttons(picture, item) {
  const dialog = byId("details");
  const act = (name, action, kind) => say(make("button", {
    type: "button", class: kind,
    onclick: () => Promise.resolve(action()).catch((error) => tell(error.message, true)),
  }), name);
  return make("div", { class: "actions" },
    act("again", async () => {
      const job = await api.again(picture.id);
      dialog.close();
      actions.again(job, title(picture));
    }, "main"),
    act("edit", async () => {
      const blob = await api.file(picture.id);
      dialog.close();
      actions.edit(blob, picture);
    }),
    act("downloadPng", () => download(picture, "png")),
    act("downloadWebp", () => download(picture, "webp")),
    act("remove", async () => {
      if (!window.confirm(t("removeSure"))) return;
      await api.remove(picture.id);
      dialog.close();
      item.remove();
      tell(t("deleted"));
    }, "away"));
}

function details(picture, item) {
  shown = item;
  const dialog = byId("details");
  const image = make("img", { alt: title(picture), class: "shown" });
  byId("details-title").replaceChildren(make("bdi", { textContent: title(picture) }));
  byId("details-body").replaceChildren(
    image, make("div", {}, make("dl", {}, ...rows(picture)), buttons(picture, item)));
  byId("details-before").disabled = !item.previousElementSibling;
  byId("details-after").disabled = !item.nextElementSibling;
  if (!dialog.open) dialog.showModal();
  load(image, picture);
}

const step = (name) => shown?.[`${name}ElementSibling`]?.querySelector("button")?.click();

/** Listens to the dialog's keys and buttons. */
export function start() {
  const dialog = byId("details");
  byId("details-before").addEventListener("click", () => step("previous"));
  byId("details-after").addEventListener("click", () => step("next"));
  byId("details-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step("previous");
    if (event.key === "ArrowRight") step("next");
  });
}
