// English and Chinese.

const TEXTS = {
  en: {
    skip: "To the content", parts: "Parts of the page", draw: "Draw", complete: "Complete",
    classify: "Classify", gallery: "Gallery", model: "Model", key: "Key",
    drawTitle: "What shall be drawn?", settings: "Settings", drawIt: "Draw",
    completeTitle: "Draw a part anew", completeIt: "Complete",
    completeHint: "Choose a picture and paint over what is to be drawn anew.",
    choosePicture: "Choose a picture, or drop one here", canvas: "Picture to paint on",
    brushSize: "Brush", undo: "Undo", clear: "Clear",
    brushKeys: "Keyboard: arrows move, space paints, + and − change the brush.",
    classifyTitle: "What class is a picture of?",
    dropPicture: "Drop a picture here, or choose one",
    galleryTitle: "What was made", searchHint: "Words of the prompt or class", search: "Search",
    more: "More", close: "Close", keyTitle: "API key",
    keyHint: "It stays in this tab alone.", save: "Save", cancel: "Cancel",
    prompt: "Prompt", promptHint: "What the pictures show", negative: "Not wanted",
    cls: "Class", any: "any", n: "Pictures", seed: "Seed", seedHint: "drawn",
    temperature: "Temperature", cfg_scale: "Guidance", top_k: "Top-k", top_p: "Top-p",
    queued: "waiting", running: "drawing", done: "done", failed: "failed", late: "too late",
    cancelled: "cancelled", stop: "Stop", again: "Again, with another seed",
    edit: "Draw a part anew", remove: "Delete", removeSure: "Delete this picture for good?",
    nothing: "Nothing was found.", noClasses: "This model has no classes.",
    noComplete: "This model cannot complete pictures.", noMask: "Paint over a part first.",
    noPicture: "Choose a picture first.", badPicture: "Expected a PNG, JPEG or WebP picture.", lost: "The server does not answer.",
    className: "Class", probability: "Probability", nats: "Log-likelihood (nats)",
    created: "Made", size: "Size", looking: "Looking…", completed: "a part drawn anew", picture: "picture",
    downloadPng: "PNG", downloadWebp: "WebP", deleted: "Deleted.",
    index: "Number", attributes: "Attributes",
    before: "Newer picture", after: "Older picture", lately: "Made lately", all: "all models",
    appear: "The pictures appear here.", classesAppear: "The classes appear here.",
    empty: "Nothing yet. Say what shall be drawn.", busy: "Too much waits. Try again in {} s.",
    retrying: "connecting again…", wrongKey: "The server does not know this key.",
    tryModel: "This one can:",
  },
  zh: {
    skip: "跳到内容", parts: "页面各部分", draw: "绘制", complete: "补全",
    classify: "分类", gallery: "图库", model: "模型", key: "密钥",
    drawTitle: "想画什么？", settings: "设置", drawIt: "绘制",
    completeTitle: "重画一部分", completeIt: "补全",
    completeHint: "选择一张图片，把要重画的部分涂上。",
    choosePicture: "选择图片，或拖到这里", canvas: "可涂抹的图片",
    brushSize: "画笔", undo: "撤销", clear: "清除",
    brushKeys: "键盘：方向键移动，空格涂抹，+ 和 − 改变画笔大小。",
    classifyTitle: "这张图片属于哪一类？",
    dropPicture: "把图片拖到这里，或选择一张",
    galleryTitle: "已生成的图片", searchHint: "提示词或类别中的文字", search: "搜索",
    more: "更多", close: "关闭", keyTitle: "API 密钥",
    keyHint: "只保存在这个标签页里。", save: "保存", cancel: "取消",
    prompt: "提示词", promptHint: "图片要画什么", negative: "不想要的",
    cls: "类别", any: "任意", n: "张数", seed: "种子", seedHint: "随机",
    temperature: "温度", cfg_scale: "引导强度", top_k: "Top-k", top_p: "Top-p",
    queued: "等待中", running: "绘制中", done: "完成", failed: "失败", late: "超时",
    cancelled: "已取消", stop: "停止", again: "换一个种子再画",
    edit: "重画一部分", remove: "删除", removeSure: "永久删除这张图片？",
    nothing: "没有找到。", noClasses: "这个模型没有类别。",
    noComplete: "这个模型不能补全图片。", noMask: "请先涂抹一部分。",
    noPicture: "请先选择图片。", badPicture: "需要 PNG、JPEG 或 WebP 图片。", lost: "服务器没有应答。",
    className: "类别", probability: "概率", nats: "对数似然（nat）",
    created: "生成时间", size: "尺寸", looking: "正在查看……", completed: "重画过一部分", picture: "图片",
    downloadPng: "PNG", downloadWebp: "WebP", deleted: "已删除。",
    index: "序号", attributes: "属性",
    before: "较新的图片", after: "较早的图片", lately: "最近生成", all: "所有模型",
    appear: "图片会出现在这里。", classesAppear: "类别会出现在这里。",
    empty: "还没有图片。说说想画什么。", busy: "等待的请求太多，请 {} 秒后再试。",
    retrying: "正在重新连接……", wrongKey: "服务器不认识这个密钥。",
    tryModel: "可以改用：",
  },
};

const listeners = [];
let language = localStorage.getItem("language")
  ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!(language in TEXTS)) language = "en";

/** A text in the chosen language. */
export const t = (name) => TEXTS[language][name] ?? name;

/** The language for dates and numbers. */
export const locale = () => (language === "zh" ? "zh-CN" : "en");

/** Is called when the language changes. */
export const onLanguage = (listener) => listeners.push(listener);

/** Writes all fixed texts of the page. */
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-t]")) {
    element.textContent = t(element.dataset.t);
  }
  for (const element of document.querySelectorAll("[data-t-placeholder]")) {
    element.placeholder = t(element.dataset.tPlaceholder);
  }
  for (const element of document.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  }
}

/** Takes the other language. */
export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  translate();
  for (const listener of listeners) listener();
}

/** What the other language is called, and its code. */
export const otherLanguage = () => (language === "zh" ? ["English", "en"] : ["中文", "zh"]);
