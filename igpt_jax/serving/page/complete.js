// Drawing a part of a picture anew.

import * as api from "./api.js";
import { readFields } from "./asked.js";
import * as brush from "./brush.js";
import { byId, onPicture, tell } from "./dom.js";
import { t } from "./i18n.js";
import { show } from "./jobs.js";

let picture = null;

/** Takes a picture to paint on. */
export async function open(blob) {
  try {
    await brush.open(blob);
    picture = blob;
    byId("canvas").focus();
  } catch {
    tell(t("badPicture"), true);
  }
}

async function send(model) {
  if (picture === null) throw new Error(t("noPicture"));
  const mask = await brush.maskFile();
  if (mask === null) throw new Error(t("noMask"));
  const asked = readFields(byId("complete-asked"), byId("complete-settings"));
  const job = await api.complete({ model: model.name, image: picture, mask, ...asked });
  show(byId("complete-jobs"), job, asked.prompt ?? t("completeTitle"));
}

/** Listens to the form; `model()` is the chosen one. */
export function start(model) {
  brush.start();
  onPicture(byId("complete-drop"), byId("complete-file"), open);
  byId("complete-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send(model()).catch((error) => tell(error.message, true));
  });
}
