// The fields of a request, made of what the chosen model takes.

import { make, say } from "./dom.js";
import { locale, t } from "./i18n.js";

const SETTINGS = [
  ["n", { min: 1, step: 1 }], ["seed", { min: 0, max: 4294967295, step: 1 }],
  ["temperature", { min: 0, max: 100, step: "any" }],
  ["cfg_scale", { min: -100, max: 100, step: "any" }],
  ["top_k", { min: 0, max: 1000000, step: 1 }], ["top_p", { min: 0, max: 1, step: "any" }],
];

const field = (name, control, kind) =>
  make("label", { class: kind }, say(make("span"), name), control);

/** Fills two elements with fields; `old` values are kept. */
export function showFields(asked, settings, model, maxImages) {
  const old = readFields(asked, settings);
  asked.replaceChildren();
  settings.replaceChildren();
  if (model.takes_text) {
    const { prompt = "", negative_prompt: away = "" } = old;
    asked.append(field("prompt", make("textarea", {
      name: "prompt", maxLength: 2000, dir: "auto", placeholder: t("promptHint"), value: prompt,
      onkeydown: sendOnEnter,
    }), "wide"));
    if (model.is_guidable) {
      settings.append(field("negative", make("input", {
        name: "negative_prompt", maxLength: 2000, dir: "auto", value: away,
      }), "wide"));
    }
  }
  if (model.num_classes) asked.append(field("cls", classes(model, old.label)));
  for (const [name, values] of Object.entries(model.attributes)) {
    const select = make("select", { name: `attributes.${name}` },
      make("option", { value: "", textContent: t("any") }),
      ...values.map((value) => make("option", { value, textContent: value })));
    if (old.attributes?.[name]) select.value = old.attributes[name];
    asked.append(make("label", {}, make("span", { textContent: name }), select));
  }
  for (const [name, limits] of SETTINGS) {
    if (name === "cfg_scale" && !model.is_guidable) continue;
    const input = make("input", { type: "number", name, ...limits, inputMode: "decimal" });
    if (name === "n") {
      Object.assign(input, { max: maxImages, required: true, inputMode: "numeric" });
      input.value = old.n ?? Math.min(4, maxImages);
    } else {
      input.value = old[name] ?? "";
      input.placeholder = name === "seed" ? t("seedHint")
        : new Intl.NumberFormat(locale()).format(model.defaults[name] ?? 0);
    }
    (name === "n" ? asked : settings).append(field(name, input));
  }
}

function sendOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Chinese is composed
  event.preventDefault();
  event.target.form.requestSubmit();
}

function classes(model, old) {
  const name = (i) => (model.class_names[i] ? `${i} ${model.class_names[i]}` : String(i));
  const numbers = Array.from({ length: model.num_classes }, (_, i) => i);
  const select = make("select", { name: "label" },
    model.is_guidable ? make("option", { value: "", textContent: t("any") }) : null,
    ...numbers.map((i) => make("option", { value: String(i), textContent: name(i) })));
  if (old !== undefined) select.value = String(old);
  return select;
}

/** What the fields say; what is empty is left out. */
export function readFields(...areas) {
  const found = {};
  for (const area of areas) {
    for (const control of area.querySelectorAll("[name]")) {
      const value = control.value.trim();
      if (value === "") continue;
      if (control.name.startsWith("attributes.")) {
        found.attributes = { ...found.attributes, [control.name.slice(11)]: value };
      } else {
        const isNumber = control.type === "number" || control.name === "label";
        found[control.name] = isNumber ? Number(value) : value;
      }
    }
  }
  return found;
}
