// Jobs that are followed: pictures grow while their tokens are drawn.

import * as api from "./api.js";
import { byId, make, say, setPicture, tell } from "./dom.js";
import { locale, t } from "./i18n.js";
import { pictureItem } from "./pictures.js";

const kept = () => JSON.parse(sessionStorage.getItem("jobs") ?? "[]");
const keep = (jobs) => sessionStorage.setItem("jobs", JSON.stringify(jobs));
const forget = (id) => keep(kept().filter((one) => one.id !== id));

/** Shows again what was not done when the page was left. */
export async function restore() {
  for (const { id, area, what } of kept()) {
    try {
      show(byId(area), await api.job(id), what);
    } catch {
      forget(id);
    }
  }
}

function growingItem(list, i) {
  const image = make("img", { alt: `${t("picture")} ${i + 1}`, class: "shown", hidden: true });
  list.append(make("li", { class: "growing" }, image));
  return image;
}

/** Shows a job at the top of an area and follows it. */
export async function show(area, job, what) {
  forget(job.id);
  keep([...kept(), { id: job.id, area: area.id, what }]);
  const share = new Intl.NumberFormat(locale(), { style: "percent" });
  const state = say(make("span"), job.state);
  const much = make("span");
  const bar = make("progress", { max: job.total, value: 0, "aria-label": t("running") });
  const stop = say(make("button", { type: "button", onclick: async () => {
    stop.disabled = true;
    await api.cancel(job.id).catch((error) => { stop.disabled = false; tell(error.message, true); });
  } }), "stop");
  const list = make("ul", { class: "pictures" });
  const growing = Array.from({ length: job.n }, (_, i) => growingItem(list, i));
  const head = make("div", { class: "job-head" }, make("bdi", { class: "what", textContent: what }),
    make("span", { class: "state" }, state, " ", much), stop);
  const card = make("article", { class: "job" }, head, bar, list);
  area.prepend(card);
  if (card.getBoundingClientRect().top > innerHeight - 120) card.scrollIntoView(); // on a phone
  const fail = (text) => {
    delete state.dataset.t;
    state.textContent = text;
    head.querySelector(".state").classList.add("bad");
  };
  const take = async (kind, data) => {
    if (kind === "progress") {
      say(state, data.state);
      if (data.tokens) much.textContent = share.format(data.tokens / data.total);
      bar.value = data.tokens;
    } else if (kind === "preview") {
      setPicture(growing[data.index], data.image);
      growing[data.index].hidden = false;
    } else if (kind === "end") {
      forget(job.id);
      stop.remove();
      bar.remove();
      much.textContent = "";
      say(state, data.state);
      if (data.state !== "done") fail([t(data.state), data.reason].filter(Boolean).join(": "));
      const made = data.pictures.map((picture) => pictureItem(picture, false));
      await Promise.all(made.map(({ loaded }) => loaded));
      list.replaceChildren(...made.map(({ item }) => item));
      card.dataset.state = data.state;
    }
  };
  try {
    await api.follow(job.id, take, () => { say(state, "retrying"); much.textContent = ""; });
  } catch (error) {
    fail(error.message);
    stop.remove();
  }
}
