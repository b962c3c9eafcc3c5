// The classes of a picture, by the model's own likelihoods.

import * as api from "./api.js";
import { byId, make, onPicture, say, setPicture, tell } from "./dom.js";
import { locale, t } from "./i18n.js";

function table(classes) {
  const share = new Intl.NumberFormat(locale(), { style: "percent", maximumFractionDigits: 1 });
  const heads = ["className", "probability", "nats"].map(
    (name) => say(make("th", { scope: "col" }), name));
  const rows = classes.map((one) => make("tr", {},
    make("td", {}, make("bdi", { textContent: `${one.label} ${one.class_name ?? ""}` })),
    make("td", { class: "share" }, make("progress", { max: 1, value: one.probability, "aria-hidden": "true" }),
      share.format(one.probability)),
    make("td", { textContent: one.log_likelihood.toFixed(1) })));
  return make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}

async function classify(blob, model) {
  const result = byId("classify-result");
  if (!model.num_classes) throw new Error(t("noClasses"));
  const image = make("img", { alt: t("picture"), class: "shown" });
  setPicture(image, URL.createObjectURL(blob));
  const answer = say(make("p"), "looking");
  result.replaceChildren(
    make("div", { class: "job" }, make("div", { class: "classified" }, image, answer)));
  try {
    const found = await api.classify({ image: blob, model: model.name });
    answer.replaceWith(table(found.classes));
  } catch (error) {
    result.replaceChildren();
    throw error;
  }
}

/** Listens to files; `model()` is the chosen one. */
export function start(model) {
  onPicture(byId("classify-drop"), byId("classify-file"), (blob) => {
    classify(blob, model()).catch((error) => tell(error.message, true));
  });
}
