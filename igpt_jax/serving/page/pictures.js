// Pictures in lists, and the dialog with their details.

import * as api from "./api.js";
import { byId, make, tell } from "./dom.js";
import { locale, t } from "./i18n.js";

const actions = { again: () => {}, edit: () => {} };

/** What the dialog's buttons do elsewhere on the page. */
export const onAction = (name, action) => { actions[name] = action; };

const title = (picture) => picture.prompt || picture.class_name
  || (picture.label === null ? t("picture") : `${t("cls")} ${picture.label}`);

async function load(image, picture) {
  try {
    const url = URL.createObjectURL(await api.file(picture.id));
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch (error) {
    tell(error.message, true);
  }
}

/** A list's item of a picture, which opens its details. */
export async function pictureItem(picture) {
  const image = make("img", { alt: title(picture) });
  const caption = make("bdi", { class: "caption", textContent: title(picture) });
  const button = make("button", { type: "button", onclick: () => details(picture, item) },
    image, caption);
  const item = make("li", {}, button);
  await load(image, picture);
  return item;
}

function rows(picture) {
  const { settings } = picture;
  const shown = [
    [t("prompt"), picture.prompt], [t("negative"), settings.negative_prompt],
    [t("cls"), picture.class_name ? `${picture.label} ${picture.class_name}` : picture.label],
    [t("attributes"), settings.attributes && JSON.stringify(settings.attributes)],
    [t("model"), picture.model], [t("seed"), picture.seed], [t("index"), picture.index],
    ...["temperature", "cfg_scale", "top_k", "top_p", "keep", "vary"].map(
      (name) => [t(name), settings[name]]),
    [t("size"), `${picture.width} × ${picture.height}`],
    [t("created"), new Date(picture.created * 1000).toLocaleString(locale())],
  ];
  return shown.filter(([, value]) => value !== null && value !== undefined).flatMap(
    ([name, value]) => [
      make("dt", { textContent: name }),
      make("dd", {}, make("bdi", { textContent: String(value) })),
    ]);
}

async function download(picture, format) {
  const url = URL.createObjectURL(await api.file(picture.id, format));
  make("a", { href: url, download: `${picture.id}.${format}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function details(picture, item) {
  const dialog = byId("details");
  const image = make("img", { alt: title(picture), class: "shown" });
  const act = (name, action, extra = {}) => make("button", {
    type: "button", textContent: t(name), ...extra,
    onclick: () => Promise.resolve(action()).catch((error) => tell(error.message, true)),
  });
  const buttons = make("div", { class: "actions" },
    act("again", async () => {
      const job = await api.again(picture.id);
      dialog.close();
      actions.again(job, title(picture));
    }, { class: "main" }),
    act("edit", async () => {
      const blob = await api.file(picture.id);
      dialog.close();
      actions.edit(blob);
    }),
    act("downloadPng", () => download(picture, "png")),
    act("downloadWebp", () => download(picture, "webp")),
    act("remove", async () => {
      if (!window.confirm(t("removeSure"))) return;
      await api.remove(picture.id);
      dialog.close();
      item.remove();
      tell(t("deleted"));
    }));
  byId("details-body").replaceChildren(image, make("div", {}, make("dl", {}, ...rows(picture)), buttons));
  dialog.showModal();
  await load(image, picture);
}
