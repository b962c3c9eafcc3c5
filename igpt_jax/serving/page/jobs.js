// Jobs that are followed: pictures grow while their tokens are drawn.

import * as api from "./api.js";
import { make, tell } from "./dom.js";
import { t } from "./i18n.js";
import { pictureItem } from "./pictures.js";

/** Shows a job at the top of an area and follows it. */
export async function show(area, job, what) {
  const state = make("span", { textContent: t(job.state) });
  const bar = make("progress", { max: job.total, value: 0, "aria-label": t("running") });
  const stop = make("button", { type: "button", textContent: t("stop"), onclick: async () => {
    stop.disabled = true;
    await api.cancel(job.id).catch((error) => tell(error.message, true));
  } });
  const list = make("ul", { class: "pictures" });
  const growing = Array.from({ length: job.n }, (_, i) => {
    const image = make("img", { alt: `${t("picture")} ${i + 1}`, class: "shown" });
    image.hidden = true;
    list.append(make("li", { class: "growing" }, image));
    return image;
  });
  const head = make("div", { class: "job-head" },
    make("bdi", { class: "what", textContent: what }), state, stop);
  const card = make("article", { class: "job" }, head, bar, list);
  area.prepend(card);
  const take = async (kind, data) => {
    if (kind === "progress") {
      state.textContent = t(data.state);
      bar.value = data.tokens;
    } else if (kind === "preview") {
      growing[data.index].src = data.image;
      growing[data.index].hidden = false;
    } else if (kind === "end") {
      stop.remove();
      bar.remove();
      state.textContent = data.reason ? `${t(data.state)}: ${data.reason}` : t(data.state);
      state.classList.toggle("bad", data.state !== "done");
      const items = await Promise.all(data.pictures.map(pictureItem));
      list.replaceChildren(...items);
      card.dataset.state = data.state;
    }
  };
  try {
    await api.follow(job.id, take);
  } catch (error) {
    state.textContent = error.message;
    state.classList.add("bad");
  }
}
