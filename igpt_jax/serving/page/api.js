// The server's API. The key stays in this tab.

import { t } from "./i18n.js";

let key = sessionStorage.getItem("key") ?? "";
let whenNoKey = () => {};

/** Whether there is a key to send. */
export const hasKey = () => key !== "";

/** Is called with whether a key was sent when the server wants another. */
export const onNoKey = (listener) => { whenNoKey = listener; };

export function setKey(value) {
  key = value.trim();
  sessionStorage.setItem("key", key);
}

async function send(path, options = {}) {
  const headers = { ...(key ? { authorization: `Bearer ${key}` } : {}), ...options.headers };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(t("lost"));
  }
  if (answer.ok) return answer;
  if (answer.status === 401) whenNoKey(key !== "");
  const error = new Error(await problem(answer));
  error.status = answer.status;
  throw error;
}

async function problem(answer) {
  if (answer.status === 429) return t("busy").replace("{}", answer.headers.get("retry-after") ?? "5");
  const found = await answer.json().catch(() => null);
  const detail = found?.detail;
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) {
    return detail.map((one) => `${one.loc.slice(1).join(".")}: ${one.msg}`).join("; ");
  }
  return `${answer.status} ${answer.statusText}`;
}

const json = async (path, options) => (await send(path, options)).json();

const post = (path, body) => json(path, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

function form(path, fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== null && value !== undefined && value !== "") body.append(name, value);
  }
  return json(path, { method: "POST", body });
}

export const models = () => json("/v1/models");
export const generate = (asked) => post("/v1/generate", asked);
export const complete = (fields) => form("/v1/complete", fields);
export const classify = (fields) => form("/v1/classify", fields);
export const job = (id) => json(`/v1/jobs/${id}`);
export const cancel = (job) => json(`/v1/jobs/${job}`, { method: "DELETE" });
export const again = (picture) => post(`/v1/pictures/${picture}/again`, {});
export const remove = (picture) => send(`/v1/pictures/${picture}`, { method: "DELETE" });
export const search = (wanted) => json(`/v1/pictures?${new URLSearchParams(wanted)}`);

/** A picture's bytes: an <img> cannot send the key. */
export const file = async (picture, format = "png") =>
  (await send(`/v1/pictures/${picture}/file?format=${format}`)).blob();

/** Calls `take(kind, data)` for each event of a job until it ends; connects again if need be. */
export async function follow(job, take, whenLost = () => {}) {
  for (let tries = 0; tries < 30; tries += 1) {
    try {
      const answer = await send(`/v1/jobs/${job}/events`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const lines = part.split("\n");
          const kind = lines.find((line) => line.startsWith("event: "))?.slice(7);
          const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
          if (!data) continue;
          take(kind, JSON.parse(data));
          if (kind === "end") return;
        }
      }
    } catch (error) {
      const isRefused = error.status >= 400 && error.status < 500 && error.status !== 429;
      if (isRefused || tries === 29) throw error;
      whenLost();
    }
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
  }
}
